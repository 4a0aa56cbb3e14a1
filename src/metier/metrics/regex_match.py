"""Regex match: the answer fits a pattern, such as a code or a required opening."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

from pydantic import Field, field_validator

from metier.core import catalog
from metier.metrics import Prediction

summary = "Share of answers that fit a regular expression."
label = "Fits the pattern"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ()
answers = ("text",)


class Options(catalog.Options):
    """The pattern."""

    pattern: str = Field(
        description="Regular expression (Python); searched anywhere unless it starts with ^.", min_length=1
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def per_example(prediction: Prediction, options: Options) -> float:
    """Return 1 where the pattern is found, 0 elsewhere, NaN where there is no answer."""
    if not isinstance(prediction.output, str):
        return math.nan
    return float(_compiled(options.pattern).search(prediction.output) is not None)


SAMPLE: dict[str, Any] = {
    "options": {"pattern": r"^[A-Z]\d{2}$"},
    "predictions": [
        {"id": "1", "output": "J45"},
        {"id": "2", "output": "J4"},
        {"id": "3", "output": None},
    ],
    "value": 0.5,
}
