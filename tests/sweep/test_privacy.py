"""The long proof that no string makes de-identification slow: ten thousand hostile ones, 100 ms of processor time each.

METIER_SWEEP_SEED=0     what is drawn
"""

from __future__ import annotations

import os
import random
import time

import pytest

from metier.data.privacy.engine import detect
from pii_cases import hostile

pytestmark = pytest.mark.sweep

STRINGS = 10_000
LIMIT_SECONDS = 0.1


def test_no_hostile_string_takes_long() -> None:
    rng = random.Random(int(os.environ.get("METIER_SWEEP_SEED", "0")))
    detect("warm")
    slow = []
    for _ in range(STRINGS):
        text = hostile(rng)
        took = _seconds(text)
        if took >= LIMIT_SECONDS and min(_seconds(text) for _ in range(3)) >= LIMIT_SECONDS:
            slow.append((took, text[:80]))
    assert slow == []


def _seconds(text: str) -> float:
    began = time.process_time()
    detect(text)
    return time.process_time() - began
