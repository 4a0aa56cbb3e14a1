"""Facts that an evaluation adds to the report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contract.test_methods import parts
from metier.actions import evaluate
from metier.core.project import write_json
from metier.core.run import Run
from metier.training.validate import validate


def test_the_reload_is_compared_with_the_figures_of_its_own_checkpoint(tmp_path: Path) -> None:
    method, feed, policy = parts("sft", "lora", {"r": 2})
    figures = validate(policy, method, feed, budget_tokens=512, packing=False)
    write_json(tmp_path / "best.json", {"checkpoint": "step-000009", "step": 9, "figures": {"loss": 99.0}})
    write_json(tmp_path / "checkpoints" / "step-000004" / "state.json", {"figures": figures})
    given: Any = SimpleNamespace(
        policy=policy,
        method=method,
        validation=feed,
        plan=SimpleNamespace(micro_batch_tokens=512),
        recipe=SimpleNamespace(training=SimpleNamespace(packing=False)),
    )
    found = evaluate._reloaded(given, tmp_path / "checkpoints" / "step-000004")["reload"]
    assert (found["checkpoint"], found["largest_difference"]) == ("step-000004", 0.0)


def test_the_reload_computes_with_the_micro_batch_that_was_found_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(evaluate, "validate", lambda *_, budget_tokens, **__: used.append(budget_tokens) or {"loss": 1})
    given: Any = SimpleNamespace(
        policy=None,
        method=None,
        validation=[1],
        plan=SimpleNamespace(micro_batch_tokens=4096),
        recipe=SimpleNamespace(training=SimpleNamespace(packing=False)),
    )
    for halved in (512, 8192):
        write_json(tmp_path / "state.json", {"figures": {"loss": 1.0}, "micro_batch_tokens": halved})
        evaluate._reloaded(given, tmp_path)
    assert used == [512, 4096]


def test_a_reference_names_its_checkpoint_and_without_one_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path / "0001-ab-sft-x")
    for step in (4, 9):
        (run.checkpoints_dir / f"step-{step:06d}").mkdir(parents=True)
    write_json(run.dir / "best.json", {"checkpoint": "step-000004"})
    assert evaluate._named(run, "1").name == "step-000004"
    assert evaluate._named(run, "run:1@step-9").name == "step-000009"
