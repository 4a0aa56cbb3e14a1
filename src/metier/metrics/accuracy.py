"""Accuracy: the share of rows whose answer is right.

With several labels per row every one of them must be right (subset accuracy), which is strict; `f1` is kinder.
"""

from __future__ import annotations

import math
from typing import Any

from metier.core import catalog
from metier.metrics import Prediction

summary = "Share of rows answered right; with several labels per row all of them must be."
label = "Accuracy"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ("single_label", "multi_label")
answers = ("label", "labels", "text")
primary = ("single_label",)
rank = 5


class Options(catalog.Options):
    """Accuracy has no options."""


def per_example(prediction: Prediction, options: Options) -> float:
    """Return 1 for a right answer, 0 for a wrong one, NaN where there is none."""
    return math.nan if prediction.correct is None else float(prediction.correct)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "card", "output": "card"},
        {"id": "2", "reference": "card", "output": "loan"},
        {"id": "3", "reference": "loan", "output": ""},
        {"id": "4", "reference": ("a", "b"), "output": ("b", "a")},
    ],
    "value": 0.5,
}
