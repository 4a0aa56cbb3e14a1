"""Look through every byte of a folder for a person who was erased: names of files and their content, .gz opened.

Not opened: what lies under `.git` (its objects are compressed, and its history is its owner's to rewrite) and links.
Parquet, PDF, DOCX and vaults are looked through by their own stores, as rows.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from metier.core.extras import need
from metier.core.subject import MAX_NEEDLE_BYTES, Subject, relative

CHUNK_BYTES = 8 << 20
LEFT_OUT = frozenset({".git"})


def scan(
    root: Path,
    subject: Subject,
    *,
    skip: Path | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> tuple[list[str], int, int]:
    """Return the files (relative to `root`) that still tell of a subject, how many were read, and their bytes.

    Args:
        root: the project's folder.
        skip: a folder that is left out: the journal of the erasure, which is deleted last.
        progress: called with what is being done and how many files are done.
    """
    hits: list[str] = []
    num_files = num_bytes = 0
    for file in files(root, skip):
        num_files += 1
        if progress and num_files % 100 == 0:
            progress("byte scan", num_files, None)
        name = relative(file, root)
        try:
            size, hit = _look(file, subject)
        except FileNotFoundError:  # a lock or a temporary file of another process
            continue
        num_bytes += size
        if hit or subject.named(name):
            hits.append(name)
    return hits, num_files, num_bytes


def files(root: Path, skip: Path | None = None) -> Iterator[Path]:
    """Yield every file under a folder, sorted; no links, nothing under LEFT_OUT or `skip`."""
    for path in sorted(root.iterdir()):
        if path.is_symlink() or path.name in LEFT_OUT or path == skip:
            continue
        if path.is_dir():
            yield from files(path, skip)
        elif path.is_file():
            yield path


def _look(file: Path, subject: Subject) -> tuple[int, bool]:
    """Return a file's bytes as they were read, and whether they tell of the subject."""
    with file.open("rb") as plain:
        found = _stream(plain, subject)
    if found[1]:
        return found
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rb") as unpacked:
                return _stream(cast(IO[bytes], unpacked), subject)
        if file.suffix == ".zst":
            with need("zstandard", f"look through {file.name} for what was erased").open(file, "rb") as unpacked:
                return _stream(unpacked, subject)
    except (EOFError, zlib.error, gzip.BadGzipFile):  # not what its name says: its bytes were looked at
        pass
    return found


def _stream(stream: IO[bytes], subject: Subject) -> tuple[int, bool]:
    size, tail = 0, b""
    while chunk := stream.read(CHUNK_BYTES):
        size += len(chunk)
        data = tail + chunk
        if subject.seen(data):
            return size, True
        tail = data[-MAX_NEEDLE_BYTES:]
    return size, False
