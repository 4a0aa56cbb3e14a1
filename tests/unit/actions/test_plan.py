"""The plan looks at the micro-batches that the loop will take, and names what the process will hold."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from metier.actions import plan as plans
from metier.actions.compose import Parts, compose
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.training import loop
from tiny import chat_rows, labelled_rows, write_model


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("plan")
    made = Project.create(folder, "p")
    write_model(folder / "base")
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chat_rows(60))))
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled_rows(120))))
    return made


def parts_of(project: Project, method: str, **training: Any) -> Parts:
    data = "labelled" if method == "classify" else "chat"
    recipe = {
        "name": f"{method}-plan",
        "objective": {"task": "classify" if method == "classify" else "chat"},
        "data": {"sources": [{"path": f"{data}.jsonl"}]},
        "model": {"name_or_path": "base", "dtype": "float32"},
        "method": {"kind": method},
        "adapter": {"kind": "full"},
        "training": {"max_length": 64, "batch_size": 8, "num_train_epochs": 2, **training},
    }
    return compose(Recipe.build(recipe), project)


@pytest.mark.parametrize("method", ["sft", "classify"])
@pytest.mark.parametrize(("packing", "tokens"), [(True, 4096), (True, 120), (False, 256)])
def test_what_the_plan_looks_at_is_what_the_loop_takes(
    project: Project, method: str, packing: bool, tokens: int
) -> None:
    parts = parts_of(project, method, packing=packing, micro_batch_tokens=tokens)
    ahead = plans._look_ahead(parts)
    state = loop.start(parts.policy, parts.plan)
    steps = loop.train(
        parts.policy,
        parts.method,
        lengths=parts.train.lengths,
        collate=parts.train.collate,
        plan=parts.plan,
        state=state,
    )
    taken = list(islice(steps, parts.plan.steps))
    assert ahead.per_step == pytest.approx(sum(i.micro_batches for i in taken) / len(taken))
    assert ahead.padding == pytest.approx(1 - sum(i.tokens for i in taken) / sum(i.slots for i in taken))
    alone = [i.slots for i in taken if i.micro_batches == 1]
    assert ahead.largest.num_slots >= max(alone, default=0)
    assert 1 <= ahead.shapes <= sum(i.micro_batches for i in taken)
    assert all(batch.num_slots <= ahead.largest.num_slots for batch in ahead.typical)


def test_the_plan_holds_what_lives_and_what_the_allocator_keeps(project: Project) -> None:
    found = plans.plan_parts(parts_of(project, "sft"))
    assert found.memory_bytes == sum(found.memory_parts.values())
    assert set(found.memory_parts) == {"weights", "gradients", "optimizer", "activations", "runtime", "allocator"}
    assert found.memory_parts["weights"] >= 4 * found.total_parameters
    assert found.memory_parts["optimizer"] == 8 * found.trainable_parameters
    assert 0 < found.seconds_low < found.seconds < found.seconds_high < math.inf
    assert "allocator" not in found.model_copy(update={"memory_parts": {}}).to_text()


def test_what_the_allocator_keeps_is_no_reason_not_to_fit(project: Project) -> None:
    found = plans.plan_parts(parts_of(project, "sft"))
    live = found.memory_bytes - found.memory_parts["allocator"]
    kept = {"memory_parts": {**found.memory_parts, "allocator": 10**9}, "memory_bytes": live + 10**9}
    assert found.model_copy(update={**kept, "memory_available_bytes": live}).fits
    assert not found.model_copy(update={**kept, "memory_available_bytes": live - 1}).fits


def test_time_grows_with_the_steps_and_with_the_tokens_of_a_step(project: Project) -> None:
    seconds = [
        plans.plan_parts(parts_of(project, "sft", num_train_epochs=n, batch_size=size)).seconds
        for n, size in ((2, 8), (4, 8), (4, 48))
    ]
    assert seconds[1] == pytest.approx(2 * seconds[0], rel=0.5)  # attention is timed anew on its shapes
    assert seconds[2] < seconds[1], "the same tokens in fewer steps cost less: a step has its price"


def test_a_measured_plan_takes_real_steps(project: Project, tmp_path: Path) -> None:
    found = plans.plan_parts(parts_of(project, "classify"), measure=True)
    assert found.measured and found.seconds > 0
    assert found.memory_parts["allocator"] == 0
    assert "±15 %" not in found.to_text() and "measured steps" in found.to_text()
