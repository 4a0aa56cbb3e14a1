"""Malformed rows through the command line: counted by class, listed by line, their content shown nowhere."""

from __future__ import annotations

import contextlib
import io
import json
import stat
from pathlib import Path

import yaml

from malformed import KINDS, MARK, mixed
from metier.cli import app
from metier.core.project import Project

NUM_ROWS, NUM_BAD = 1_000, len(KINDS)


def project(root: Path) -> Project:
    """A project with one source of which 3 % are malformed."""
    Project.create(root, "desk")
    (root / "data" / "rows.jsonl").write_bytes(mixed(NUM_ROWS, NUM_BAD, seed=2).data)
    recipe = {
        "version": 1,
        "name": "desk",
        "objective": {"task": "classify"},
        "data": {"sources": [{"path": "data/rows.jsonl"}]},
        "method": {"kind": "classify"},
    }
    (root / "recipes" / "desk.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return Project(root)


def run(root: Path, *argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run(argv)
    return code, out.getvalue(), err.getvalue()


def test_what_malformed_rows_hold_stands_in_the_quarantine_alone(tmp_path: Path) -> None:
    here = project(tmp_path / "desk")
    said = []
    for argv, expected in (
        (["data", "prepare"], 0),
        (["data", "prepare", "--json"], 0),
        (["data", "check"], 0),
        (["data", "check", "--show", "E310"], 0),
        (["data", "check", "--json"], 0),
        (["data", "card", "data:desk"], 0),
        (["data", "prepare", "data.max_quarantine=0.01"], 3),
        (["data", "check", "data.max_quarantine=0.01", "--json"], 3),
    ):
        code, out, err = run(here.root, *argv)
        assert code == expected, (argv, out, err)
        said += [out, err]
    bad = dict(mixed(NUM_ROWS, NUM_BAD, seed=2).bad)
    assert not any(MARK in text for text in said)
    (made,) = (json.loads(text) for text in said[2:3])
    assert sum(made["rows"].values()) == NUM_ROWS - NUM_BAD
    listed = [line.split() for line in said[6].splitlines() if "rows.jsonl:" in line]
    assert len(listed) == NUM_BAD
    assert all(any(bad[int(word.partition(":")[2])] in line for word in line if ":" in word) for line in listed)
    holding = sorted(p for p in here.root.rglob("*") if p.is_file() and MARK.encode() in p.read_bytes())
    assert [p.relative_to(here.root).parts[0] for p in holding] == ["data", "private", "private"]
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in holding[1:])
    audit = (here.root / "audit.jsonl").read_text()
    assert "data.prepare" in audit and MARK not in audit
