"""Facts that an evaluation adds to the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import metier
from contract.test_methods import parts
from metier.actions import compose, evaluate, models, train
from metier.actions.compose import Parts
from metier.core.errors import ConfigError
from metier.core.project import Project, digest_file, read_json, write_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.evaluation import card
from metier.training import checkpoint, loop
from metier.training.validate import validate
from tiny import labelled_rows, write_model


def test_the_reload_is_compared_with_the_figures_of_its_own_checkpoint(tmp_path: Path) -> None:
    method, feed, policy = parts("sft", "lora", {"r": 2})
    figures = validate(policy, method, feed, budget_tokens=512, packing=False)
    write_json(tmp_path / "best.json", {"checkpoint": "step-000009", "step": 9, "figures": {"loss": 99.0}})
    write_json(tmp_path / "checkpoints" / "step-000004" / "state.json", {"figures": figures})
    given: Any = SimpleNamespace(
        policy=policy,
        method=method,
        validation=feed,
        plan=SimpleNamespace(micro_batch_tokens=512, training=SimpleNamespace(packing=False)),
    )
    found = evaluate._reloaded(given, Run(tmp_path), tmp_path / "checkpoints" / "step-000004")["reload"]
    assert (found["checkpoint"], found["largest_difference"], found["passed"]) == ("step-000004", 0.0, True)


def test_the_reload_computes_with_the_micro_batch_that_was_found_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(evaluate, "validate", lambda *_, budget_tokens, **__: used.append(budget_tokens) or {"loss": 1})
    method, feed, policy = parts("sft", "lora", {"r": 2})
    given: Any = SimpleNamespace(
        policy=policy,
        method=method,
        validation=feed,
        plan=SimpleNamespace(micro_batch_tokens=4096, training=SimpleNamespace(packing=False)),
    )
    for halved in (512, 8192):
        write_json(tmp_path / "state.json", {"figures": {"loss": 1.0}, "micro_batch_tokens": halved})
        evaluate._reloaded(given, Run(tmp_path), tmp_path)
    assert used == [512, 4096]


@pytest.mark.parametrize(
    ("then", "now", "recorded", "reloaded", "tolerance", "passed"),
    [
        ("float32", torch.float32, 0.5, 0.50009, 1e-4, True),
        ("float32", torch.float32, 0.5, 0.5002, 1e-4, False),
        ("float32", torch.float32, 8.0, 8.0007, 8e-4, True),
        ("bfloat16", torch.bfloat16, 0.5, 0.515, 2e-2, True),
        ("bfloat16", torch.bfloat16, 0.5, 0.53, 2e-2, False),
        ("bfloat16", torch.float32, 0.5, 0.515, 2e-2, True),  # measured on another machine
        (None, torch.float32, 0.5, 0.515, 1e-4, False),
    ],
)
def test_the_reload_is_judged_by_the_coarser_of_both_precisions(
    then: str | None,
    now: torch.dtype,
    recorded: float,
    reloaded: float,
    tolerance: float,
    passed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "validate", lambda *_, **__: {"loss": reloaded})
    write_json(tmp_path / "state.json", {"figures": {"loss": recorded}})
    if then:
        write_json(tmp_path / "environment.json", {"pinned": {"dtype": then}})
    given: Any = SimpleNamespace(
        policy=SimpleNamespace(dtype=now),
        method=None,
        validation=parts("sft", "lora", {"r": 2})[1],
        plan=SimpleNamespace(micro_batch_tokens=512, training=SimpleNamespace(packing=False)),
    )
    found = evaluate._reloaded(given, Run(tmp_path), tmp_path)["reload"]
    assert (found["tolerance"], found["passed"]) == (pytest.approx(tolerance), passed)


def test_the_reload_runs_through_the_whole_model_and_not_from_the_cache_of_its_frozen_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(evaluate, "validate", lambda policy, method, feed, **_: seen.append(feed) or {"loss": 1.0})
    write_json(tmp_path / "state.json", {"figures": {"loss": 1.0}})
    _, feed, policy = parts("sft", "lora", {"r": 2})
    given: Any = SimpleNamespace(
        policy=policy,
        method=None,
        validation=replace(feed, trunk=object()),  # type: ignore[arg-type]
        plan=SimpleNamespace(micro_batch_tokens=512, training=SimpleNamespace(packing=False)),
    )
    evaluate._reloaded(given, Run(tmp_path), tmp_path)
    assert seen[0].trunk is None and seen[0].items is feed.items


def test_a_reference_names_its_checkpoint_and_without_one_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path / "0001-ab-sft-x")
    for step in (4, 9):
        (run.checkpoints_dir / f"step-{step:06d}").mkdir(parents=True)
    write_json(run.dir / "best.json", {"checkpoint": "step-000004"})
    assert evaluate._named(run, "1").name == "step-000004"
    assert evaluate._named(run, "run:1@step-9").name == "step-000009"


# ───────────────────────────────────────────────────────────────────────────── where an evaluation is written


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Run]:
    """A run with two checkpoints, of which validation chose the first; its policy holds the second."""
    project = Project.create(tmp_path_factory.mktemp("evaluate") / "desk", "desk")
    write_model(project.root / "base")
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows(96)))
    recipe = Recipe.build(
        {
            "name": "desk",
            "objective": {"task": "classify", "targets": {"accuracy": ">= 0.01"}},
            "data": {"sources": [{"path": "data/rows.jsonl"}], "split": {"validation": 0.2, "test": 0.2}},
            "model": {"name_or_path": "base", "dtype": "float32"},
            "method": {"kind": "classify"},
            "training": {"max_length": 64, "max_steps": 4, "learning_rate": 0.01},
            "evaluation": {"bootstrap_samples": 100},
        }
    )
    run = train.create(recipe, project)
    made = compose.compose(recipe, project)
    run.update(dataset=made.dataset.ref)
    write_json(run.dir / "environment.json", {"pinned": made.pinned, "choices": made.choices})
    state = loop.start(made.policy, made.plan)
    steps = loop.train(
        made.policy,
        made.method,
        lengths=made.train.lengths,
        collate=made.train.collate,
        plan=made.plan,
        state=state,
    )
    for info in steps:
        if info.step in (2, 4):
            figures = validate(made.policy, made.method, made.validation, budget_tokens=4096, packing=True)
            checkpoint.save(run.checkpoints_dir, made.policy, state, digests=made.digests, figures=figures)
    write_json(run.dir / "best.json", {"checkpoint": "step-000002", "step": 2, "chosen_by": "accuracy"})
    return made, run


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): digest_file(p) for p in folder.rglob("*") if p.is_file()}


def test_an_evaluation_on_the_side_leaves_the_report_of_the_run_alone(trained: tuple[Parts, Run]) -> None:
    made, run = trained
    project = made.project
    number = str(run.number)
    main = evaluate.evaluate(project, number)
    assert (main.split, main.training.best_step, main.parity["reload"]["passed"]) == ("test", 2, True)
    assert {"report.html", "report.md", "report.json", "README.md", "predictions/test-run.jsonl"} <= set(files(run.dir))
    before = {name: digest for name, digest in files(run.dir).items() if not name.startswith("evaluations/")}

    validated = evaluate.evaluate(project, number, split="validation")
    other = evaluate.evaluate(project, f"{number}@step-4")
    assert {name: d for name, d in files(run.dir).items() if not name.startswith("evaluations/")} == before
    written = files(run.evaluations_dir)
    assert sorted({name.partition("/")[0] for name in written}) == ["test-step-000004", "validation-step-000002"]
    for folder, report in (("validation-step-000002", validated), ("test-step-000004", other)):
        assert read_json(run.evaluations_dir / folder / "report.json") == report.model_dump(mode="json")
        assert {f"{folder}/report.html", f"{folder}/report.md"} <= set(written)
        assert f"{folder}/predictions/{report.split}-run.jsonl" in written
        assert f"{folder}/README.md" not in written
    assert validated.reproduce["evaluate"] == f"metier evaluate {number} --split validation"
    assert other.reproduce["evaluate"] == f"metier evaluate {number}@step-000004"
    assert main.reproduce["evaluate"] == f"metier evaluate {number}"

    same = evaluate.compare(project, number, f"run:{number}@best")
    assert [row.delta for row in same.rows if row.metric == "accuracy"] == [0.0]
    against = evaluate.compare(project, number, f"{number}@step-4")
    accuracy = next(row for row in against.rows if row.metric == "accuracy")
    assert accuracy.other == f"run {number}@step-000004"
    value = {r.training.best_step: r.systems[0].figures[0].value for r in (main, other)}
    assert accuracy.delta == pytest.approx((value[2] or 0) - (value[4] or 0))


@pytest.mark.parametrize("at", ["", "@best", "@step-2", "@step-4"])
def test_an_export_carries_the_card_of_its_own_checkpoint(
    at: str, trained: tuple[Parts, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = trained
    ref = f"{run.number}{at}"
    report = evaluate.evaluate(made.project, ref)
    monkeypatch.setattr(models, "gate", lambda *_: "optional")
    models.export(made.project, ref, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == card.render(report, form="hf")
    assert report.training.best_step == (4 if at == "@step-4" else 2)


def test_an_export_of_an_unmeasured_checkpoint_has_no_card(
    trained: tuple[Parts, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = trained
    shutil.rmtree(run.evaluations_dir, ignore_errors=True)
    monkeypatch.setattr(models, "gate", lambda *_: "optional")
    models.export(made.project, f"{run.number}@step-4", tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_unmeasured_checkpoint_is_not_compared_by_the_figures_of_another(trained: tuple[Parts, Run]) -> None:
    made, run = trained
    reports = run.evaluations_dir / "test-step-000004"
    if reports.exists():
        reports.rename(run.evaluations_dir / "elsewhere")
    with pytest.raises(ConfigError, match="E254") as caught:
        evaluate.compare(made.project, f"{run.number}@step-4", f"{run.number}@step-4")
    assert caught.value.fix == f"metier evaluate {run.number}@step-000004"


def test_a_report_of_the_checkpoint_that_was_chosen_before_is_of_no_use_for_the_one_chosen_now(
    trained: tuple[Parts, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and measured, then resumed and stopped again: the weights of `best` are not those of the report."""
    made, run = trained
    number, best = str(run.number), read_json(run.dir / "best.json")
    monkeypatch.setattr(models, "gate", lambda *_: "optional")
    evaluate.evaluate(made.project, number)
    assert run.report_of_another() == ""
    write_json(run.dir / "best.json", {"checkpoint": "step-000004", "step": 4, "chosen_by": "accuracy"})
    try:
        assert run.report_of_another() == "step-000002"
        models.export(made.project, number, tmp_path / "before")
        assert not (tmp_path / "before" / "README.md").exists()
        with pytest.raises(ConfigError, match="has no report of its chosen checkpoint") as caught:
            evaluate.compare(made.project, number, f"{number}@step-4")
        assert (caught.value.received, caught.value.fix) == ("a report of step-000002", f"metier evaluate {number}")
        report = evaluate.evaluate(made.project, number)
        models.export(made.project, number, tmp_path / "after")
        assert (tmp_path / "after" / "README.md").read_text() == card.render(report, form="hf")
        assert report.training.best_step == 4 and run.report_of_another() == ""
    finally:
        write_json(run.dir / "best.json", best)


