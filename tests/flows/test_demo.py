"""The demo as a new user meets it: one command, from rows to a verdict, and again in the same folder."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

from metier.actions import demo
from metier.cli import app
from metier.core.project import Project
from metier.core.recipe import Recipe


def test_one_command_goes_from_rows_to_a_verdict(tmp_path: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert app.run(["demo", "desk"]) == 0, err.getvalue()
    said, printed = err.getvalue(), out.getvalue()
    marks = ["1 project", "2 plan", "3 run", "validation at step", "next  "]
    places = [said.index(mark) for mark in marks]
    assert places == sorted(places)
    written = next((tmp_path / "desk" / "runs").glob("*/report.json"))
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["verdict"] in ("worth_it", "below_floor", "target_missed"), "better than the untouched base"
    assert report["sentence"] in printed
    shown = re.search(r"\S*report\.html", printed)
    assert shown is not None and (tmp_path / shown[0]).is_file()
    following = [line.removeprefix("next") for line in said[places[-1] :].strip().splitlines()]
    verbs = [shlex.split(line.partition(" && ")[2])[1] for line in following]
    assert verbs == ["report", "predict", "train"]


def test_a_second_demo_in_the_folder_leaves_what_was_changed(tmp_path: Path) -> None:
    project, path = demo.create(tmp_path / "desk")
    changed = path.read_text(encoding="utf-8").replace("num_train_epochs:", "num_train_epochs: 1 #")
    path.write_text(changed, encoding="utf-8")
    rows = project.root / "data" / "messages.csv"
    rows.unlink()
    again, same = demo.create(tmp_path / "desk")
    assert (again.root, same) == (project.root, path)
    assert path.read_text(encoding="utf-8") == changed and rows.is_file()
    assert Recipe.read(path).training.num_train_epochs == 1
    assert Project.find(rows.parent).root == project.root
