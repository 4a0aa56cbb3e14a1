"""Frozen-trunk caches hold a vector per token of every row: all of them go when a row does, and are made again."""

from __future__ import annotations

import shutil

from metier.core.project import Project
from metier.core.subject import Subject, Trace, relative


class TrunkCacheStore:
    """The states under cache/trunk. Nothing in them says of which rows they are."""

    name = "trunk caches"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return all of them where any example of the subject was ever in a version."""
        folder = self._project.cache_dir / "trunk"
        found = sorted(p for p in folder.glob("*") if p.is_dir()) if subject.ids else []
        return [Trace(relative(cache, self._project.root), 1, "cache") for cache in found]

    def erase(self, subject: Subject) -> list[Trace]:
        """Delete them."""
        done = self.find(subject)
        for trace in done:
            shutil.rmtree(self._project.root / trace.file)
        return done