@pytest.mark.parametrize(
    ("rows", "split", "step", "place"),
    [
        ({"validation": 5, "test": 5}, "test", 4, "."),
        ({"validation": 5, "test": 5}, "validation", 4, "evaluations/validation-step-000004"),
        ({"validation": 5, "test": 5}, "test", 9, "evaluations/test-step-000009"),
        ({"validation": 5, "test": 0}, "validation", 4, "."),
        ({"validation": 5, "test": 0}, "validation", 9, "evaluations/validation-step-000009"),
        ({"test": 5}, "test", 4, "."),
    ],
)
def test_only_the_chosen_checkpoint_on_the_held_out_rows_is_the_report_of_the_run(
    rows: dict[str, int], split: str, step: int, place: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "best.json", {"checkpoint": "step-000004"})
    assert evaluate.folder_of(Run(tmp_path), split=split, step=step, rows=rows) == tmp_path / place


def test_one_text_is_one_input_and_an_unknown_form_is_no_export(
    trained: tuple[Parts, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = trained
    one = metier.predict(run, ["my card"])
    assert metier.predict(run, "my card") == metier.predict(run, {"text": "my card"}) == one
    monkeypatch.setattr(models, "loaded", lambda *_: pytest.fail("the weights are loaded"))
    for form in ("gguf", "run", ""):
        with pytest.raises(ConfigError, match="E271"):
            metier.export(run, tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def test_a_run_with_the_longest_name_and_a_copy_elsewhere_are_used_through_the_package(
    trained: tuple[Parts, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = trained
    longest = Run(run.dir.with_name("0009-7f3a-classify-" + "x" * 64))
    copy = Run(made.project.root / "kept" / run.dir.name)
    for other in (longest, copy):
        shutil.copytree(run.dir, other.dir)
        shutil.rmtree(other.checkpoints_dir / "step-000002")  # only step 4 is left: nobody answers for it with another
        write_json(other.dir / "best.json", {"checkpoint": "step-000004"})
        assert len(metier.predict(other, ["my card", "the rate"])) == 2
        assert metier.predict(f"{other.dir}@step-4", ["my card"]) == metier.predict(other, ["my card"])
        with pytest.raises(ConfigError, match="E235"):
            metier.predict(f"{other.dir}@step-2", ["my card"])
    shutil.rmtree(longest.dir)


def test_targets_that_were_moved_after_the_start_are_refused(trained: tuple[Parts, Run]) -> None:
    made, run = trained
    before = files(run.dir)
    recipe = made.recipe.with_values({"objective.targets": {"accuracy": ">= 0.001"}})
    with pytest.raises(ConfigError, match="E272") as caught:
        evaluate.evaluate_parts(replace(made, recipe=recipe), run)
    assert caught.value.place.endswith("recipe.resolved.yaml") and caught.value.received == "accuracy >= 0.001"
    assert "--fork" in caught.value.fix
    assert files(run.dir) == before
    run.update(targets_digest=None)  # an older Metier wrote none
    evaluate.check_targets(recipe, run)
