"""Put back what surrogates stand for, and destroy the vault that can. Both are audited before they show anything."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.core import audit, refs
from metier.core.errors import ConfigError, DataError
from metier.core.locks import sharing
from metier.core.project import Project, digest_file, disk_errors, fsync_directory, read_json
from metier.core.types import SPLITS, to_json
from metier.data import review
from metier.data.privacy import vault
from metier.data.privacy.reversal import Reversal, replaced_columns
from metier.data.rows import Row
from metier.data.source import read_rows, source_digest
from metier.data.steps import map_leaves
from metier.data.versions import Dataset, version_dirs

_NO_TEXT = frozenset(("kind", "id", "place", "role"))
"""What an example says of itself; no surrogate stands there."""


@dataclass(frozen=True, slots=True)
class Reidentified:
    """What was put back: `num_open` surrogates stand for several values and were left. `file` is None where the rows
    were shown and nothing was written."""

    source: str
    vault: str
    num_rows: int
    num_restored: int
    num_open: int
    file: Path | None


@sharing("metier data reidentify")
def reidentify(
    source: str,
    project: Project,
    *,
    vault_name: str | None = None,
    columns: Sequence[str] = (),
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Reidentified:
    """Replace the surrogates in a dataset version or a file of rows by what they stand for.

    Args:
        source: `data:support@v3`, or a file that `metier data add` could read.
        vault_name: default: the one that a dataset version names.
        columns: those to change; none: every text.
        show: told every row; without it they are written under `private/reidentified/`, mode 0600.

    Raises:
        ConfigError: E251, E252 no such version; E282 a file, and no vault named; E283 a column that no row has.
        DataError: E365 the key is gone or another one; E366 rows that cannot be read; E368 no such vault;
            E300–E309 the file.
        MachineError: E420–E422 the disk; E450 `cryptography` is not installed.
    """
    rows, digest, name, known, replaced = _opened(source, project)
    chosen = vault_name or known
    if chosen is None:
        raise ConfigError(
            282,
            "A file does not say which vault its surrogates are from",
            place=source,
            expected="--vault NAME, the name of the recipe that drew them",
            fix=f"metier data reidentify {shlex.quote(source)} --vault NAME",
        )
    told = {"source": digest, "vault": chosen, "columns": sorted(columns)}
    try:
        reversal = Reversal(vault.load(vault.existing(project, chosen)))
    except DataError as error:
        audit.append(project, "data.reidentify", **told, refused=error.code)
        raise
    restoring = _Restoring(reversal, frozenset(columns), replaced)
    restored = [restoring.row(row) for row in rows]
    if missing := set(columns) - restoring.seen:
        raise ConfigError(
            283,
            f"No row has the column `{min(missing)}`",
            place=source,
            expected=", ".join(sorted(restoring.names)[:20]),
            fix="--column NAME with one of these",
        )
    file = None if show else project.private_dir / "reidentified" / f"{name}.jsonl"
    # Not the name: that of a file may say whose answers they are, and the log cannot be changed.
    where = file.parent.relative_to(project.root).as_posix() if file else "terminal"
    audit.append(
        project, "data.reidentify", **told, rows=len(restored), restored=restoring.num_restored, written_to=where
    )
    if file:
        review.write(file, restored)
    elif show:
        for row in restored:
            show(row)
    return Reidentified(source, chosen, len(restored), restoring.num_restored, restoring.num_open, file)


@sharing("metier data vault destroy")
def destroy_vault(name: str, project: Project) -> list[str]:
    """Delete a vault, so that its surrogates can never be reversed; return the dataset versions that drew from it.

    Their rows stay as they are. Copies of the vault outside the project are out of reach.

    Raises:
        DataError: E368, there is no such vault.
        MachineError: E420–E422, it cannot be deleted; E453, the audit key is gone.
    """
    file = vault.existing(project, name)
    versions = []
    for folder in version_dirs(project, name):
        manifest = read_json(folder / "manifest.json")
        if (manifest.get("privacy") or {}).get("vault"):
            versions.append(f"data:{name}@{manifest['version']}")
    with vault.locked(file):  # who draws from it now would write it again
        audit.append(project, "data.vault.destroy", vault=name, sha256=digest_file(file), versions=versions)
        with disk_errors(file):
            file.unlink()
            fsync_directory(file.parent)
    return versions


def _opened(source: str, project: Project) -> tuple[Iterator[dict[str, Any]], str, str, str | None, frozenset[str]]:
    """Return the rows, their digest, a name for the file, and what is known of them: the vault, and the columns that
    were replaced as a whole."""
    if source.startswith("data:"):
        version = Dataset.open(refs.dataset_dir(project, source))
        drawn = (version.manifest.get("privacy") or {}).get("vault")
        rows = (to_json(example) for split in SPLITS for example in version.iterate(split))
        replaced = frozenset(replaced_columns(version.manifest))
        return rows, version.digest, f"{version.name}-{version.version}", Path(drawn).stem if drawn else None, replaced
    path = project.path(source) if not Path(source).exists() else Path(source)
    return _rows(path), source_digest(path), path.stem, None, frozenset()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for item in read_rows(path):
        if not isinstance(item, Row):
            raise DataError(
                366,
                f"A row cannot be read: {item.what}",
                place=item.place,
                fix="repair the row; a file is re-identified whole or not at all",
            )
        yield item.value


class _Restoring:
    """Changes the texts of rows, and counts."""

    def __init__(self, reversal: Reversal, columns: frozenset[str], replaced: frozenset[str]) -> None:
        self.reversal = reversal
        self.columns = columns
        self.replaced = replaced
        self.names: set[str] = set()
        self.num_restored = self.num_open = 0

    @property
    def seen(self) -> set[str]:
        """The columns asked for that some row has."""
        return self.names & self.columns

    def row(self, row: dict[str, Any], *, beside: bool = False) -> dict[str, Any]:
        """Return a row with its identifiers; an example has columns of its own and, `beside`, those of `meta`."""
        changed = {}
        for name, value in row.items():
            if name == "meta" and isinstance(value, dict):
                changed[name] = self.row(value, beside=True)
                continue
            self.names.add(name)
            wanted = not self.columns or name in self.columns
            whole = beside and name in self.replaced
            if wanted and name == "item" and isinstance(value, dict):  # what the graders of a problem read: columns
                changed[name] = {n: self._value(part, whole=n in self.replaced) for n, part in value.items()}
            else:
                changed[name] = self._value(value, whole=whole) if wanted and name not in _NO_TEXT else value
        return changed

    def _value(self, value: Any, *, whole: bool = False) -> Any:
        if isinstance(value, str):
            found = self.reversal.whole(value) if whole else self.reversal.restore(value)
            self.num_restored += found.num_restored
            self.num_open += found.num_open
            return found.text
        if isinstance(value, dict):
            if {"arguments", "arguments_text"} <= value.keys():
                return self._call(value)
            return {n: part if n in _NO_TEXT else self._value(part, whole=whole) for n, part in value.items()}
        return [self._value(part, whole=whole) for part in value] if isinstance(value, list) else value

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return a call of a tool with its arguments, and with their JSON, which says the same."""
        arguments = map_leaves(call["arguments"], self._value)
        same = arguments == call["arguments"]
        text = call["arguments_text"] if same else json.dumps(arguments, ensure_ascii=False)
        return {**call, "arguments": arguments, "arguments_text": text}
