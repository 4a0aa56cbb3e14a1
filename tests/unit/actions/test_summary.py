"""What the events of a run say about its training: what was really taken, what was measured, and why it ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contract.test_methods import parts
from metier.actions.summary import training_summary
from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.evaluation.result import TrainingSummary
from metier.training.validate import Watch


@pytest.fixture
def run(tmp_path: Path) -> Run:
    project = Project.create(tmp_path, "p")
    return Run.create(project.new_run_dir("sft", "x"))


def steps(
    run: Run, first: int, last: int, *, seconds: float = 1.0, evaluations: dict[int, float] | None = None
) -> None:
    """What one start writes: its steps, and the validation losses at some of them."""
    for step in range(first, last + 1):
        run.event(
            "step", step=step, loss=1.0, learning_rate=1e-3, grad_norm=1.0, tokens=10, slots=20, supervised=5,
            examples=2, seconds=seconds, tokens_per_second=10.0,
        )  # fmt: skip
        if step in (evaluations or {}):
            run.event("evaluation", step=step, best=False, seconds=0.5, loss=(evaluations or {})[step])


def choose(run: Run, step: int, by: str = "loss") -> None:
    write_json(run.dir / "best.json", {"checkpoint": f"step-{step:06d}", "step": step, "chosen_by": by})


def summary(run: Run, measured: int, *, planned: int, patience: int = 3) -> TrainingSummary:
    method, feed, policy = parts("sft", "lora", {"r": 2})
    given: Any = SimpleNamespace(
        policy=policy,
        method=method,
        train=feed,
        base=policy.base,
        recipe=Recipe.build({"name": "x"}),
        plan=SimpleNamespace(steps=planned),
        watch=Watch("loss", patience),
        choices={"device": "cpu because it is here"},
    )
    return training_summary(given, run, run.checkpoints_dir / f"step-{measured:06d}")


def test_a_run_that_somebody_stopped_did_not_stop_early(run: Run) -> None:
    steps(run, 1, 7, evaluations={4: 0.5})
    choose(run, 4)
    found = summary(run, 4, planned=20)
    assert (found.steps, found.planned_steps, found.best_step) == (7, 20, 4)
    assert not found.stopped_early
    assert found.chosen_by == "loss"


def test_a_run_that_validation_ended_did(run: Run) -> None:
    steps(run, 1, 10, evaluations={2: 0.5, 4: 0.6, 6: 0.7, 8: 0.7, 10: 0.8})
    choose(run, 2)
    assert summary(run, 2, planned=20, patience=4).stopped_early
    assert not summary(run, 2, planned=20, patience=5).stopped_early
    assert not summary(run, 2, planned=10, patience=4).stopped_early, "it had come to its end"
    assert not summary(run, 2, planned=20, patience=0).stopped_early


def test_steps_that_a_kill_lost_and_a_resume_took_again_count_once(run: Run) -> None:
    steps(run, 1, 9, seconds=5.0, evaluations={4: 0.5, 8: 0.1})
    steps(run, 5, 7, seconds=1.0)  # resumed from step 4: 8 and 9 are lost, and so is the evaluation at 8
    choose(run, 4)
    found = summary(run, 4, planned=20)
    assert (found.steps, found.examples, found.tokens, found.supervised_tokens) == (7, 14, 70, 35)
    assert found.seconds == 4 * 5.0 + 3 * 1.0
    assert [point["step"] for point in found.curve] == [1, 2, 3, 4, 5, 6, 7]
    assert found.validation_curve == [{"step": 4, "loss": 0.5}]
    assert (found.actual["seconds"], found.actual["validation_seconds"]) == (found.seconds, 0.5)


def test_the_planned_times_of_a_run_that_ended_early_are_for_what_it_did(run: Run) -> None:
    plan = {
        "steps": 40,
        "seconds": 400.0,
        "validations": 20,
        "validation_seconds": 60.0,
        "memory_bytes": 9,
        "disk_bytes": 8,
    }
    write_json(run.dir / "plan.json", plan)
    steps(run, 1, 10, evaluations={2: 0.5, 4: 0.6, 6: 0.7})
    choose(run, 2)
    found = summary(run, 2, planned=40)
    assert found.estimate == {"seconds": 100.0, "validation_seconds": 9.0, "memory_bytes": 9.0, "disk_bytes": 8.0}
    assert found.estimate_scaled
    whole = summary(run, 2, planned=10)
    write_json(run.dir / "plan.json", {**plan, "steps": 10, "validations": 3})
    whole = summary(run, 2, planned=10)
    assert (whole.estimate["seconds"], whole.estimate["validation_seconds"]) == (400.0, 60.0)
    assert not whole.estimate_scaled
    write_json(run.dir / "plan.json", {"steps": 20, "seconds": 400.0})  # of an older Metier
    assert summary(run, 2, planned=20).estimate == {"seconds": 200.0}


def test_the_measured_checkpoint_is_named_whatever_was_chosen(run: Run) -> None:
    steps(run, 1, 8, evaluations={4: 0.5, 8: 0.7})
    choose(run, 4)
    assert (summary(run, 8, planned=8).best_step, summary(run, 8, planned=8).chosen_by) == (8, "request")


def test_before_the_first_evaluation_the_newest_checkpoint_is_measured(run: Run) -> None:
    steps(run, 1, 3)
    for step in (2, 3):
        (run.checkpoints_dir / f"step-{step:06d}").mkdir(parents=True)
    assert (summary(run, 3, planned=8).best_step, summary(run, 3, planned=8).chosen_by) == (3, "last step")
    assert summary(run, 2, planned=8).chosen_by == "request"


def test_the_choices_are_those_of_the_training_wherever_it_is_measured(run: Run) -> None:
    steps(run, 1, 2)
    assert summary(run, 2, planned=2).choices == {"device": "cpu because it is here"}
    write_json(run.dir / "environment.json", {"choices": {"device": "cuda because it is the fastest"}})
    assert summary(run, 2, planned=2).choices == {"device": "cuda because it is the fastest"}
