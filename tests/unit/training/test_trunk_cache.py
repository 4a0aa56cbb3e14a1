"""The cache of what leaves the frozen trunk: the same curve as without, made once, and never trusted when altered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.test_methods import parts, run
from metier.models.trunk import Trunk
from metier.training.trunk_cache import STATES, TrunkCache, num_bytes, worth
from metier.training.validate import validate

CASES = {
    "head alone": ("classify", "none", {}),
    "top block": ("classify", "layers", {"num_layers": 1}),
    "low-rank sums on top": ("sft", "lora", {"r": 2, "layers_to_transform": [1]}),
}


def cached(folder: Path, kind: str, adapter: str, options: dict[str, Any], *, key: str = "k") -> Any:
    method, feed, policy = parts(kind, adapter, options)
    trunk = Trunk.of(policy)
    assert trunk is not None
    seen: list[int] = []
    cache = TrunkCache.cached(
        folder / "trunk", key, policy, trunk, feed, budget_tokens=256,
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    policy.trunk = trunk
    return method, feed, replace(feed, trunk=cache), policy, seen


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_curve_is_the_same_with_and_without(tmp_path: Path, case: str, packing: bool) -> None:
    method, plain, kept, policy, seen = cached(tmp_path, *CASES[case])
    assert seen[-1] == len(plain)
    assert all(batch.trunk is not None for batch in kept.batches(budget_tokens=256, packing=packing))
    with_cache, _ = run(method, kept, policy, steps=8, packing=packing, tokens=256)
    again = parts(*CASES[case])
    without, _ = run(again[0], again[1], again[2], steps=8, packing=packing, tokens=256)
    assert [i.loss for i in with_cache] == pytest.approx([i.loss for i in without], rel=1e-4)
    assert with_cache[-1].loss < with_cache[0].loss
    one = validate(policy, method, kept, budget_tokens=128, packing=packing)
    other = validate(policy, method, plain, budget_tokens=128, packing=packing)
    assert one == pytest.approx(other, rel=1e-4)


def test_what_is_there_is_read_and_what_was_altered_is_made_again(tmp_path: Path) -> None:
    case = CASES["top block"]
    *_, first = cached(tmp_path, *case)
    *_, second = cached(tmp_path, *case)
    assert first and not second, "opened, not made"
    *_, third = cached(tmp_path, *case, key="another base")
    assert third
    path = tmp_path / "trunk" / STATES
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    *_, fourth = cached(tmp_path, *case, key="another base")
    assert fourth


def test_a_build_that_is_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trunk, "states", cut)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, *CASES["head alone"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_its_size_is_known_before(tmp_path: Path, case: str) -> None:
    _, plain, kept, policy, _ = cached(tmp_path, *CASES[case])
    found = num_bytes(policy.trunk, plain, width=policy.width, dtype=policy.dtype)
    assert kept.trunk.num_bytes == (tmp_path / "trunk" / STATES).stat().st_size == found


def test_one_pass_over_the_rows_does_not_pay_and_two_do() -> None:
    assert not worth(examples=1000, train=1000, validations=1, validation=100)
    assert worth(examples=1000, train=1000, validations=10, validation=100)
    assert worth(examples=2000, train=1000, validations=0, validation=0)
