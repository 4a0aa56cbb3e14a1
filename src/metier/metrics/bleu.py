"""BLEU over the whole set (Papineni et al. 2002), with sacrebleu's counts, 13a tokens and exponential smoothing.

Equal to `sacrebleu.corpus_bleu` with one reference. 0…100. Left out: other tokenisers, several references.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from metier.core import catalog
from metier.metrics import Array, Prediction

summary = "Corpus BLEU with sacrebleu's tokens and smoothing, 0…100."
label = "BLEU"
higher_is_better = True
range = (0.0, 100.0)
unit = "points"
tasks = ("translate",)
answers = ("text",)
rank = 16
ORDERS = 4


class Options(catalog.Options):
    """BLEU has no options."""


@cache
def _counter() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


def applies(prediction: Prediction) -> bool:
    """Return whether the row was answered in words."""
    return isinstance(prediction.output, str) and isinstance(prediction.reference, str)


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return (N, 10): matching n-grams for n = 1…4, all n-grams, answer length, reference length."""
    found = np.zeros((len(predictions), 2 * ORDERS + 2))
    for row, p in enumerate(predictions):
        if isinstance(p.output, str) and isinstance(p.reference, str):
            score = _counter().sentence_score(p.output, [p.reference])
            found[row] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return found


def figure(sums: Array, options: Options) -> Array:
    """Return 100 · brevity penalty · geometric mean of the n-gram precisions; NaN where nothing was to be said."""
    matches, totals = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    said, right = sums[..., -2], sums[..., -1]
    zeros_before = np.cumsum((matches == 0) & (totals > 0), axis=-1)
    smoothed = np.where(matches > 0, matches, 0.5**zeros_before)  # the k-th order without a match counts as 2^-k
    logs = np.log(np.where(totals > 0, smoothed / np.maximum(totals, 1.0), 1e-300)).mean(-1)
    penalty = np.where(said < right, np.exp(1 - right / np.maximum(said, 1e-9)), 1.0)
    value = np.where(matches.sum(-1) > 0, 100 * penalty * np.exp(logs), 0.0)
    value = np.where((totals == 0).any(-1), 0.0, value)
    return np.where(right > 0, value, np.nan)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "the cat sat on the mat", "output": "the cat sat on the mat"},
        {"id": "2", "reference": "it is raining", "output": None},
    ],
    "value": 100.0,
}
