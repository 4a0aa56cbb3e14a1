"""JSON validity: the answer is one JSON value and nothing else. NaN and Infinity are not JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import Field

from metier.core import catalog
from metier.metrics import Prediction

summary = "Share of answers that are valid JSON."
label = "Valid JSON"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ()
answers = ("text",)


class Options(catalog.Options):
    """What is asked of the value."""

    object_only: bool = Field(True, description="Only an object ({…}) counts, not a bare string, number or list.")


def per_example(prediction: Prediction, options: Options) -> float:
    """Return 1 for valid JSON, 0 otherwise, NaN where there is no answer."""
    if not isinstance(prediction.output, str):
        return math.nan
    try:
        value = json.loads(prediction.output, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return float(isinstance(value, dict) or not options.object_only)


def _refuse(name: str) -> None:
    raise ValueError(name)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "output": '{"dose": "5 mg"}'},
        {"id": "2", "output": '{"dose": NaN}'},
        {"id": "3", "output": "[1]"},
        {"id": "4", "output": '{"a": 1} and more'},
    ],
    "value": 0.25,
}
