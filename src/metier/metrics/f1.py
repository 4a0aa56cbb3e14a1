"""F1: the harmonic mean of precision and recall, over classes or over all decisions.

`macro` averages over the classes that occur (as truth or as answer), `weighted` by their number of rows, `micro` counts
all decisions together. An answer that names no known label misses its true class and accuses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from metier.core import catalog
from metier.metrics import Array, Prediction, labels_of, ratio

summary = "Harmonic mean of precision and recall, averaged over classes (macro), rows (weighted) or decisions (micro)."
label = "F1 ({average})"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ("single_label", "multi_label")
answers = ("label", "labels", "text")
primary = ("multi_label",)
rank = 10


class Options(catalog.Options):
    """How classes are averaged."""

    average: Literal["macro", "micro", "weighted"] = Field(
        "macro", description="`macro`: every class counts the same; `weighted`: by its rows; `micro`: every decision."
    )


def class_names(predictions: Sequence[Prediction]) -> list[str]:
    """Return the classes in order: those that were offered, then any that occur, sorted."""
    offered = next((list(p.label_probs) for p in predictions if p.label_probs), [])
    occur: set[str] = set()
    for p in predictions:
        if not isinstance(p.reference, float):
            occur |= labels_of(p.reference) | labels_of(p.output)
    return offered + sorted(occur - set(offered))


def applies(prediction: Prediction) -> bool:
    """Return whether the row was answered; no label right and none given is an answer too."""
    return prediction.output is not None and not isinstance(prediction.reference, float)


def statistics(predictions: Sequence[Prediction], options: catalog.Options) -> Array:
    """Return (N, 3K): true positives, false positives and false negatives per class; rows without answer are 0."""
    position = {name: k for k, name in enumerate(class_names(predictions))}
    counts = np.zeros((len(predictions), 3, max(len(position), 1)))
    for row, p in enumerate(predictions):
        if not applies(p):
            continue
        truth, answer = labels_of(p.reference), labels_of(p.output)
        for name in truth | answer:
            kind = 0 if name in truth and name in answer else 1 if name in answer else 2
            counts[row, kind, position[name]] = 1.0
    return counts.reshape(len(predictions), -1)


def figure(sums: Array, options: Options) -> Array:
    """Return F1 from the summed counts."""
    return average(sums, options.average, lambda tp, fp, fn: (2 * tp, 2 * tp + fp + fn))


def average(sums: Array, how: str, parts: Any) -> Array:
    """Average a per-class ratio over classes. `parts(tp, fp, fn)` gives its numerator and denominator.

    A class that occurs but whose ratio is 0/0 (never answered, for precision) counts as 0, as in scikit-learn.
    """
    counts = sums.reshape(*sums.shape[:-1], 3, -1)
    tp, fp, fn = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    occurs = (tp + fp + fn > 0).astype(np.float64)
    if how == "micro":
        total: Array = ratio(*parts(tp.sum(-1), fp.sum(-1), fn.sum(-1)))
        return np.where(np.isnan(total) & (occurs.sum(-1) > 0), 0.0, total)
    per_class = np.nan_to_num(ratio(*parts(tp, fp, fn)))
    weight = tp + fn if how == "weighted" else occurs
    return ratio((per_class * weight).sum(-1), weight.sum(-1))


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "a", "output": "a"},
        {"id": "2", "reference": "a", "output": "b"},
        {"id": "3", "reference": "b", "output": "b"},
        {"id": "4", "reference": "c", "output": ""},
    ],
    "value": (2 / 3 + 2 / 3 + 0.0) / 3,
}
