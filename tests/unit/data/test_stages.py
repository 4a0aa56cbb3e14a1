"""A preparation that is interrupted continues, and makes the version that an unbroken one makes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import DataError, MetierError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS
from metier.data import dataset, stages
from metier.data.dataset import build

STEPS = ["clean", {"kind": "deduplicate", "match": "near"}, "filter_quality", {"kind": "balance", "ratio": 4}]
CHILD = """
import os, signal, sys
from pathlib import Path
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.data.dataset import build

left = int(sys.argv[2])
def met(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

fsync = os.fsync
os.fsync = lambda handle: (met(), fsync(handle))
project = Project(Path(sys.argv[1]))
print(build(Recipe.read(project.root / "recipes" / "desk.yaml"), project, progress=met).digest)
"""


def written(recipe: Recipe, project: Project) -> Recipe:
    (project.root / "recipes" / "desk.yaml").write_text(recipe.to_yaml())
    return recipe


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with rows of two sources, some of them dirty, twins or broken."""
    made = Project.create(tmp_path / "desk", "desk")
    rng = random.Random(5)
    words = [f"{a}{b}" for a in ("bal", "cor", "dun", "fer") for b in ("ta", "mi", "so", "len", "ruk", "vo")]
    rows = [{"text": " ".join(rng.sample(words, 7)), "label": f"l{i % 3}", "who": f"p{i // 2}"} for i in range(600)]
    rows += [{**rows[i], "text": f"  {rows[i]['text']}\x07 "} for i in range(0, 60, 2)]
    lines = [json.dumps(row) for row in rows]
    lines[17:17] = ['{"text": "no label"}', "{"]
    (made.root / "data" / "a.jsonl").write_text("\n".join(lines[:400]) + "\n")
    (made.root / "data" / "b.jsonl").write_text("\n".join(lines[400:]) + "\n")
    return made


def recipe(**data: Any) -> Recipe:
    sources = [{"path": "data/a.jsonl"}, {"path": "data/b.jsonl", "split": "train"}]
    values = {"sources": sources, "steps": STEPS, "split": {"group_by": "who"}, **data}
    return Recipe.build({"name": "desk", "data": values, "method": "classify"}, file="desk.yaml")


def kept(project: Project) -> list[Path]:
    return [path for path in stages.folder(project, "desk").glob("*") if path.is_dir()]


def interrupted(project: Project, made: Recipe, monkeypatch: pytest.MonkeyPatch, at: str = "divide") -> Path:
    """Prepare until a function is reached, and return what is left behind."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(dataset, at, stop)
        build(made, project)
    (folder,) = kept(project)
    return folder


def test_killed_at_any_point_it_ends_in_the_same_version(project: Project, tmp_path: Path) -> None:
    made = written(recipe(), project)
    child = [sys.executable, "-c", CHILD]

    def run(root: Path, after: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*child, str(root), str(after)], capture_output=True, text=True, check=False)

    pristine = tmp_path / "pristine"
    shutil.copytree(project.root, pristine)
    unbroken = build(made, project)
    rng = random.Random(0)
    num_continued = 0
    for attempt in range(6):
        root = tmp_path / f"attempt{attempt}"
        shutil.copytree(pristine, root)
        again, said = Project(root), []
        after = rng.randrange(45)
        done = run(root, after)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        there = bool(kept(again)) and (kept(again)[0] / stages.STATE).is_file()
        version = build(made, again, progress=lambda what, *_, said=said: said.append(what))
        continued = any(what.startswith("continuing") for what in said)
        assert continued == there or done.returncode == 0
        num_continued += continued
        assert version.digest == unbroken.digest
        for split in SPLITS:
            name = f"{split}.jsonl"
            assert (version.dir / name).read_bytes() == (unbroken.dir / name).read_bytes()
        assert kept(again) == []
    assert num_continued >= 2


def test_steps_that_are_done_are_not_done_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(project, recipe(), monkeypatch)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert json.loads((folder / stages.STATE).read_text())["num_done"] == 3
    said: list[str] = []
    build(recipe(), project, progress=lambda what, *_: said.append(what))
    assert said[0] == "continuing an interrupted preparation behind filter_quality"
    assert not any(what.startswith("reading") or what == "clean" for what in said) and "balance" in said
    assert kept(project) == []


@pytest.mark.parametrize(
    "file", ["rows.jsonl", "state.json", "3-pool-auto.npy", "3-characters.npy", "quarantine.jsonl"]
)
@pytest.mark.parametrize("harm", ["cut", "altered", "gone"])
def test_what_was_harmed_is_not_trusted(
    project: Project, monkeypatch: pytest.MonkeyPatch, file: str, harm: str
) -> None:
    folder = interrupted(project, recipe(), monkeypatch)
    data = (folder / file).read_bytes()
    if harm == "gone":
        (folder / file).unlink()
    else:
        middle = len(data) // 2
        (folder / file).write_bytes(data[:middle] + (bytes([data[middle] ^ 1]) + data[middle + 1 :]) * (harm != "cut"))
    said: list[str] = []
    version = build(recipe(), project, progress=lambda what, *_: said.append(what))
    assert not any(what.startswith("continuing") for what in said) and "clean" in said
    assert version.manifest["quarantine"]["rows"] == 2 and kept(project) == []


def test_other_inputs_begin_anew_and_what_was_kept_of_the_old_ones_goes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = interrupted(project, recipe(), monkeypatch)
    new = interrupted(project, recipe(split={"seed": 3}), monkeypatch, at="prepare")
    assert new != old and not old.exists()


def test_a_refusal_leaves_the_bad_rows_and_nothing_else(project: Project) -> None:
    with pytest.raises(DataError, match="E310"):
        build(recipe(max_quarantine=0.001), project)
    assert kept(project) == []
    (bad,) = (project.private_dir / "quarantine" / "desk").glob("*.jsonl")
    assert len(bad.read_text().splitlines()) == 2
    with pytest.raises(MetierError, match="E305"):
        build(recipe(steps=[{"kind": "filter_length", "min_characters": 10_000}]), project)
    assert kept(project) == []


def test_behind_surrogates_nothing_is_kept_before_their_vault_is(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    surrogate = {"kind": "deidentify", "strategy": "surrogate", "columns": {"who": "PERSON"}}
    made = recipe(steps=["clean", surrogate, "filter_quality"], split={})
    folder = interrupted(project, made, monkeypatch)
    assert json.loads((folder / stages.STATE).read_text())["num_done"] == 1
    version = build(made, project)
    assert {record["name"] for record in version.manifest["steps"]} == {"clean", "deidentify", "filter_quality"}


def test_two_preparations_of_one_name_make_one_version(project: Project) -> None:
    found: list[Any] = []
    said: list[str] = []

    def second() -> None:
        found.append(build(recipe(), project, progress=lambda what, *_: said.append(what)))

    def first(what: str, *_: object) -> None:
        if what == "clean" and not other.ident:
            other.start()
            while not said:
                other.join(0.01)

    other = threading.Thread(target=second)
    one = build(recipe(), project, progress=first)
    other.join()
    assert said == ["waiting: `desk` is being prepared by another process"]
    assert found[0].dir == one.dir and one.version == "v1"
    assert [path.name for path in stages.folder(project, "desk").iterdir()] == [".lock"]
