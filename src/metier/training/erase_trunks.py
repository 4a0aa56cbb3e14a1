"""Frozen-trunk caches hold a vector per token of every row: all of them go when a row does, and are made again.

One of a version that is not there any more goes with any erasure, as a token table does (data/erase_caches.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from metier.core.errors import ConfigError
from metier.core.project import Project, read_json
from metier.core.subject import Subject, Trace, relative
from metier.data.subject_rows import manifests


class TrunkCacheStore:
    """The states under cache/trunk. Nothing in them says of which rows they are."""

    name = "trunk caches"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return all of them where any example of the subject was ever in a version."""
        return [self._trace(cache, "cache") for cache in self._caches()] if subject.ids else []

    def erase(self, subject: Subject) -> list[Trace]:
        """Delete them, and those of no version."""
        known = {manifest["digest"] for manifest in manifests(self._project)}
        strays = [self._trace(c, "of no version") for c in self._caches() if _dataset_of(c) not in known]
        done = self.find(subject) or strays
        for trace in done:
            shutil.rmtree(self._project.root / trace.file)
        return done

    def _caches(self) -> list[Path]:
        return sorted(p for p in (self._project.cache_dir / "trunk").glob("*") if p.is_dir())

    def _trace(self, cache: Path, what: str) -> Trace:
        return Trace(relative(cache, self._project.root), 1, what)


def _dataset_of(cache: Path) -> str:
    """Return the digest of the version that a cache was made from; empty where nothing says it."""
    try:
        return str(read_json(cache / "manifest.json").get("dataset", ""))
    except ConfigError:
        return ""
