"""Exact match: the answer equals the reference, character by character, after white space is collapsed."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from metier.core import catalog
from metier.metrics import Prediction

summary = "Share of answers that equal the reference, white space aside."
label = "Exact match"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ("chat", "extract", "generate")
answers = ("label", "text")
primary = ("extract",)
rank = 12


class Options(catalog.Options):
    """What else is ignored."""

    ignore_case: bool = Field(False, description="Treat capital and small letters as equal.")


def per_example(prediction: Prediction, options: Options) -> float:
    """Return 1 for a match, 0 otherwise, NaN where there is no answer or no text to compare with."""
    if not isinstance(prediction.output, str) or not isinstance(prediction.reference, str):
        return math.nan
    said, right = (" ".join(text.split()) for text in (prediction.output, prediction.reference))
    return float(said.casefold() == right.casefold() if options.ignore_case else said == right)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "42 days", "output": " 42\n days"},
        {"id": "2", "reference": "Yes", "output": "yes"},
        {"id": "3", "reference": "Yes", "output": None},
    ],
    "value": 0.5,
}
