"""Last number: the last number of the answer equals the last number of the reference.

The usual reading of a worked calculation (GSM8K, Cobbe et al. 2021). Thousands separators and a full stop at the end
are ignored. Left out: fractions and units.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from metier.core import catalog
from metier.metrics import Prediction

summary = "Share of answers whose last number is the reference's last number."
label = "Right final number"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ()
answers = ("text",)

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Options(catalog.Options):
    """The last number has no options."""


def per_example(prediction: Prediction, options: Options) -> float:
    """Return 1 when the last numbers are equal, NaN where there is no answer or the reference has no number."""
    if not isinstance(prediction.output, str) or not isinstance(prediction.reference, str):
        return math.nan
    right = _last(prediction.reference)
    return math.nan if right is None else float(_last(prediction.output) == right)


def _last(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "6 * 7 = 42\n#### 1,042", "output": "so she has 1042.0."},
        {"id": "2", "reference": "#### 5", "output": "-5"},
        {"id": "3", "reference": "none", "output": "5"},
    ],
    "value": 0.5,
}
