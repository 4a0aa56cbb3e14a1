"""What a resume compares with the checkpoint it goes on from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from contract.test_methods import parts
from metier.actions import execute
from metier.core.errors import ConfigError
from metier.core.project import Project, digest_json, read_json, write_json
from metier.core.recipe import Recipe, semantic_values
from metier.core.run import Run
from metier.core.sections import Training
from metier.training import checkpoint, loop
from metier.training.validate import Watch


def started(run: Run, recorded: dict[str, str]) -> Any:
    """Parts that have not trained yet, beside a checkpoint of step 3 with other weights and these digests."""
    plan = loop.Plan(steps=9, peak_learning_rate=1e-3, warmup_steps=0, micro_batch_tokens=64, training=Training())
    _, _, other = parts("sft", "full")
    with torch.no_grad():
        for parameter in other.trained().values():
            parameter += 0.5
    state = loop.start(other, plan)
    state.step = 3
    checkpoint.save(run.checkpoints_dir, other, state, digests=recorded, figures={})
    _, feed, policy = parts("sft", "full")
    return SimpleNamespace(
        policy=policy, plan=plan, validation=[], train=feed, watch=Watch("loss", 3),
        digests={"dataset": "d", "recipe": "r"},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    project = Project.create(tmp_path, "p")
    return Run.create(project.new_run_dir("sft", "x"))


@pytest.mark.parametrize("recorded", [{"dataset": "d", "recipe": "r"}, {"dataset": "d"}])
def test_equal_digests_resume_and_one_that_was_never_written_is_no_change(run: Run, recorded: dict[str, str]) -> None:
    given = started(run, recorded)
    state = loop.start(given.policy, given.plan)
    before = {name: p.detach().clone() for name, p in given.policy.trained().items()}
    execute._resume(run, given, state)
    assert state.step == 3
    assert all(torch.equal(before[name] + 0.5, p) for name, p in given.policy.trained().items())


def test_a_changed_recipe_is_refused_before_anything_is_restored(run: Run) -> None:
    given = started(run, {"dataset": "d", "recipe": "another"})
    state = loop.start(given.policy, given.plan)
    before = {name: p.detach().clone() for name, p in given.policy.trained().items()}
    with pytest.raises(ConfigError, match="E236") as caught:
        execute._resume(run, given, state)
    assert "its recipe changed since step-000003" in caught.value.what and "--fork" in caught.value.fix
    assert state.step == 0
    assert all(torch.equal(before[name], p) for name, p in given.policy.trained().items())


@pytest.mark.parametrize("recorded", ["NVIDIA L4", None])
def test_another_device_is_noted_and_one_that_was_never_written_is_not(run: Run, recorded: str | None) -> None:
    given = started(run, {})
    state = run.checkpoints_dir / "step-000003" / "state.json"
    value = read_json(state)
    value["versions"] = {**value["versions"], "device": recorded}
    if recorded is None:
        del value["versions"]["device"]
    write_json(state, value)
    checkpoint.seal(state.parent)
    execute._resume(run, given, loop.start(given.policy, given.plan))
    notes = [e["text"] for e in run.events("note") if e["code"] == "versions"]
    assert len(notes) == (recorded is not None) and all(n.startswith("device changed since then") for n in notes)


def test_only_semantic_keys_are_in_the_digest_of_the_recipe() -> None:
    recipe = Recipe.build({"name": "x", "adapter": {"kind": "lora", "r": 8}})
    same = digest_json(semantic_values(recipe))
    for key, value in (("training.micro_batch_tokens", 512), ("training.save_steps", 3), ("model.device", "cpu")):
        assert digest_json(semantic_values(recipe.with_values({key: value}))) == same, key
    changes = {
        "name": "y", "adapter.r": 4, "adapter.kind": "full", "training.max_steps": 8, "training.seed": 1,
        "objective.targets": {"accuracy": ">= 0.5"}, "data.sources": [{"path": "other.csv"}],
    }  # fmt: skip
    assert len({same, *(digest_json(semantic_values(recipe.with_values({k: v}))) for k, v in changes.items())}) == 8


def test_a_key_at_its_default_is_not_in_the_digest_so_that_a_new_key_changes_no_older_run() -> None:
    assert semantic_values(Recipe.build({"name": "x"})) == {"name": "x"}
    assert semantic_values(Recipe.build({"name": "x", "training": {"seed": 0, "batch_size": 4}})) == {
        "name": "x",
        "training.batch_size": 4,
    }
