"""Compiled blocks are used where a trial shows that they pay, give the same gradients, and resume to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metier.actions import compiling
from metier.actions.compose import Parts, compose
from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.models import fused_choice
from metier.models.compiled import CompiledBlocks
from metier.training import checkpoint, loop
from tiny import chat_rows, write_model

compiler = pytest.mark.skipif(fused_choice.compiler() is None, reason="there is no C++ compiler")
KEPT = compiling.Trial(plain_seconds=1.0, compiled_seconds=0.8, compiling_seconds=9.0, gap=1e-7)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.create(tmp_path_factory.mktemp("compiling") / "desk", "desk")
    write_model(made.root / "base")
    (made.root / "chat.jsonl").write_text("\n".join(map(json.dumps, chat_rows(60))))
    return made


def parts_of(project: Project, adapter: dict[str, Any] | None = None, **training: Any) -> Parts:
    values = {
        "name": "desk",
        "data": {"sources": [{"path": "chat.jsonl"}]},
        "model": {"name_or_path": "base", "dtype": "float32"},
        "adapter": adapter or {"kind": "full"},
        "training": {"max_length": 64, "batch_size": 8, "max_steps": 6, "learning_rate": 3e-3, **training},
    }
    return compose(Recipe.build(values), project)


def choose(parts: Parts, *, seconds: float = 1e6, pinned: dict[str, str] | None = None) -> compiling.Choice:
    return compiling.choose(parts, seconds_left=seconds, pinned=pinned or {}, progress=lambda *_: None)


def fixed_trial(monkeypatch: pytest.MonkeyPatch, found: compiling.Trial | Exception) -> list[bool]:
    """Replace the trial by its result; return the list of what is asked for."""
    asked: list[bool] = []

    def trial(parts: Parts, blocks: CompiledBlocks, batch: Any, *, timed: bool = True) -> compiling.Trial:
        asked.append(timed)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(compiling, "try_out", trial)
    return asked


@compiler
def test_a_long_run_compiles_where_the_trial_was_faster(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fixed_trial(monkeypatch, KEPT)
    parts = parts_of(project)
    found = choose(parts)
    assert found.value == "on" and "0.80 s instead of 1.00" in found.reason and asked == [True]
    assert parts.policy.compiled is not None


@compiler
@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (compiling.Trial(1.0, 0.99, 9.0, 1e-7), "in a trial a pass takes 0.99 s instead of 1.00"),
        (compiling.Trial(1.0, 0.5, 9.0, 0.2), "gradient differs by 0.2 of its length"),
        (compiling.Trial(1.0, 0.5, 9.0, float("nan")), "gradient differs by nan of its length"),
        (RuntimeError("secret words of a compiler"), "the blocks cannot be compiled (RuntimeError)"),
    ],
)
def test_what_is_slower_wrong_or_impossible_is_left_alone_and_said(
    trial: compiling.Trial | Exception, says: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_trial(monkeypatch, trial)
    parts = parts_of(project)
    found = choose(parts)
    assert found.value == "off" and says in found.reason and "secret" not in found.reason
    assert parts.policy.compiled is None


def test_short_runs_other_machines_and_a_no_are_not_tried(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fixed_trial(monkeypatch, KEPT)
    monkeypatch.setattr(fused_choice.shutil, "which", lambda name: f"/bin/{name}")
    assert "shorter than 4 minutes" in choose(parts_of(project), seconds=200).reason
    assert choose(parts_of(project, torch_compile=False)).reason == "off because the recipe says so"
    monkeypatch.setattr(fused_choice.shutil, "which", lambda name: None)
    assert "no C++ compiler" in choose(parts_of(project)).reason
    assert asked == []
    with pytest.raises(ConfigError, match="cannot be compiled") as error:
        choose(parts_of(project, torch_compile=True))
    assert error.value.code == "E279" and "C++" in error.value.received


@compiler
def test_where_memory_is_tight_no_compiler_is_loaded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fixed_trial(monkeypatch, KEPT)

    def choose_without_room(parts: Parts, pinned: dict[str, str]) -> compiling.Choice:
        return compiling.choose(parts, seconds_left=1e6, pinned=pinned, progress=lambda *_: None, room=False)

    found = choose_without_room(parts_of(project), {})
    assert found.value == "off" and "memory is tight" in found.reason and asked == []
    assert choose_without_room(parts_of(project, torch_compile=True), {}).value == "on", "it was told to"
    assert choose_without_room(parts_of(project), {compiling.KEY: "on"}).value == "on", "it has begun so"


@compiler
def test_what_an_earlier_start_chose_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fixed_trial(monkeypatch, compiling.Trial(float("nan"), float("nan"), 9.0, 1e-7))
    parts = parts_of(project)
    parts.choices[compiling.KEY] = "on because of the first trial"
    assert choose(parts, seconds=1.0, pinned={compiling.KEY: "on"}).reason == "on because of the first trial"
    assert parts.policy.compiled is not None and asked == [False], "no second timing"
    assert choose(parts_of(project), pinned={compiling.KEY: "off"}).value == "off" and asked == [False]
    parts.compiled = "on"
    assert parts.pinned[compiling.KEY] == "on"


# ───────────────────────────────────────────────────────────────────────────── with a real compiler


@compiler
def test_compiled_blocks_give_the_same_gradients_and_an_interrupted_run_the_same_bits(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")

    def run(stop_at: int, *, resume: bool = False, plain: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
        torch._dynamo.reset()  # as in a fresh process
        parts = parts_of(project, {"kind": "lora", "r": 4, "lora_dropout": 0.1}, torch_compile=not plain)
        state = loop.start(parts.policy, parts.plan)
        if resume:
            checkpoint.restore(tmp_path / "step-000003", parts.policy, state)
        found = choose(parts)
        assert found.value == ("off" if plain else "on")
        losses = []
        steps = loop.train(
            parts.policy, parts.method, lengths=parts.train.lengths, collate=parts.train.collate,
            plan=parts.plan, state=state,
        )  # fmt: skip
        for info in steps:
            losses.append(info.loss)
            if info.step == stop_at:
                break
        if stop_at == 3:
            checkpoint.save(tmp_path, parts.policy, state, digests={}, figures={})
        return losses, {name: p.detach().clone() for name, p in parts.policy.trained().items()}

    whole, weights = run(6)
    first, _ = run(3)
    second, resumed = run(6, resume=True)
    assert first + second == whole
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    plain, others = run(6, plain=True)
    assert plain == pytest.approx(whole, rel=1e-4)
    assert any(not torch.equal(weights[name], others[name]) for name in weights), "the blocks really were compiled"
