"""A consent that is withdrawn blocks the next use of the rows, by whichever verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metier.actions import evaluate as evaluating
from metier.actions import execute as executing
from metier.actions.evaluate import evaluate
from metier.actions.execute import execute
from metier.actions.train import create, remove, resume
from metier.cli import app
from metier.core.errors import ConfigError, PermissionDenied
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.data.dataset import build
from tiny import chat_rows

STATED = {"license": "CC-BY-4.0", "basis": "consent", "consent_id": "c-1", "purpose": ["training"]}


def recipe(project: Project, **more: Any) -> Recipe:
    source = {"path": "rows.jsonl", "permission": {**STATED, **more}}
    made = Recipe.build({"name": "desk", "data": {"sources": [source]}})
    (project.root / "recipes" / "desk.yaml").write_text(made.to_yaml())
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "desk", "desk")
    (project.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(40)))
    return project


@pytest.fixture
def run(project: Project) -> Run:
    """A stopped run that read a version."""
    made = recipe(project)
    run = create(made, project)
    version = build(made, project)
    run.update(state="stopped", dataset=version.ref, dataset_digest=version.digest)
    return run


def test_neither_resume_nor_fork_goes_by_the_runs_own_old_copy(project: Project, run: Run) -> None:
    assert resume(project, "1").status()["state"] == "stopped"
    recipe(project, consent_withdrawn="2020-01-01")
    for fork in (False, True):
        with pytest.raises(PermissionDenied, match="E606") as refused:
            resume(project, "1", fork=fork)
        assert refused.value.place.startswith("recipes/desk.yaml:")
    assert len(project.run_dirs()) == 1
    recipe(project)
    assert resume(project, "1", fork=True).number == 2


def test_a_day_that_is_none_stops_the_source_it_stands_at_and_no_other_recipe(project: Project) -> None:
    text = "name: other\ndata: {sources: [{path: other.jsonl, permission: {retention: 2027-02-30}}]}\n"
    (project.root / "recipes" / "other.yaml").write_text(text)
    assert create(recipe(project), project).number == 1
    with pytest.raises(ConfigError, match="E267") as refused:
        create(Recipe.parse(text, file="other.yaml"), project)
    assert (refused.value.place, refused.value.received) == ("other.yaml:2", "2027-02-30")


def test_a_renewed_consent_lets_a_run_go_on(project: Project, run: Run) -> None:
    copy = run.dir / "recipe.resolved.yaml"
    copy.write_text(copy.read_text().replace("consent_expires: null", "consent_expires: '2020-01-01'"))
    run.update(dataset=None, dataset_digest=None)  # it was stopped before its rows were prepared
    (project.root / "recipes" / "desk.yaml").unlink()
    for fork in (False, True):
        with pytest.raises(PermissionDenied, match="E603"):
            resume(project, "1", ["training.save_steps=5"], fork=fork)
    recipe(project, consent_expires="2999-01-01")
    resume(project, "1")
    resume(project, "1", fork=True)
    with pytest.raises(PermissionDenied, match="E603"):
        resume(project, "1", ["data.sources.0.permission.consent_expires='2020-01-02'"], fork=True)


class _Reached(Exception):
    """The rows were about to be used."""


def _reached(*_: object, **__: object) -> None:
    raise _Reached


def test_an_evaluation_asks_before_anything_is_loaded(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "loaded", _reached)
    for purpose in (["training"], ["evaluation"]):
        recipe(project, purpose=purpose)
        with pytest.raises(_Reached):
            evaluate(project, "1")
    for words, code in (({"consent_withdrawn": "2020-01-01"}, "E606"), ({"purpose": ["research"]}, "E602")):
        recipe(project, **words)
        with pytest.raises(PermissionDenied, match=code):
            evaluate(project, "1@step-2")


def test_a_run_asks_again_when_its_turn_comes(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "compose", _reached)
    stop: Any = None
    with pytest.raises(_Reached):
        execute(run, project, stop)
    fresh = create(recipe(project), project)
    recipe(project, consent_withdrawn="2020-01-01")
    for waiting in (run, fresh):
        with pytest.raises(PermissionDenied, match="E606"):
            execute(waiting, project, stop)


# ───────────────────────────────────────────────────────────────────────────── what an erasure needs later


def test_a_run_stays_while_a_model_of_it_is_there(project: Project, run: Run) -> None:
    folder = project.root / "models" / "desk"
    folder.mkdir(parents=True)
    run.update(exports=[{"to": "models/desk", "form": "hf", "time": "2026-11-21T00:00:00.000Z"}])
    child = Run.create(project.new_run_dir("sft", "child"), model="models/desk")
    with pytest.raises(ConfigError, match="E294") as refused:
        remove(project, "1")
    assert refused.value.received == "models/desk, run 2" and run.dir.exists()
    folder.rmdir()
    with pytest.raises(ConfigError, match="E294") as refused:
        remove(project, "1")
    assert refused.value.received == "run 2"
    remove(project, str(child.number))
    remove(project, "1")
    assert project.run_dirs() == []


def test_a_copy_of_a_run_is_never_taken_for_the_run_itself(
    project: Project, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = project.root / "backup" / run.dir.name
    shutil.copytree(run.dir, copy)
    with pytest.raises(ConfigError, match="E299") as refused:
        remove(project, str(copy))
    assert refused.value.place == str(copy) and run.dir.exists() and copy.exists()
    monkeypatch.chdir(tmp_path)
    assert app.run(["runs", "rm", str(copy), "--yes"]) == 2
    assert "E299" in capsys.readouterr().err and run.dir.exists()
    assert app.run(["runs", "rm", str(run.dir), "--yes"]) == 0, "by its directory from anywhere"
    assert not run.dir.exists() and copy.exists()
