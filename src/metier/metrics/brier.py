"""Brier score: squared distance between the probabilities and the truth (Brier 1950), summed over classes.

0 is perfect, 2 is certain and wrong. With several labels per row it is the mean over labels of (p - y)², 0…1.
"""

from __future__ import annotations

import math
from typing import Any

from metier.core import catalog
from metier.metrics import Prediction, labels_of

summary = "Squared distance between the predicted probabilities and the truth; 0 is perfect."
label = "Brier score"
higher_is_better = False
range = (0.0, 2.0)
unit = ""
tasks = ("single_label", "multi_label")
answers = ("label", "labels")
rank = 25


class Options(catalog.Options):
    """The Brier score has no options."""


def per_example(prediction: Prediction, options: Options) -> float:
    """Return the row's Brier score, NaN without probabilities; a true label that was not offered has probability 0."""
    if not prediction.label_probs or isinstance(prediction.reference, float):
        return math.nan
    truth = labels_of(prediction.reference)
    total = sum((p - (name in truth)) ** 2 for name, p in prediction.label_probs.items())
    total += len(truth - prediction.label_probs.keys())
    several = isinstance(prediction.reference, tuple)
    return total / len(prediction.label_probs.keys() | truth) if several else total


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "a", "output": "a", "label_probs": {"a": 0.8, "b": 0.2}},
        {"id": "2", "reference": "b", "output": "a", "label_probs": {"a": 1.0, "b": 0.0}},
    ],
    "value": (0.08 + 2.0) / 2,
}
