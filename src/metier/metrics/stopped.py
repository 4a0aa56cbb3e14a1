"""Stopped: the model ended its answer by itself instead of running into the length limit.

A model that never learned its end-of-turn token shows here first.
"""

from __future__ import annotations

import math
from typing import Any

from metier.core import catalog
from metier.metrics import Prediction

summary = "Share of answers that the model ended by itself, before the length limit."
label = "Ended by itself"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ("chat", "summarize", "translate", "extract", "generate")
answers = ("text",)


class Options(catalog.Options):
    """The metric has no options."""


def per_example(prediction: Prediction, options: Options) -> float:
    """Return 1 for an answer ended by a stop token, 0 for a cut one, NaN where nothing was generated."""
    return float(prediction.finish == "stop") if prediction.finish else math.nan


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "output": "yes", "finish": "stop"},
        {"id": "2", "output": "yes yes yes", "finish": "length"},
        {"id": "3", "output": "copied"},
    ],
    "value": 0.5,
}
