"""Perplexity: exp of the mean negative log-likelihood per token of the reference.

Only comparable between models with one tokenizer; `bits_per_byte` is comparable between all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from metier.core import catalog
from metier.metrics import Array, Prediction, ratio

summary = "How surprised the model is by the reference: exp of the mean negative log-likelihood per token."
label = "Perplexity"
higher_is_better = False
range = (1.0, math.inf)
unit = ""
tasks = ("chat", "summarize", "translate", "extract", "generate", "continue")
answers = ("likelihood",)
rank = 21


class Options(catalog.Options):
    """Perplexity has no options."""


def applies(prediction: Prediction) -> bool:
    """Return whether the row has a likelihood."""
    return prediction.nll is not None


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return (N, 2): nats and tokens."""
    rows = [(p.nll, p.num_tokens) if p.nll is not None else (0.0, 0) for p in predictions]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def figure(sums: Array, options: Options) -> Array:
    """Return exp(nats / tokens)."""
    return np.exp(ratio(sums[..., 0], sums[..., 1]))


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "nll": math.log(4) * 3, "num_tokens": 3, "num_bytes": 9},
        {"id": "2", "nll": math.log(4) * 1, "num_tokens": 1, "num_bytes": 2},
        {"id": "3"},
    ],
    "value": 4.0,
}
