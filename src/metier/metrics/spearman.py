"""Spearman's rank correlation between predicted and true numbers: the Pearson correlation of their ranks.

Ties get their mean rank. The ranks are taken once, over all rows; a resample of the bootstrap keeps them, which leaves
the figure exact and makes its interval a close approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metier.core import catalog
from metier.metrics import Array, Prediction

summary = "Rank correlation of predicted and true numbers: 1 is the same order, 0 none."
label = "Spearman correlation"
higher_is_better = True
range = (-1.0, 1.0)
unit = ""
tasks = ("regression",)
answers = ("number",)
rank = 11


class Options(catalog.Options):
    """The correlation has no options."""


def applies(prediction: Prediction) -> bool:
    """Return whether both are numbers."""
    return isinstance(prediction.output, float) and isinstance(prediction.reference, float)


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return (N, 6): 1, x, y, x², y², xy of the centred ranks; rows without a number are 0."""
    found = np.zeros((len(predictions), 6))
    rows = [k for k, p in enumerate(predictions) if applies(p)]
    if rows:
        x, y = (_ranks([getattr(predictions[k], side) for k in rows]) for side in ("output", "reference"))
        found[rows] = np.stack([np.ones(len(rows)), x, y, x * x, y * y, x * y], axis=1)
    return found


def _ranks(values: list[float]) -> Array:
    """Return the ranks, ties at their mean, scaled to the range -½…½ so that sums of squares stay exact."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    ranks: Array = mean_rank[place] / len(values) - 0.5
    return ranks


def figure(sums: Array, options: Options) -> Array:
    """Return the correlation; NaN when one side never varies."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    varies = (spread_x > 1e-12) & (spread_y > 1e-12)
    value = (n * xy - x * y) / np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, np.clip(value, -1.0, 1.0), np.nan)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": 1.0, "output": 10.0},
        {"id": "2", "reference": 2.0, "output": 30.0},
        {"id": "3", "reference": 3.0, "output": 20.0},
    ],
    "value": 0.5,
}
