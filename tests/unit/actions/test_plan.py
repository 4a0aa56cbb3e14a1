"""The plan looks at the micro-batches that the loop will take, and names what the process will hold."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metier.actions import costs, ladder
from metier.actions import plan as plans
from metier.actions.ahead import look_ahead
from metier.actions.compose import Parts, compose
from metier.core.batch import Batch
from metier.core.errors import DataError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.sections import Evaluation
from metier.models import memory, probe
from metier.models.policy import Policy
from metier.training import loop
from metier.training.feed import Feed
from metier.training.method import Method
from tiny import chat_rows, labelled_rows, write_model


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("plan")
    made = Project.create(folder, "p")
    write_model(folder / "base")
    write_model(folder / "wide", hidden_size=256, intermediate_size=1024)
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chat_rows(60))))
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled_rows(120))))
    return made


def parts_of(project: Project, method: str, *, base: str = "base", adapter: str = "full", **training: Any) -> Parts:
    data = "labelled" if method == "classify" else "chat"
    recipe = {
        "name": f"{method}-plan",
        "objective": {"task": "classify" if method == "classify" else "chat"},
        "data": {"sources": [{"path": f"{data}.jsonl"}]},
        "model": {"name_or_path": base, "dtype": "float32"},
        "method": {"kind": method},
        "adapter": {"kind": adapter},
        "training": {"max_length": 64, "batch_size": 8, "num_train_epochs": 2, **training},
    }
    return compose(Recipe.build(recipe), project)


@pytest.mark.parametrize("method", ["sft", "classify"])
@pytest.mark.parametrize(("packing", "tokens"), [(True, 4096), (True, 120), (False, 256)])
def test_what_the_plan_looks_at_is_what_the_loop_takes(
    project: Project, method: str, packing: bool, tokens: int
) -> None:
    parts = parts_of(project, method, packing=packing, micro_batch_tokens=tokens)
    ahead = look_ahead(parts)
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


def test_the_measured_peak_is_that_of_the_largest_micro_batch(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(parts: Parts) -> int:
        """Slots of the largest micro-batch of the steps that are measured."""
        steps = loop.train(
            parts.policy, parts.method, lengths=parts.train.lengths, collate=parts.train.collate, plan=parts.plan,
            state=loop.start(parts.policy, parts.plan),
        )  # fmt: skip
        return max(info.slots for info in islice(steps, costs.MEASURED_STEPS))

    for seed in range(20):
        parts = parts_of(project, "sft", seed=seed, num_train_epochs=3)
        largest = look_ahead(parts).largest
        if reached(parts) < largest.num_slots:
            break
    else:
        pytest.fail("the largest micro-batch was always among the first")
    seen: list[int] = []
    loss = Method.loss

    def watched(method: Method, policy: Policy, batch: Batch) -> Any:
        seen.append(batch.num_slots)
        return loss(method, policy, batch)

    monkeypatch.setattr(Method, "loss", watched)
    costs.measure(parts, look_ahead(parts), None, None)
    before = {name: p.detach().clone() for name, p in parts.policy.trained().items()}
    assert max(seen) == largest.num_slots
    costs._run_largest(parts, largest, passes=2)
    assert seen[-2:] == [largest.num_slots] * 2
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in parts.policy.trained().items())


def test_a_validation_that_is_wider_than_a_step_counts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(project, "sft", adapter="lora", batch_size=1, micro_batch_tokens=4096)
    ahead = look_ahead(parts)
    assert ahead.widest.num_slots > 2 * ahead.largest.num_slots
    whole, *_ = costs.predict(parts, ahead, kept=False)
    without, *_ = costs.predict(parts, replace(ahead, widest=ahead.largest), kept=False)
    assert whole.activations > without.activations
    assert ladder._live_bytes(parts, {}, kept=False) == whole.peak, "a rung counts it, too"
    seen: list[int] = []
    monkeypatch.setattr(costs, "forward", lambda policy, batch: seen.append(batch.num_slots))
    costs.measure(parts, ahead, None, None)
    assert seen == [ahead.widest.num_slots], "and it is among what is measured"


def test_a_run_that_will_compile_counts_the_compiler(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(project, "sft")
    monkeypatch.setattr(plans.compiling, "untried", lambda parts, seconds: "the training is short")
    without = plans.plan_parts(parts)
    assert "compiler" not in without.memory_parts
    monkeypatch.setattr(plans.compiling, "untried", lambda parts, seconds: "")
    compiled = plans.plan_parts(parts)
    assert compiled.memory_parts["compiler"] == memory.COMPILER_BYTES and "compiler 0.52" in compiled.to_text()
    assert sum(compiled.memory_parts.values()) == compiled.memory_bytes
    monkeypatch.setattr(plans, "available_memory_bytes", lambda device: without.memory_bytes + 10**6)
    assert "compiler" not in plans.plan_parts(parts).memory_parts, "it will do without"
    told = plans.plan_parts(parts_of(project, "sft", torch_compile=True))
    assert "compiler" in told.memory_parts


# ───────────────────────────────────────────────────────────────────────────── does it fit?


def test_what_fits_has_memory_and_disk_and_costs_no_further_dry_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "memory_ladder", lambda *_, **__: pytest.fail("it fits"))
    found = plans.plan_parts(parts_of(project, "sft"))
    assert found.fits and found.ladder == [] and "does not fit" not in found.to_text()
    full = found.model_copy(update={"disk_free_bytes": found.disk_bytes - 1})
    assert not full.fits
    assert (found.model_dump(mode="json")["fits"], full.model_dump(mode="json")["fits"]) == (True, False)


def test_a_full_disk_is_told_with_what_would_be_written_instead(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(project, "sft", base="wide", save_total_limit=4)
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    found = plans.plan_parts(parts)
    assert not found.fits_disk and found.fits_memory and not found.fits
    least = found.disk_bytes // 6 * 3  # the best, the newest, and the one being written
    assert found.ladder[0] == f"training.save_total_limit=1 → predicted {least / 1e9:.2f} GB of disk"
    assert found.to_text().splitlines()[-1].startswith("does not fit training.save_total_limit=1 → ")


def test_the_disk_is_for_the_checkpoints_that_the_run_can_write(project: Project) -> None:
    one = {"num_train_epochs": 1, "batch_size": 16, "save_total_limit": 4}
    few = replace(parts_of(project, "sft", **one), every_steps=2, save_steps=3)
    assert few.plan.steps == 3, "saved after 2 and 3"
    found = plans.plan_parts(few)
    assert found.disk_bytes == 12 * found.trainable_parameters * 2
    muon = plans.plan_parts(replace(parts_of(project, "sft", optimizer="muon", **one), every_steps=2, save_steps=3))
    assert muon.disk_bytes == (4 * muon.trainable_parameters + muon.memory_parts["optimizer"]) * 2 < found.disk_bytes


def live(found: plans.Plan) -> int:
    return found.memory_bytes - found.memory_parts["allocator"]


@pytest.fixture
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "choose_dtype", lambda *_: probe.Choice("float32", "float32 because it is faster"))


def test_each_rung_says_what_the_plan_of_the_changed_recipe_would_say(
    project: Project, monkeypatch: pytest.MonkeyPatch, slow_bfloat16: None
) -> None:
    options: dict[str, Any] = {"base": "wide", "batch_size": 48, "micro_batch_tokens": 2048}
    monkeypatch.setattr(plans, "available_memory_bytes", lambda device: 500_000_000)
    found = plans.plan_parts(parts_of(project, "sft", **options))
    assert not found.fits_memory
    rungs = dict(rung.partition(" → predicted ")[::2] for rung in found.ladder)
    smaller = plans.plan_parts(parts_of(project, "sft", **{**options, "micro_batch_tokens": 512}))
    thinner = plans.plan_parts(parts_of(project, "sft", adapter="lora", **options))
    assert found.ladder[-1] == "a smaller model.name_or_path"
    first, second = list(rungs)[:2]
    assert first == "training.micro_batch_tokens=512 (an execution key: the result is the same)"
    assert second == "adapter.kind=lora"
    for name, changed in ((first, smaller), (second, thinner)):
        assert live(changed) < live(found)
        assert rungs[name] == f"{live(changed) / 1e9:.2f} GB" + (", too much" if live(changed) > 500_000_000 else "")


def test_where_no_rung_is_enough_alone_they_are_taken_together(
    project: Project, monkeypatch: pytest.MonkeyPatch, slow_bfloat16: None
) -> None:
    monkeypatch.setattr(plans, "available_memory_bytes", lambda device: 1)
    parts = parts_of(project, "sft", base="wide", batch_size=48, micro_batch_tokens=2048)
    found = plans.plan_parts(parts)
    *alone, together, _ = found.ladder
    assert len(alone) >= 2 and all(", too much" in rung for rung in alone)
    assert re.match(r"training.micro_batch_tokens=512 adapter.kind=lora .*→ predicted", together)
    sizes = [float(rung.split(" → predicted ")[1].split()[0]) for rung in (*alone, together)]
    assert sizes[-1] <= min(sizes[:-1])
    monkeypatch.setattr(probe, "choose_dtype", lambda *_: probe.Choice("bfloat16", "bfloat16 because it is faster"))
    assert plans.plan_parts(parts).ladder[1].startswith("model.dtype=bfloat16 → predicted ")


def test_rows_are_shortened_as_a_smaller_max_length_would(project: Project) -> None:
    from metier.actions.ladder import _shortened

    whole = parts_of(project, "sft").train
    for truncation in ("left", "right"):
        asked = parts_of(project, "sft", max_length=34, truncation=truncation).train
        made = _shortened(whole, 34, truncation=truncation)
        assert made.lengths.tolist() == asked.lengths.tolist() and made.lengths.max() == 34 < whole.lengths.max()
        assert made.items[0].num_supervised == asked.items[0].num_supervised
        assert len(made.items) == len(whole)


def test_a_run_on_the_cpu_asks_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("mem_get_info", "max_memory_allocated", "memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("the GPU was asked"))
    assert plans.available_memory_bytes(torch.device("cpu")) > 0
    assert memory.peak_bytes(torch.device("cpu")) > 0


def test_the_time_of_the_training_is_called_that(project: Project) -> None:
    line = next(x for x in plans.plan_parts(parts_of(project, "sft")).to_text().splitlines() if x.startswith("time "))
    assert re.search(r"training \d+ s–\d+ s \+ \d+ evaluations on validation \d+ s–\d+ s \(estimated", line)


@pytest.mark.parametrize("measure", [False, True])
def test_evaluations_during_training_are_counted_and_their_time_beside_its(project: Project, measure: bool) -> None:
    often, seldom = (
        plans.plan_parts(replace(parts_of(project, "sft"), every_steps=every), measure=measure) for every in (2, 100)
    )
    assert (often.steps, often.validations, seldom.validations) == (12, 6, 1)
    assert often.validation_seconds > 0
    if not measure:  # the same prediction for one, so many times
        assert often.validation_seconds == pytest.approx(6 * seldom.validation_seconds, rel=0.5)
    assert "+ one evaluation on validation" in seldom.to_text()


def test_where_no_row_is_held_out_for_validation_none_is_promised(project: Project) -> None:
    parts = parts_of(project, "sft")
    found = plans.plan_parts(replace(parts, validation=Feed([], np.array([], dtype=np.int64), None, 0)))
    assert (found.validations, found.validation_seconds) == (0, 0)
    assert "on validation" not in found.to_text()


def test_the_plan_says_what_the_evaluation_at_the_end_has_to_do(project: Project) -> None:
    writer = plans.plan_parts(parts_of(project, "sft"))
    assert writer.tested_rows == writer.rows["test"] == writer.written_rows > 0
    said = f"{writer.tested_rows} held-out rows; {writer.written_rows} answers of up to 128 tokens are written by each"
    assert said in writer.to_text()
    parts = parts_of(project, "sft")
    few = parts.recipe.model_copy(update={"evaluation": Evaluation(max_examples=2)})
    assert plans.plan_parts(replace(parts, recipe=few)).written_rows == 2
    assert plans.plan_parts(parts_of(project, "classify")).written_rows == 0, "a head answers without writing"


def long_test_row(project: Project, truncation: str) -> Recipe:
    """Rows that all fit but one of the test split, whose prompt alone is over max_length."""
    rows = chat_rows(12)
    asked = {"role": "user", "content": "the cat " * 200}
    rows[-1] = {"messages": [asked, {"role": "assistant", "content": "sat"}]}
    (project.root / "given.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Recipe.build(
        {
            "name": f"long-{truncation}",
            "objective": {"task": "chat"},
            "data": {"sources": [{"path": "chat.jsonl"}, {"path": "given.jsonl", "split": "test"}]},
            "model": {"name_or_path": "base", "dtype": "float32"},
            "method": {"kind": "sft"},
            "training": {"max_length": 64, "max_steps": 1, "truncation": truncation},
        }
    )


def test_a_test_row_that_the_evaluation_could_not_read_is_refused_before_training(project: Project) -> None:
    with pytest.raises(DataError, match="E357") as caught:
        plans.plan(long_test_row(project, "error"), project)
    assert "given.jsonl:12" in caught.value.place


@pytest.mark.parametrize("truncation", ["right", "drop"])
def test_test_rows_that_will_have_no_likelihood_are_counted_before_training(project: Project, truncation: str) -> None:
    found = plans.plan(long_test_row(project, truncation), project)
    assert (found.tested_rows, found.unread_rows) == (12, 1)
    assert "; 1 have no token of a reply within max_length=64: no likelihood" in found.to_text()
    assert plans.plan(long_test_row(project, "left"), project).unread_rows == 0
