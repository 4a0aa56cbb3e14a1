"""Token tables: a table with a row of the subject goes as a whole, since it is made again from the rows that stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from metier.core.project import Project
from metier.core.subject import Subject, Trace, relative


class TokenCacheStore:
    """The token tables under cache/tokens, and what killed builds left there."""

    name = "token caches"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the tables with tokens of the subject's examples."""
        return [Trace(relative(t, self._project.root), num, "rows") for t, num in self._tables(subject)]

    def erase(self, subject: Subject) -> list[Trace]:
        """Delete them."""
        done = self.find(subject)
        for table, _ in self._tables(subject):
            shutil.rmtree(table)
            table.with_suffix(".json").unlink(missing_ok=True)
        return done

    def _tables(self, subject: Subject) -> list[tuple[Path, int]]:
        found = []
        for table in sorted((self._project.cache_dir / "tokens").glob("*")):
            if table.name.endswith(".tmp"):
                found.append((table, 1))
            elif (table / "rows.jsonl").is_file():
                with (table / "rows.jsonl").open(encoding="utf-8") as rows:
                    num = sum(json.loads(line)[0] in subject.ids for line in rows)
                found += [(table, num)] if num else []
        return found
