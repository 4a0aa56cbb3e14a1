"""Recall: of the rows of a class, the share that was found. Averaged as in f1; macro recall is balanced accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metier.metrics import Array, Prediction, f1

summary = "Of the rows of a class, the share that was found."
label = "Recall ({average})"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ("single_label", "multi_label")
answers = ("label", "labels", "text")
rank = 21


class Options(f1.Options):
    """How classes are averaged, as in f1."""


def applies(prediction: Prediction) -> bool:
    """Return whether the row takes part, as in f1."""
    return f1.applies(prediction)


def statistics(predictions: Sequence[Prediction], options: Options) -> Array:
    """Return the counts per class, as in f1."""
    return f1.statistics(predictions, options)


def figure(sums: Array, options: Options) -> Array:
    """Return the averaged recall from the summed counts."""
    return f1.average(sums, options.average, lambda tp, fp, fn: (tp, tp + fn))


SAMPLE: dict[str, Any] = {**f1.SAMPLE, "value": (0.5 + 1.0 + 0.0) / 3}
