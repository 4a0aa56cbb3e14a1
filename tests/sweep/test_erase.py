"""The long proof of `metier erase`: a hundred people leave a project one after another, and none of them is left.

Each has rows of their own, a copy without a key, a text of somebody else that says their name, a memo, a bad row. Every
tenth erasure is killed at a random store first, and before every fifth one a preparation is left half done. What is
left is looked for without Metier's own search.

    METIER_SWEEP_PEOPLE=100
"""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest

from erasing import Person, interrupted, people, project_with, rows_of, run_on
from metier.actions import erase as actions
from metier.core import audit
from metier.core.project import Project
from metier.core.types import SPLITS
from metier.data.source import read_rows
from metier.data.versions import Dataset

pytestmark = pytest.mark.sweep

NUM = int(os.environ.get("METIER_SWEEP_PEOPLE", "100"))
SEED = int(os.environ.get("METIER_SWEEP_SEED", "0"))


def left_of(root: Path, persons: list[Person]) -> dict[str, list[str]]:
    """Person → files that hold their key, their name, or fifty characters of a text of theirs from either end."""
    words = {p.key: [p.key, p.name, *(x for t in p.texts for x in (t[:50], t[-50:]))] for p in persons}
    found: dict[str, list[str]] = {}
    for file in (p for p in sorted(root.rglob("*")) if p.is_file()):
        data = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).lower()
        for key, parts in words.items():
            if any(part.lower().encode() in data for part in parts):
                found.setdefault(key, []).append(file.relative_to(root).as_posix())
    return found


def test_a_hundred_people_leave_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(SEED)
    persons = people(NUM + 50, seed=SEED)
    leaving, staying = persons[:NUM], persons[NUM:]
    project, version, recipe = project_with(tmp_path / "desk", persons, leaving)
    run = run_on(project, version, recipe)

    def of_staying(found: Dataset) -> list[str]:
        keys = {p.key for p in staying}
        return [e.id for split in SPLITS for e in found.examples(split) if e.meta.get("person") in keys]

    rows_of_staying = of_staying(version)
    assert len(rows_of_staying) == 2 * len(staying)
    assert len(left_of(project.root, leaving)) == NUM
    hits, num_killed = 0, 0
    stores = [type(s) for s in actions.stores_of(Project.__new__(Project), [], "", "")]
    for number, person in enumerate(leaving):
        if number % 5 == 0:
            interrupted(project, recipe)
        if number % 10 == 9:
            num_killed += _kill(project, person, rng.choice(stores), monkeypatch)
        certificate = actions.erase(project, actions.prepare(project, person.key, [person.name]))
        hits += certificate["scan"]["hits"]
        assert certificate["complete"]
    assert hits == 0 and num_killed == NUM // 10
    assert left_of(project.root, leaving) == {}
    assert len(list((project.root / "erasures").glob("*.json"))) == NUM
    assert audit.verify(project) == []
    rest = Dataset.find(project, version.ref)
    assert len(rest.manifest["tombstones"]) == NUM
    assert of_staying(rest) == rows_of_staying
    assert [row.value for row in read_rows(project.root / "data" / "rows.csv")] == rows_of(staying, first=2 * NUM)  # type: ignore[union-attr]
    assert len(run.status()["erased"]) == NUM


def _kill(project: Project, person: Person, store: type, monkeypatch: pytest.MonkeyPatch) -> int:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "erase", killed)
        with pytest.raises(KeyboardInterrupt):
            actions.erase(project, actions.prepare(project, person.key, [person.name]))
    return 1
