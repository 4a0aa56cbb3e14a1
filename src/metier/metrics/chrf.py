"""chrF over the whole set (Popović 2015): F₂ of character n-grams for n = 1…6, white space aside. 0…100.

Equal to `sacrebleu.corpus_chrf` with one reference; works in every script, needs no tokeniser. Left out: chrF++.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from metier.core import catalog
from metier.metrics import Array, Prediction, ratio

summary = "Corpus chrF: shared character sequences of answer and reference, any script, 0…100."
label = "chrF"
higher_is_better = True
range = (0.0, 100.0)
unit = "points"
tasks = ("chat", "summarize", "translate")
answers = ("text",)
primary = ("translate",)
rank = 15
ORDERS = (1, 2, 3, 4, 5, 6)
BETA = 2.0


class Options(catalog.Options):
    """The metric chrF has no options."""


def applies(prediction: Prediction) -> bool:
    """Return whether the row was answered in words."""
    return isinstance(prediction.output, str) and isinstance(prediction.reference, str)


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return (N, 18): n-grams of the answer, of the reference and common to both, for n = 1…6."""
    found = np.zeros((len(predictions), 3, len(ORDERS)))
    for row, p in enumerate(predictions):
        if not applies(p):
            continue
        said, right = ("".join(str(text).split()) for text in (p.output, p.reference))
        for k, n in enumerate(ORDERS):
            ours, theirs = _grams(said, n), _grams(right, n)
            # As in sacrebleu: an order for which the reference is too short does not count against the answer.
            found[row, :, k] = (ours.total() if theirs else 0, theirs.total(), (ours & theirs).total())
    return found.reshape(len(predictions), -1)


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(map("".join, zip(*(text[k:] for k, _ in enumerate(ORDERS[:n])), strict=False)))


def figure(sums: Array, options: Options) -> Array:
    """Return 100 · F₂ of the mean precision and recall over the orders that occur; NaN without any reference."""
    counts = sums.reshape(*sums.shape[:-1], 3, len(ORDERS))
    said, right, both = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    occurs = ((said > 0) & (right > 0)).astype(np.float64)
    orders = np.maximum(occurs.sum(-1), 1.0)
    precision = (np.nan_to_num(ratio(both, said)) * occurs).sum(-1) / orders
    recall = (np.nan_to_num(ratio(both, right)) * occurs).sum(-1) / orders
    value = np.nan_to_num(ratio((1 + BETA**2) * precision * recall, BETA**2 * precision + recall))
    return np.where(right.sum(-1) > 0, 100 * value, np.nan)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "ab", "output": "ab"},
        {"id": "2", "reference": "xyz", "output": None},
    ],
    "value": 100.0,
}
