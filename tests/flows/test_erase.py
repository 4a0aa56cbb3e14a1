"""People leave a project in which a real run was trained and evaluated, through the command line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from erasing import Person, people, rows_of
from metier.cli import app
from metier.core.project import Project
from metier.data.versions import Dataset
from tiny import write_model

PERSONS = people(45, seed=11)
FAST = ["model.name_or_path=base", "training.max_steps=4", "training.max_length=64", "adapter.kind=full"]
WORDS = [*FAST, "data.sources.0.permission.subject_key=person", "method.kind=classify", "evaluation.slices=[person]"]


def metier(folder: Path, *argv: str, code: int = 0) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        returned = app.run(argv)
    assert returned == code, f"{' '.join(argv)}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()


def said_of(root: Path, person: Person) -> list[str]:
    """The files that hold the key or half a text of a person."""
    words = [w for text in person.texts for w in (text[:50], text[-50:])]
    found = []
    for file in (p for p in sorted(root.rglob("*")) if p.is_file()):
        data = file.read_bytes()
        if any(word.encode() in data for word in (person.key, *words)):
            found.append(file.relative_to(root).as_posix())
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run that was trained, and measured on test and on validation."""
    folder = tmp_path_factory.mktemp("flow") / "desk"
    folder.mkdir()
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["person", "text", "label"])
        writer.writeheader()
        writer.writerows(rows_of(PERSONS))
    write_model(folder / "base")
    metier(folder, "init", "--data", "rows.csv", "--name", "desk", "--json")
    metier(folder, "data", "prepare", *WORDS, "--json")
    metier(folder, "train", *WORDS, "--json")
    metier(folder, "evaluate", "1", "--split", "validation", "--json")
    return folder


@pytest.fixture(scope="module")
def chosen(home: Path) -> dict[str, Person]:
    """A person of whom there is a row in train, in validation and in test."""
    version = Dataset.find(Project(home), "data:desk")
    by_key = {p.key: p for p in PERSONS}
    found: dict[str, Person] = {}
    for split in ("validation", "test", "train"):
        taken = {p.key for p in found.values()}
        keys = [str(e.meta["person"]) for e in version.examples(split)]  # type: ignore[arg-type]
        found[split] = by_key[next(key for key in keys if key not in taken)]
    return found


def test_a_dry_run_shows_and_changes_nothing(home: Path, chosen: dict[str, Person]) -> None:
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()}
    out, _ = metier(home, "erase", "--subject", chosen["train"].key, "--dry-run")
    assert "rows.csv" in out and "data:desk@v1" in out and "runs that saw the rows  1" in out
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("split", ["validation", "test", "train"])
def test_a_person_leaves_and_their_run_says_so(home: Path, chosen: dict[str, Person], split: str) -> None:
    person = chosen[split]
    before = said_of(home, person)
    assert any(name.startswith("datasets/") for name in before)
    assert any(name.startswith("runs/") for name in before) or split == "train", "no report quotes rows of train"
    certificate: dict[str, Any] = json.loads(metier(home, "erase", "--subject", person.key, "--yes", "--json")[0])
    assert certificate["complete"] and certificate["scan"]["hits"] == 0
    assert said_of(home, person) == []
    stores = {entry["store"] for entry in certificate["removed"]}
    assert stores >= {"sources", "versions"}
    assert {"validation": "token caches", "test": "predictions", "train": "sources"}[split] in stores
    assert certificate["certificate"] in metier(home, "runs", "ls")[0]
    assert certificate["certificate"] in metier(home, "runs", "show", "1")[0]
    (report,) = home.glob("runs/0001-*/report.md")
    assert certificate["certificate"] in report.read_text()
    assert "whole" in metier(home, "audit", "verify")[0]
    assert len(Dataset.find(Project(home), "data:desk@v1").manifest["tombstones"]) == 1 + list(chosen).index(split)


def test_its_model_is_not_exported_and_it_can_be_measured_again(home: Path) -> None:
    assert "E608" in metier(home, "models", "export", "1", code=6)[1]
    metier(home, "evaluate", "1", "--json")
    (card,) = home.glob("runs/0001-*/README.md")
    assert card.read_text().count("(certificate erasure-") >= 3


def test_it_is_trained_anew_on_the_rows_that_stay(home: Path, chosen: dict[str, Person]) -> None:
    metier(home, "runs", "resume", "1", "--fork", "--json")
    version = Dataset.find(Project(home), "data:desk")
    people_left = {e.meta["person"] for split in ("train", "validation", "test") for e in version.examples(split)}  # type: ignore[arg-type]
    assert not people_left & {p.key for p in chosen.values()} and len(people_left) == len(PERSONS) - 3
    assert all(said_of(home, person) == [] for person in chosen.values())
    metier(home, "models", "export", "2", "--to", "out", "--json")


def test_a_stranger_is_an_error_with_its_code(home: Path) -> None:
    assert "E369" in metier(home, "erase", "--subject", "P-nobody", "--yes", code=3)[1]
    error = json.loads(metier(home, "erase", "--subject", "P-nobody", "--also", "Al", "--json", code=2)[0])
    assert error["error"]["code"] == "E292"


def test_without_a_yes_nothing_happens(home: Path) -> None:
    import sys

    command = [sys.executable, "-m", "metier.cli", "erase", "--subject", PERSONS[-1].key]
    done = subprocess.run(command, cwd=home, input="n\n", capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "Erase this for good?" in done.stderr
    assert said_of(home, PERSONS[-1])
