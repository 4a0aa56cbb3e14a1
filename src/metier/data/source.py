"""Rows from files: JSONL, JSON, CSV, TSV, Parquet, text, documents, folders, globs, .gz, .zst, and from a hub id.

A reader never guesses an encoding and never stops at a bad row: it yields a `BadRow` and goes on. Only a file that
cannot be read at all is an error. Of a folder or a glob, what is an archive or a link that leads out is left alone and
reported like a bad row.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from metier.core.errors import DataError, MachineError
from metier.core.extras import need
from metier.core.project import digest_file
from metier.data.csv_rows import read_csv
from metier.data.documents import read_docx, read_html, read_markdown, read_pdf
from metier.data.json_rows import read_json, read_jsonl
from metier.data.parquet_rows import read_parquet
from metier.data.rows import BadRow, Row, flaw, shown_name, typed
from metier.data.unpacking import archive_command, opened, read_whole, text_of

MAX_TEXT_BYTES = 1 << 30
HUB = "hf:"


def read_rows(path: Path, *, limit: int | None = None) -> Iterator[Row | BadRow]:
    """Yield the rows of a source in order.

    Args:
        path: a file, a folder (its known files, sorted by name), a glob, or `hf:org/name` (local cache only).
        limit: stop after so many rows, bad ones included.

    Raises:
        DataError: E300 missing, E301 no rows, E302 unknown type, E303 hub id, E306 damaged file, E307 not UTF-8 as a
            whole, E308 the names of the columns, E309 not readable, E313 a bomb.
    """
    number = 0
    for number, item in enumerate(islice(_every_row(path), limit), start=1):  # noqa: B007
        yield item
    if number == 0:
        raise DataError(
            301,
            "There are no rows",
            place=_shown(path),
            received="an empty file, or a header alone",
            fix="check that the export finished",
        )


def source_files(path: Path) -> list[tuple[Path, str]]:
    """Return the files of a source with the name each is shown by; of a folder, those of a known type.

    Raises:
        DataError: E300 missing, E301 a folder or glob without files, E302 unknown type.
    """
    if path.is_file():
        _reader(path)
        return [(path, shown_name(path.name))]
    if path.is_dir():
        known = [(p, name) for p, name in _listed(path) if file_kind(p) in READERS and _inside(p, path)]
        if not known:
            raise DataError(
                301,
                "The folder holds no file with rows",
                place=_shown(path),
                expected=", ".join(READERS),
                fix="name another folder, or give the files one of these endings",
            )
        return known
    if any(mark in str(path) for mark in "*?["):
        matched = [(p, name) for p, name in _listed(path) if not archive_command(p) and _inside(p, _root(path))]
        for file, _ in matched:
            _reader(file)
        if matched:
            return matched
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    raise DataError(
        300,
        "There is no such file",
        place=_shown(path),
        fix=f"Did you mean `{near[0]}`?" if near else "paths of a recipe start at the project's folder",
    )


def source_digest(path: Path) -> str:
    """Return a SHA-256 over the names and bytes of a source's files; of a hub id, over its rows."""
    if str(path).startswith(HUB):
        total = hashlib.sha256()
        for item in read_rows(path):
            total.update(repr(item).encode("utf-8", "surrogatepass"))
        return total.hexdigest()
    files = source_files(path)
    if len(files) == 1:
        return _digest(*files[0])
    listing = "".join(f"{_digest(file, name)}  {name}\n" for file, name in files)
    return hashlib.sha256(listing.encode()).hexdigest()


# ───────────────────────────────────────────────────────────────────────────── files


def _digest(file: Path, name: str) -> str:
    try:
        return digest_file(file)
    except OSError as error:
        raise _unreadable(error, name) from error


def _every_row(path: Path) -> Iterator[Row | BadRow]:
    if str(path).startswith(HUB):
        yield from _hub(str(path).removeprefix(HUB))
        return
    files = source_files(path)
    for file, name in files:
        empty = True
        for item in _file_rows(file, name):
            empty = False
            yield item
        if empty and len(files) > 1:
            yield BadRow(name, "empty-file", "the file holds no rows", b"")
    yield from _left_out(path)


def _file_rows(file: Path, name: str) -> Iterator[Row | BadRow]:
    read = _reader(file)
    try:
        with opened(file, name) as stream:
            yield from read(stream if read in BINARY else text_of(stream, name), name)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            306, "The compressed file is damaged or cut off", place=name, received=str(error), fix="copy it again"
        ) from None
    except OSError as error:
        raise _unreadable(error, name) from error


