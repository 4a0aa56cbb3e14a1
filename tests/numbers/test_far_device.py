"""No figure is computed in float64 on a device that has none, as Apple's GPUs (tests/far_device.py says how)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils import backend_registration

from metier.training import loop

TESTS = Path(__file__).parents[1]


def numbers(value: Any) -> Iterator[float]:
    for item in value if isinstance(value, list) else [value]:
        yield from numbers(item) if isinstance(item, list) else [item]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices made of Python",
)
def test_every_verb_answers_alike_on_a_device_without_float64() -> None:
    path = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, str(TESTS / "far_device.py")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for verb, here in found["cpu"].items():
        assert list(numbers(found["far"][verb])) == pytest.approx(list(numbers(here)), rel=1e-4, abs=1e-6), verb
    assert len(found["cpu"]) == 9


def test_the_seed_of_a_step_reaches_every_device_that_may_be_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seeds: dict[str, int] = {}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: seeds.update(mps=seed))
    monkeypatch.setattr(torch.xpu, "manual_seed_all", lambda seed: seeds.update(xpu=seed))
    loop.seed_everything(3, 1, 0)
    assert seeds["mps"] == seeds["xpu"] == torch.initial_seed()
