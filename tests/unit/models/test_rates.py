"""What a machine does is measured once, and left as it was."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from metier.models import rates as measuring
from metier.models.rates import Rates, attention_seconds, measure, rates

ROUND = Rates(
    matmul=1e12, operands=1e10, fresh=1e10, stream=2e10, touch=5e9, draw=2e8, function=1e9, start=1e-5, compile=1e-3
)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metier"


def test_rates_are_measured_once_per_precision_and_again_when_their_file_is_of_no_use(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(measuring, "measure", lambda dtype: calls.append(dtype) or ROUND)
    assert [rates("float32") for _ in range(3)] == [ROUND] * 3
    assert rates("bfloat16") == ROUND
    assert calls == ["float32", "bfloat16"]
    (file,) = own_cache.glob(f"rates-{measuring.VERSION}-float32-*.json")
    for broken in ("{", '{"matmul": 1e12}', json.dumps({**asdict(ROUND), "start": "fast"})):
        file.write_text(broken)
        assert rates("float32") == ROUND
    assert calls == ["float32", "bfloat16", *["float32"] * 3]


def test_a_measurement_is_plausible_short_and_leaves_threads_and_random_numbers_alone() -> None:
    state, threads, started = torch.random.get_rng_state(), torch.get_num_threads(), time.process_time()
    found = measure("float32")
    assert time.process_time() - started < 20
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    assert all(getattr(found, field.name) > 0 for field in fields(found) if field.name != "compile")
    assert found.compile >= 0
    assert found.matmul > 1e9 and 1e8 < found.fresh < 1e13 and 1e-7 < found.start < 1e-2


def test_attention_is_timed_on_its_own_shape() -> None:
    short, long = (attention_seconds(n, n, 32, "float32", True, None) for n in (32, 512))
    assert long[0] > 10 * short[0] and long[1] > long[0]
    state = torch.random.get_rng_state()
    attention_seconds(48, 48, 32, "float32", False, None)
    assert torch.equal(torch.random.get_rng_state(), state)
