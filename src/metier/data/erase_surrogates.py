"""Versions whose subject column was changed: a surrogate says whose a row is, and the vault says which one; a tag, a
coarser value or a column that is gone says nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

from metier.core.project import Project, read_json
from metier.core.subject import Subject
from metier.core.types import SPLITS
from metier.core.values import canonical
from metier.data.privacy import vault
from metier.data.privacy.columns import blurred_columns
from metier.data.privacy.reversal import replaced_columns
from metier.data.privacy.surrogates import Vault, remembered


def pseudonyms(project: Project, subject: Subject) -> tuple[frozenset[str], list[str]]:
    """Return `Subject.pseudonyms` of a key, and a note for each version whose rows cannot be told by its column.

    Args:
        subject: with key, columns and scopes.

    Raises:
        MachineError: E450, `cryptography` is not installed.
        DataError: E365, a vault cannot be read.
    """
    found: set[str] = set()
    notes = []
    for file in sorted(project.datasets_dir.glob("*/v*/manifest.json")) if project.datasets_dir.is_dir() else ():
        manifest = read_json(file)
        ref = f"data:{manifest['name']}@{manifest['version']}"
        columns = frozenset[str]().union(*(subject.columns_at(f"={s['path']}") for s in manifest["sources"]))
        blurred, replaced = blurred_columns(manifest), replaced_columns(manifest)
        notes += [
            f"{ref}: `{column}` became `{blurred[column]}` and does not say whose a row is: rows were compared as texts"
            for column in sorted(columns & blurred.keys())
        ]
        for column in sorted((replaced.keys() & columns) - blurred.keys()):
            place = project.root / str((manifest.get("privacy") or {}).get("vault"))
            if not place.is_file():
                notes.append(f"{ref}: `{column}` holds surrogates, and the vault that says whose is gone")
                continue
            for made in _surrogates(subject.key, replaced[column], vault.load(place)):
                digests = (manifest["digest"], *(t["replaces"] for t in manifest.get("tombstones", ())))
                found.update(f"{known}:{canonical(made)}" for known in (*digests, *_ids(file.parent, column, made)))
    return frozenset(found), notes


def _surrogates(key: str, kinds: list[str], opened: Vault) -> set[str]:
    """Return what stands for a key after these replacements, however the rows write it: composed or not, 17 as 17.0."""
    made = {normalize(form, key) for form in ("NFC", "NFD")} | ({f"{key}.0"} if key.isdecimal() else set())
    for kind in kinds:
        made = {known for value in made if (known := remembered(value, kind, opened))}
    return made


def _ids(folder: Path, column: str, made: str) -> Iterator[str]:
    """Yield the ids of the examples that have a surrogate in a column."""
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                value: dict[str, Any] = json.loads(line)
                if str((value.get("meta") or {}).get(column)).strip() == made:
                    yield str(value["id"])
