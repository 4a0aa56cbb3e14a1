"""Tokenise once: a memory-mapped table of encoded examples.

    <folder>/  manifest.json  ids.bin (int32)  mask.bin (float32)  offsets.bin (int64)  rows.jsonl

The key is whatever decides the tokens (dataset digest, `Encoder.fingerprint()`); a table with another key, or one whose
bytes changed, is not opened. Written beside its name and renamed, manifest last: a killed build leaves nothing behind
that could be opened.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metier.core.errors import ConfigError, DataError
from metier.core.project import digest_file, disk_errors, fsync_directory, read_json, write_json
from metier.data.encoded import Encoded

FILES = ("ids.bin", "mask.bin", "offsets.bin", "rows.jsonl")


class TokenTable(Sequence[Encoded]):
    """Encoded examples on disk, read through memory maps: `len(table)`, `table[i]`, `table.lengths`.

    Use `build`, `open` or `cached`.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.dir = folder
        self.manifest = manifest
        self._offsets = np.fromfile(folder / "offsets.bin", dtype=np.int64)
        self._ids: npt.NDArray[np.int32] = _mapped(folder / "ids.bin", np.int32)
        self._mask: npt.NDArray[np.float32] = _mapped(folder / "mask.bin", np.float32)
        with (folder / "rows.jsonl").open(encoding="utf-8") as file:
            self._rows: list[list[Any]] = [json.loads(line) for line in file]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        start, end = self._offsets[index], self._offsets[index + 1]
        example_id, num_prompt, cut_tokens, target = self._rows[index]
        target = tuple(target) if isinstance(target, list) else target
        return Encoded(example_id, self._ids[start:end], self._mask[start:end], num_prompt, cut_tokens, target)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example (N,)."""
        return np.diff(self._offsets)

    @property
    def num_tokens(self) -> int:
        """Tokens in the table."""
        return int(self._offsets[-1])

    @property
    def num_supervised(self) -> int:
        """Tokens with a loss."""
        return int(self.manifest["supervised"])

    @classmethod
    def build(cls, encodeds: Iterable[Encoded], folder: Path, key: str) -> TokenTable:
        """Write a table and open it; an older one of that name is replaced.

        Raises:
            MachineError: E420–E422, the disk is full or not writable.
        """
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        with disk_errors(folder):
            temporary.mkdir(parents=True)
            try:
                counts = _write(encodeds, temporary)
                digests = {name: digest_file(temporary / name) for name in FILES}
                write_json(temporary / "manifest.json", {"kind": "tokens", "key": key, **counts, "files": digests})
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.rename(folder)
                fsync_directory(folder.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return cls.open(folder, key, verify=False)

    @classmethod
    def open(cls, folder: Path, key: str, *, verify: bool = True) -> TokenTable:
        """Open a table.

        Raises:
            DataError: E359, there is none with this key, or its bytes are not those that were written.
        """
        try:
            manifest = read_json(folder / "manifest.json")
        except (ConfigError, NotADirectoryError) as error:
            raise _stale(folder, "it has no readable manifest") from error
        if manifest.get("key") != key:
            raise _stale(folder, "it was made from other data, another tokenizer or other options")
        for name in FILES:
            path = folder / name
            if not path.is_file() or (verify and digest_file(path) != manifest["files"][name]):
                raise _stale(folder, f"{name} is missing or was altered")
        return cls(folder, manifest)

    @classmethod
    def cached(cls, folder: Path, key: str, encodeds: Iterable[Encoded]) -> TokenTable:
        """Open the table, or build it where there is none that fits; `encodeds` is only read in that case."""
        try:
            return cls.open(folder, key)
        except DataError as error:
            if error.number != 359:
                raise
        return cls.build(encodeds, folder, key)


def _write(encodeds: Iterable[Encoded], folder: Path) -> dict[str, int]:
    offsets, supervised = [0], 0
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "mask.bin").open("wb") as mask,
        (folder / "rows.jsonl").open("w", encoding="utf-8") as rows,
    ):
        for item in encodeds:
            ids.write(np.ascontiguousarray(item.token_ids, dtype=np.int32).tobytes())
            mask.write(np.ascontiguousarray(item.loss_mask, dtype=np.float32).tobytes())
            rows.write(json.dumps([item.example_id, item.num_prompt, item.cut_tokens, item.target]) + "\n")
            offsets.append(offsets[-1] + len(item.token_ids))
            supervised += item.num_supervised
        for file in (ids, mask, rows):
            file.flush()
            os.fsync(file.fileno())
    (folder / "offsets.bin").write_bytes(np.asarray(offsets, dtype=np.int64).tobytes())
    return {"examples": len(offsets) - 1, "tokens": offsets[-1], "supervised": supervised}


def _mapped(path: Path, dtype: Any) -> Any:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def _stale(folder: Path, why: str) -> DataError:
    return DataError(
        359, f"The token table cannot be used: {why}", place=str(folder), fix="delete it; it is made again"
    )
