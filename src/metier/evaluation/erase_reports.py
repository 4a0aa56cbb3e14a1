"""Predictions and reports of runs: a subject's rows go, and pages and card are rendered anew from what stays.

The figures stay as they were measured: they are counts over many rows. A warning says that rows are gone since.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metier.core import refs
from metier.core.errors import ConfigError
from metier.core.project import Project, read_json, write_bytes
from metier.core.run import Run
from metier.core.subject import Subject, Trace, relative
from metier.core.values import canonical
from metier.data.subject_rows import Scope, scope_of
from metier.evaluation import card, report
from metier.evaluation.result import Report

_GROUPS = ("worst", "changed", "random")


class PredictionStore:
    """`predictions/*.jsonl` of runs and of their other evaluations."""

    name = "predictions"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the files with rows of the subject."""
        return self._each(subject, write=False)

    def erase(self, subject: Subject) -> list[Trace]:
        """Take the rows out.

        Raises:
            MachineError: E420–E422.
        """
        return self._each(subject, write=True)

    def _each(self, subject: Subject, *, write: bool) -> list[Trace]:
        found = []
        for folder in report_folders(self._project):
            scope = _scope(self._project, folder, subject)
            for file in sorted((folder / "predictions").glob("*.jsonl")):
                lines = file.read_bytes().splitlines(keepends=True)
                kept = [line for line in lines if not _is_theirs(line, subject, scope)]
                if len(kept) < len(lines):
                    if write:
                        write_bytes(file, b"".join(kept))
                    found.append(Trace(relative(file, self._project.root), len(lines) - len(kept), "rows"))
        return found


def _scope(project: Project, folder: Path, subject: Subject) -> Scope | None:
    """Return by which columns the rows that a run read say whose they are; None where nobody knows."""
    run = folder if (folder / "status.json").is_file() else folder.parents[1]
    try:
        version = refs.dataset_dir(project, str(Run(run).status().get("dataset")))
        return scope_of(read_json(version / "manifest.json"), subject)
    except ConfigError:
        return None


def _is_theirs(line: bytes, subject: Subject, scope: Scope | None) -> bool:
    value = json.loads(line)
    return subject.in_example(value, scope.of(value.get("place")) if scope else None) or subject.tells(line)


class ReportStore:
    """`report.json` with its pages and the model card."""

    name = "reports"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the reports that quote the subject, or whose pages do."""
        return [
            Trace(relative(folder / "report.json", self._project.root), num, "places")
            for folder in report_folders(self._project)
            if (num := _without(folder, subject)[1] or _in_pages(folder, subject))
        ]

    def erase(self, subject: Subject) -> list[Trace]:
        """Take the quotations out and render the pages anew.

        Raises:
            MachineError: E420–E422.
        """
        done = self.find(subject)
        for trace in done:
            folder = (self._project.root / trace.file).parent
            _write(folder, Report.model_validate(_without(folder, subject)[0]))
        return done


def report_folders(project: Project) -> Iterator[Path]:
    """Yield the folders of runs, and of their other evaluations."""
    for run in project.run_dirs():
        yield run
        yield from sorted(p for p in (run / "evaluations").glob("*") if p.is_dir())


def warn(folder: Path, text: str) -> None:
    """Add a warning to a run's report, once, and render pages and card anew; nothing where there is no report.

    Raises:
        MachineError: E420–E422.
    """
    if (folder / "report.json").is_file():
        found = warned(Report.model_validate(read_json(folder / "report.json")), text)
        _write(folder, found)


def warned(found: Report, text: str) -> Report:
    """Return a report with a warning beside its verdict and among its limits."""
    if text in found.warnings:
        return found
    return found.model_copy(update={"warnings": [*found.warnings, text], "limits": [text, *found.limits]})


def _without(folder: Path, subject: Subject) -> tuple[dict[str, Any], int]:
    """Return report.json without the examples and slices of the subject, and how many places those were."""
    file = folder / "report.json"
    if not file.is_file():
        return {}, 0
    value = read_json(file)
    slices = value.get("slices", [])
    version = value.get("data", {}).get("digest")
    theirs = [
        s
        for s in slices
        if s["column"] in subject.columns
        and (subject.is_key(s["value"]) or f"{version}:{canonical(str(s['value']))}" in subject.pseudonyms)
    ]
    if not (theirs or subject.seen(file.read_bytes()) or not subject.ids.isdisjoint(_shown(value))):
        return value, 0
    num = 0
    for name in _GROUPS:
        shown = value["examples"].get(name, [])
        value["examples"][name] = [s for s in shown if s["id"] not in subject.ids and not _in(s, subject)]
        num += len(shown) - len(value["examples"][name])
    mine = [s for s in slices if s in theirs or _in(s, subject)]
    value["slices"] = [s for s in slices if s not in mine]
    cleaned, more = subject.without(value)
    return cleaned, num + len(mine) + more


def _shown(value: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the rows that a report quotes."""
    for name in _GROUPS:
        yield from (str(shown["id"]) for shown in value["examples"].get(name, []))


def _in(value: dict[str, Any], subject: Subject) -> bool:
    return bool(subject.without(value)[1])


def _in_pages(folder: Path, subject: Subject) -> int:
    pages = (folder / name for name in ("report.html", "report.md", card.FILE_NAME))
    return sum(page.is_file() and subject.seen(page.read_bytes()) for page in pages)


def _write(folder: Path, found: Report) -> None:
    """Write report and pages; the card where there was one."""
    report.write(found, folder)
    if (folder / card.FILE_NAME).is_file():
        card.write(found, folder)
