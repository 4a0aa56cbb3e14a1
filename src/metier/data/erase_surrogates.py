"""Versions whose subject column was replaced: there a surrogate says whose a row is, and the vault says which one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from metier.core.project import Project, read_json
from metier.core.types import SPLITS
from metier.data.privacy import vault
from metier.data.privacy.reversal import replaced_columns
from metier.data.privacy.surrogates import remembered


def pseudonyms(project: Project, key: str, columns: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """Return `Subject.pseudonyms` of a key, and a note for each version of which no vault tells them any more.

    Args:
        key: value of the subject columns in the sources.
        columns: names of those columns.

    Raises:
        MachineError: E450, `cryptography` is not installed.
        DataError: E365, a vault cannot be read.
    """
    found: set[str] = set()
    notes = []
    for file in sorted(project.datasets_dir.glob("*/v*/manifest.json")) if project.datasets_dir.is_dir() else ():
        manifest = read_json(file)
        replaced = replaced_columns(manifest)
        for column in sorted(replaced.keys() & set(columns)):
            place = project.root / str((manifest.get("privacy") or {}).get("vault"))
            if not place.is_file():
                ref = f"data:{manifest['name']}@{manifest['version']}"
                notes.append(f"{ref}: `{column}` holds surrogates, and the vault that says whose is gone")
                continue
            opened = vault.load(place)
            made: str | None = key
            for kind in replaced[column]:
                made = remembered(made, kind, opened) if made else None
            if made:
                digests = (manifest["digest"], *(t["replaces"] for t in manifest.get("tombstones", ())))
                found.update(f"{known}:{made}" for known in (*digests, *_ids(file.parent, column, made)))
    return frozenset(found), notes


def _ids(folder: Path, column: str, made: str) -> Iterator[str]:
    """Yield the ids of the examples that have a surrogate in a column."""
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                value = json.loads(line)
                if str((value.get("meta") or {}).get(column)).strip() == made:
                    yield str(value["id"])