def _text(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield a text file as one row."""
    data = read_whole(file, MAX_TEXT_BYTES)
    if data is None:
        yield BadRow(name, "too-long", f"the file is larger than {MAX_TEXT_BYTES >> 20} MB", b"")
    elif data:
        text = data.decode("utf-8", "surrogateescape")
        defect = flaw(text)
        yield BadRow(name, *defect, data) if defect else Row({"text": text}, name)


def _tsv(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    return read_csv(file, name, delimiter="\t")


def _unreadable(error: OSError, name: str) -> DataError:
    return DataError(
        309,
        f"The file cannot be read: {error.strerror or error}",
        place=name,
        fix="change its permissions, or copy it to where it can be read",
    )


def _hub(name: str) -> Iterator[Row | BadRow]:
    try:
        datasets = need("datasets", f"read the hub data set `{name}`")
        with _offline(datasets):
            table: Any = datasets.load_dataset(name, split="train", download_mode="reuse_dataset_if_exists")
    except (MachineError, OSError, ValueError) as error:
        raise DataError(
            303,
            f"The hub data set `{name}` is not on this machine",
            place=f"{HUB}{name}",
            received=getattr(error, "what", type(error).__name__),
            fix=getattr(error, "fix", "") or "download its files and give their path",
        ) from error
    for number, record in enumerate(table, start=1):
        yield typed(record, f"{HUB}{name}:{number}")


@contextmanager
def _offline(datasets: ModuleType) -> Iterator[None]:
    """Let the Hugging Face libraries refuse the network, whatever the environment said when they were imported.

    Both have this setting as a value that each request looks at: `HF_DATASETS_OFFLINE` is the older name of one.
    """
    from huggingface_hub import constants

    own = datasets.config
    settings = [(constants, "HF_HUB_OFFLINE"), (own, "HF_HUB_OFFLINE"), (own, "HF_DATASETS_OFFLINE")]
    before = [(module, name, getattr(module, name)) for module, name in settings if hasattr(module, name)]
    for module, name, _ in before:
        setattr(module, name, True)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


Reader = Callable[[BinaryIO, str], Iterator[Row | BadRow]]
READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": _tsv,
    ".tab": _tsv,
    ".parquet": read_parquet,
    ".txt": _text,
    ".md": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
}
"""File ending → reader. `.gz` and `.zst` may follow any but Parquet."""
BINARY = (read_parquet, read_pdf, read_docx)
"""Readers of files that are no text."""


def file_kind(file: Path) -> str:
    """Return the ending that says how a file is read (`rows.jsonl.gz` → `.jsonl`), one of READERS or another."""
    suffixes = [s.lower() for s in file.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] != ".parquet" else ""
    return suffixes[-1] if suffixes else ""


def _reader(file: Path) -> Reader:
    reader = READERS.get(file_kind(file))
    if reader is None and (command := archive_command(file)):
        raise DataError(
            302,
            "An archive is never unpacked: names in it could lead anywhere, and its size is unknown",
            place=_shown(file),
            received=shown_name("".join(file.suffixes[-2:])),
            expected="a file, or a folder of files",
            fix=f"{command} {_shown(file)} in a folder of its own, look at it, and name the folder",
        )
    if reader is None:
        raise DataError(
            302,
            "Files of this type are not read",
            place=_shown(file),
            received=shown_name(file.suffix) or "no ending",
            expected=f"{', '.join(READERS)}, also with .gz or .zst",
            fix="export the rows as one of these",
        )
    return reader


def _root(path: Path) -> Path:
    """Return the folder itself, or the one in which a glob looks."""
    if path.is_dir():
        return path
    first = next(i for i, part in enumerate(path.parts) if any(mark in part for mark in "*?["))
    return Path(*path.parts[:first])


def _listed(path: Path) -> list[tuple[Path, str]]:
    """Return the files of a folder, hidden ones left out, or those that a glob matches, each with its shown name."""
    root = _root(path)
    pattern = "**/*" if path == root else str(path.relative_to(root))
    found = [
        p for p in sorted(root.glob(pattern)) if p.is_file() and not (path == root and _hidden(p.relative_to(root)))
    ]
    return [(p, shown_name(p.relative_to(root).as_posix())) for p in found]


def _left_out(path: Path) -> Iterator[BadRow]:
    """Yield what looks like rows in a folder or a glob and is not read, so that nothing is missing silently."""
    for file, name in () if path.is_file() else _listed(path):
        if archive_command(file):
            yield BadRow(name, "archive", "an archive is never unpacked", b"")
        elif file_kind(file) in READERS and not _inside(file, _root(path)):
            yield BadRow(name, "outside-link", "a link that leads out of the folder is not followed", b"")


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _inside(file: Path, folder: Path) -> bool:
    """A link that leads out of the folder is not part of it."""
    return file.resolve().is_relative_to(folder.resolve())


def _shown(path: Path) -> str:
    return str(path) if str(path).startswith(HUB) or not path.name else shown_name(path.name)


__all__ = ["READERS", "BadRow", "Row", "read_rows", "source_digest", "source_files"]
