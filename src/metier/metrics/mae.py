"""Mean absolute error of a predicted number, in the number's own unit."""

from __future__ import annotations

import math
from typing import Any

from metier.core import catalog
from metier.metrics import Prediction

summary = "Mean distance between the predicted and the true number."
label = "Mean absolute error"
higher_is_better = False
range = (0.0, math.inf)
unit = "units of the target"
tasks = ("regression",)
answers = ("number",)
primary = ("regression",)
rank = 10


class Options(catalog.Options):
    """The mean absolute error has no options."""


def per_example(prediction: Prediction, options: Options) -> float:
    """Return |output - reference|, NaN where either is not a number."""
    if not isinstance(prediction.output, float) or not isinstance(prediction.reference, float):
        return math.nan
    return abs(prediction.output - prediction.reference)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": 1.0, "output": 2.5},
        {"id": "2", "reference": 4.0, "output": 3.5},
        {"id": "3", "reference": 4.0, "output": None},
    ],
    "value": 1.0,
}
