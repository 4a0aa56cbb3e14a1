"""Quarantine: rows that cannot be used, kept with their place and reason, apart from the good ones.

It holds raw rows, so it lies under `private/`, readable by its owner alone. Everything else about it (reasons, counts,
first places) holds no content and goes into manifests, reports and errors.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metier.core.errors import DataError, RowError
from metier.core.project import disk_errors, write_bytes
from metier.data.rows import KEPT_BYTES, BadRow


@dataclass(slots=True)
class Quarantine:
    """The bad rows of a preparation, in the order in which they were met. `num_rows` counts all rows, good ones too."""

    rows: list[BadRow] = field(default_factory=list)
    num_rows: int = 0

    def refuse(self, place: str, error: RowError, raw: bytes) -> None:
        """Add a row that a format refused."""
        self.take(BadRow(place, error.reason, error.what, raw, error.field))

    def take(self, row: BadRow) -> None:
        """Add a bad row with the beginning of what it holds: a file of long ones must not fill the memory."""
        self.rows.append(row if len(row.raw) <= KEPT_BYTES else replace(row, raw=row.raw[:KEPT_BYTES]))

    @property
    def share(self) -> float:
        """Bad rows by all rows; 0 where there are none."""
        return len(self.rows) / self.num_rows if self.num_rows else 0.0

    def reasons(self) -> dict[str, dict[str, Any]]:
        """Return reason → count, first place, field and sentence; the most frequent first."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            entry = found.setdefault(row.reason, {"count": 0, "first": row.place, "field": row.field, "what": row.what})
            entry["count"] += 1
        return dict(sorted(found.items(), key=lambda item: (-item[1]["count"], item[0])))

    def write(self, file: Path) -> None:
        """Write the bad rows as JSON Lines, mode 0600; `raw` is text where it is UTF-8 and base64 where it is not.

        Raises:
            MachineError: E420–E422.
        """
        lines = [json.dumps(_entry(row), ensure_ascii=False) + "\n" for row in self.rows]
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_bytes(file, "".join(lines).encode("utf-8"))
            file.chmod(0o600)

    @classmethod
    def read(cls, file: Path, num_rows: int) -> Quarantine:
        """Return what `write` wrote.

        Raises:
            OSError, ValueError, KeyError: there is no such file, or it holds something else.
        """
        with file.open(encoding="utf-8", newline="\n") as lines:
            return cls([_row(json.loads(line)) for line in lines], num_rows)

    def check(self, max_share: float, sources: Sequence[str], *, file: str) -> None:
        """Refuse to go on when too many rows are bad.

        Args:
            file: where they were written, as the error names it.

        Raises:
            DataError: E310, with the most frequent reason and its first place.
        """
        if self.share <= max_share:
            return
        reason, entry = next(iter(self.reasons().items()))
        others = f", {entry['count'] - 1:,} like it" if entry["count"] > 1 else ""
        raise DataError(
            310,
            f"{self.share:.1%} of {self.num_rows:,} rows are unusable, more than data.max_quarantine = {max_share:.1%} "
            f"(first: {reason}: {entry['what']}{others})",
            place=entry["first"],
            received=", ".join(f"{name} {e['count']:,}" for name, e in self.reasons().items()),
            expected=f"readable rows in {', '.join(sources)}",
            fix=f"metier data check --show E310 lists them; the rows themselves are in {file}",
        )


def listing(file: Path) -> list[tuple[str, str]]:
    """Return (reason, `place reason field`) of every row in a quarantine file, in its order; never what a row holds.

    Empty where the file was deleted: it is the user's to delete, and the manifest still has the counts.
    """
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(r["reason"], " ".join(filter(None, (r["place"], r["reason"], r["field"])))) for r in rows]


def raw_rows(file: Path, *, limit: int, reason: str | None = None) -> list[str]:
    """Return what the first rows of a quarantine file hold, for a terminal alone; bytes that are no text as `\\xe9`."""
    if not file.is_file():
        return []
    found: list[str] = []
    with file.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if len(found) == limit:
                break
            if reason in (None, row["reason"]):
                raw = _row(row).raw
                found.append(raw.decode("utf-8", "backslashreplace"))
    return found


def _entry(row: BadRow) -> dict[str, Any]:
    entry: dict[str, Any] = {"place": row.place, "reason": row.reason, "what": row.what, "field": row.field}
    try:
        return {**entry, "raw": row.raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {**entry, "raw_base64": base64.b64encode(row.raw).decode("ascii")}


def _row(entry: dict[str, Any]) -> BadRow:
    raw = entry["raw"].encode() if "raw" in entry else base64.b64decode(entry["raw_base64"])
    return BadRow(entry["place"], entry["reason"], entry["what"], raw, entry["field"])
