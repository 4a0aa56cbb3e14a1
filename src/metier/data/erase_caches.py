"""Token tables: a table with a row of the subject goes as a whole, since it is made again from the rows that stay.

One of a version that is not there any more (removed, or written anew without somebody's rows) goes with any erasure: no
run will read it again, and whose tokens it holds cannot be told.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from metier.core.errors import ConfigError
from metier.core.project import Project, read_json
from metier.core.subject import Subject, Trace, relative
from metier.data.subject_rows import manifests


class TokenCacheStore:
    """The token tables under cache/tokens, and what killed builds left there."""

    name = "token caches"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the tables with tokens of the subject's examples."""
        return [self._trace(t, num, "rows") for t in self._tables() if (num := _num_rows(t, subject))]

    def erase(self, subject: Subject) -> list[Trace]:
        """Delete them, those of no version, and what killed builds left."""
        known = {manifest["digest"] for manifest in manifests(self._project)}
        done = []
        for table in self._tables():
            num = _num_rows(table, subject)
            if num or _dataset_of(table) not in known:
                shutil.rmtree(table)
                table.with_suffix(".json").unlink(missing_ok=True)
                done.append(self._trace(table, num or 1, "rows" if num else "of no version"))
        return done

    def _tables(self) -> list[Path]:
        return sorted(p for p in (self._project.cache_dir / "tokens").glob("*") if p.is_dir())

    def _trace(self, table: Path, num: int, what: str) -> Trace:
        return Trace(relative(table, self._project.root), num, what)


def _num_rows(table: Path, subject: Subject) -> int:
    if table.name.endswith(".tmp") or not (table / "rows.jsonl").is_file():
        return 0
    with (table / "rows.jsonl").open(encoding="utf-8") as rows:
        return sum(json.loads(line)[0] in subject.ids for line in rows)


def _dataset_of(table: Path) -> str:
    """Return the digest of the version that a table was made from; empty where nothing says it."""
    try:
        return str(read_json(table.with_suffix(".json")).get("dataset", ""))
    except ConfigError:
        return ""
