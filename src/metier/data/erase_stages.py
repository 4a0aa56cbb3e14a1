"""Interrupted preparations: what they kept goes as a whole where it holds a subject's rows; it is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from metier.core.locks import one_at_a_time
from metier.core.project import Project
from metier.core.subject import Subject, Trace, relative
from metier.data.erase_private import quarantined_of
from metier.data.stages import LOCK, QUARANTINE, ROWS


class StageStore:
    """The folders under private/prepare."""

    name = "interrupted preparations"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the preparations with rows of the subject, bad ones too."""
        found = ((folder, _num_lines(folder, subject)) for folder in self._folders())
        return [Trace(relative(folder, self._project.root), num, "rows") for folder, num in found if num]

    def erase(self, subject: Subject) -> list[Trace]:
        """Delete them; one that is going on is waited for."""
        done = []
        for folder in self._folders():
            with one_at_a_time(folder.parent / LOCK):
                num = _num_lines(folder, subject) if folder.is_dir() else 0
                if num:
                    shutil.rmtree(folder)
                    done.append(Trace(relative(folder, self._project.root), num, "rows"))
        return done

    def _folders(self) -> list[Path]:
        return sorted(path for path in (self._project.private_dir / "prepare").glob("*/*") if path.is_dir())


def _num_lines(folder: Path, subject: Subject) -> int:
    num = 0
    for file in sorted(folder.iterdir()):
        with file.open("rb") as lines:
            num += sum(subject.seen(line) or _is_theirs(file.name, line, subject) for line in lines)
    return num


def _is_theirs(name: str, line: bytes, subject: Subject) -> bool:
    """Whether a line is a row of the subject's; what was torn while it was written is none, and only looked through."""
    try:
        if name == ROWS:
            return subject.in_example(json.loads(line))
        return name == QUARANTINE and quarantined_of(json.loads(line), subject)
    except ValueError:
        return False
