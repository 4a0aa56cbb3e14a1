"""Bits per byte: the model's code length of the reference, per byte of its UTF-8 text.

Comparable between models with different tokenizers, unlike perplexity. The token that ends a turn is part of the code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from metier.core import catalog
from metier.metrics import Array, Prediction, ratio

summary = "How many bits the model needs per byte of the reference text; comparable between tokenizers."
label = "Bits per byte"
higher_is_better = False
range = (0.0, math.inf)
unit = "bits/byte"
tasks = ("chat", "summarize", "translate", "extract", "generate", "continue")
answers = ("likelihood",)
primary = ("chat", "continue")
rank = 20


class Options(catalog.Options):
    """Bits per byte has no options."""


def applies(prediction: Prediction) -> bool:
    """Return whether the row has a likelihood."""
    return prediction.nll is not None


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return (N, 2): nats and bytes."""
    rows = [(p.nll, p.num_bytes) if p.nll is not None else (0.0, 0) for p in predictions]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def figure(sums: Array, options: Options) -> Array:
    """Return nats / (ln 2 · bytes)."""
    return ratio(sums[..., 0], sums[..., 1]) / math.log(2)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "nll": math.log(2) * 12, "num_tokens": 3, "num_bytes": 4},
        {"id": "2", "nll": math.log(2) * 2, "num_tokens": 1, "num_bytes": 3},
        {"id": "3"},
    ],
    "value": 2.0,
}
