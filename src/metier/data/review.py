"""Lists of rows for a person to look through, such as likely wrong labels: private, like the quarantine.

They hold rows, so they lie under `private/`, readable by their owner alone. Manifests, reports and findings say how
many rows a list has and where it lies; the rows themselves are shown on a terminal and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.core.project import Project, disk_errors, write_bytes


def folder(project: Project, name: str) -> Path:
    """Return where the lists of a recipe's preparations lie."""
    return project.private_dir / "review" / name


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a list as JSON Lines, mode 0600, in its order.

    Raises:
        MachineError: E420–E422.
    """
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(file, lines.encode("utf-8"))
        file.chmod(0o600)


def read(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list; none where the file was deleted, which is its owner's right."""
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
