"""What a run's directory says in words: events, log, status, recipe and plan. Reports and predictions are evaluation's.

Checkpoints hold numbers and figures, and are sealed; a model that saw rows is marked, not changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.core.errors import ConfigError
from metier.core.project import Project, now, read_json, write_bytes, write_json
from metier.core.run import Run
from metier.core.subject import ERASED, Subject, Trace, relative

MARK = "erased"
"""The field of status.json that says that rows of a run were erased: `certificate`, `time`, `rows` per erasure."""
_JSON = ("plan.json", "environment.json", "best.json", "recipe.lines.json")
_TEXT = ("recipe.yaml", "recipe.resolved.yaml")


def mark(run: Run, certificate: str, rows: dict[str, int]) -> None:
    """Write down that rows which a run saw are gone; once per certificate."""
    marks = [m for m in run.status().get(MARK, []) if m["certificate"] != certificate]
    run.update(**{MARK: [*marks, {"certificate": certificate, "time": now(), "rows": rows}]})


def base_of(run: Run, project: Project) -> Path | None:
    """Return where the base lies, or lay, that a run began with; None where a variable of another machine says it."""
    try:
        return project.path(str(run.status().get("model") or "").removeprefix("file:"))
    except ConfigError:
        return None


def warnings(status: Mapping[str, Any]) -> list[str]:
    """Return what a report, a card and `runs show` say of the erasures of a run, a sentence each."""
    return [
        f"{', '.join(f'{n:,} {split}' for split, n in m['rows'].items())} rows of this run were erased on "
        f"{m['time'][:10]} (certificate {m['certificate']}); the figures were measured before or without them"
        + ("; the weights were trained on them: retrain it, or retire it." if learnt([m]) else ".")
        for m in status.get(MARK, [])
    ]


def learnt(marks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the weights of a run were made with rows that are erased since: by training, or chosen on validation."""
    return any(m["rows"].get(split) for m in marks for split in ("train", "validation"))


class RunFileStore:
    """Events, logs, status, plans and recipes of all runs."""

    name = "run files"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the files with places that tell of the subject."""
        return self._each(subject, write=False)

    def erase(self, subject: Subject) -> list[Trace]:
        """Replace those places.

        Raises:
            MachineError: E420–E422.
        """
        return self._each(subject, write=True)

    def _each(self, subject: Subject, *, write: bool) -> list[Trace]:
        found = []
        for folder in self._project.run_dirs():
            for file, num in _files(folder, subject, write=write):
                found.append(Trace(relative(file, self._project.root), num, "places"))
        return found


def _files(folder: Path, subject: Subject, *, write: bool) -> list[tuple[Path, int]]:
    counts = {
        folder / "status.json": _status(Run(folder), subject, write),
        folder / "events.jsonl": _lines(folder / "events.jsonl", subject, write),
        folder / "log.txt": _lines(folder / "log.txt", subject, write),
        **{folder / name: _document(folder / name, subject, write) for name in _JSON},
        **{folder / name: _text(folder / name, subject, write) for name in _TEXT},
    }
    return [(file, num) for file, num in counts.items() if num]


def _status(run: Run, subject: Subject, write: bool) -> int:
    cleaned, num = subject.without(read_json(run.dir / "status.json"))
    if num and write:
        run.update(**{name: value for name, value in cleaned.items() if name != "schema_version"})
    return num


def _document(file: Path, subject: Subject, write: bool) -> int:
    if not file.is_file():
        return 0
    value: dict[str, Any] = read_json(file)
    cleaned, num = subject.without(value)
    if num and write:
        write_json(file, {name: part for name, part in cleaned.items() if name != "schema_version"})
    return num


def _lines(file: Path, subject: Subject, write: bool) -> int:
    """A line of JSON loses its texts that tell of the subject, any other line goes as a whole."""
    if not file.is_file():
        return 0
    num, kept = 0, []
    for line in file.read_bytes().splitlines(keepends=True):
        found = 0
        if subject.seen(line):
            try:
                value, found = subject.without(json.loads(line))
                line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
            except ValueError:
                line, found = ERASED.encode() + b"\n", 1
        num += found
        kept.append(line)
    if num and write:
        write_bytes(file, b"".join(kept))
    return num


def _text(file: Path, subject: Subject, write: bool) -> int:
    if not file.is_file():
        return 0
    data, num = subject.cut_out(file.read_bytes())
    if num and write:
        write_bytes(file, data)
    return num
