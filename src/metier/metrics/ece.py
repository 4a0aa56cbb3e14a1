"""Expected calibration error: how far confidence stands from accuracy, averaged over bins of equal width.

Guo et al. 2017, "On Calibration of Modern Neural Networks". The confidence is the probability of the answer given; with
several labels per row every label is one decision with its own probability. Left out: adaptive bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from metier.core import catalog
from metier.metrics import Array, Prediction, labels_of, ratio

summary = "Expected calibration error: mean gap between confidence and accuracy, over bins of equal width."
label = "Calibration error (ECE, {bins} bins)"
higher_is_better = False
range = (0.0, 1.0)
unit = "share"
tasks = ("single_label", "multi_label")
answers = ("label", "labels")
rank = 15


class Options(catalog.Options):
    """The bins."""

    bins: int = Field(15, ge=2, le=100, description="Bins of equal width between 0 and 1.")


def decisions(prediction: Prediction) -> list[tuple[float, float]]:
    """Return (confidence, right as 0 or 1) of each decision in a row; none where there is no probability."""
    if isinstance(prediction.reference, tuple):
        truth = labels_of(prediction.reference)
        return [(p, float(name in truth)) for name, p in (prediction.label_probs or {}).items()]
    if prediction.confidence is None or prediction.correct is None:
        return []
    return [(prediction.confidence, float(prediction.correct))]


def applies(prediction: Prediction) -> bool:
    """Return whether the row holds a decision with a probability."""
    return bool(decisions(prediction))


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return (N, 3·bins): decisions, summed confidence and summed correctness per bin."""
    found = np.zeros((len(predictions), 3, options.bins))
    for row, prediction in enumerate(predictions):
        for confidence, right in decisions(prediction):
            k = min(int(confidence * options.bins), options.bins - 1)
            found[row, :, k] += (1.0, confidence, right)
    return found.reshape(len(predictions), -1)


def figure(sums: Array, options: Options) -> Array:
    """Return Σ_bins |summed confidence - summed correctness| / decisions."""
    bins = sums.reshape(*sums.shape[:-1], 3, -1)
    count = bins[..., 0, :].sum(-1)
    gap = np.abs(bins[..., 1, :] - bins[..., 2, :]).sum(-1)
    return np.where(count > 0, gap / np.maximum(count, 1.0), np.nan)


def lowest(sums: Array, whole: Array, options: Options) -> Array:
    """Return the figure of the whole less how far each resample's bins moved from it, for (…, S) resampled sums.

    Chance opens a gap in every bin and the absolute value adds them all up, so that a figure is too high and its
    resamples are higher still (Roelofs et al. 2022, "Mitigating Bias in Calibration Error Estimation"). Yet by the
    triangle inequality the figure lies no further from the truth than its bins do.
    """
    moved = np.abs(_gaps(sums) - _gaps(whole)).sum(-1)
    found: Array = figure(whole, options) - moved
    return found


def _gaps(sums: Array) -> Array:
    """Return each bin's summed confidence less its summed correctness, per decision."""
    bins = sums.reshape(*sums.shape[:-1], 3, -1)
    gaps: Array = ratio(bins[..., 1, :] - bins[..., 2, :], bins[..., 0, :].sum(-1)[..., None])
    return gaps


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "a", "output": "a", "confidence": 0.9},
        {"id": "2", "reference": "a", "output": "b", "confidence": 0.9},
        {"id": "3", "reference": "b", "output": "b", "confidence": 0.5},
        {"id": "4", "reference": "b", "output": "b"},
    ],
    "value": (abs(1.8 - 1) + abs(0.5 - 1)) / 3,
}
