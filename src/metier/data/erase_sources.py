"""The raw files that lie in the project: a subject's rows are taken out, every other byte stays as it was.

Lines and CSV records are left out; a JSON list and a Parquet table are written anew without the rows; in text,
Markdown and HTML the places are replaced, and a file that is the subject's as a whole, by its name or its text, is
deleted. PDF and DOCX cannot be rewritten: `find` goes on naming them, and the erasure does not end well before somebody
replaced them. Files outside the project are read only.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from metier.core.extras import need
from metier.core.project import Project, disk_errors, fsync_directory
from metier.core.subject import Subject, Trace, relative
from metier.data.rows import BadRow, Row
from metier.data.source import file_kind
from metier.data.subject_rows import rows_of

_BY_LINE = frozenset({".jsonl", ".ndjson", ".csv", ".tsv", ".tab"})
_TEXT = frozenset({".txt", ".md", ".html", ".htm"})
_FIXED = frozenset({".pdf", ".docx"})
Columns = frozenset[str]


class SourceStore:
    """The sources' files inside the project."""

    name = "sources"

    def __init__(self, project: Project, files: Sequence[Path]) -> None:
        self._project = project
        self._files = files

    def find(self, subject: Subject) -> list[Trace]:
        """Return the files with rows of the subject.

        Raises:
            DataError: E306–E309, a file cannot be read.
        """
        found = ((file, _num_rows(file, subject, self._columns(file, subject))) for file in self._files)
        return [self._trace(file, num) for file, num in found if num]

    def erase(self, subject: Subject) -> list[Trace]:
        """Take the rows out; a file is replaced whole, so that a reader sees the old one or the new one.

        Raises:
            DataError: E306–E309, a file cannot be read.
            MachineError: E420–E422, it cannot be written; E450, the package for .zst is not installed.
        """
        done = []
        for file in self._files:
            columns = self._columns(file, subject)
            num = _num_rows(file, subject, columns)
            if num and file_kind(file) not in _FIXED:
                _rewrite(file, subject, columns)
                done.append(self._trace(file, num))
        return done

    def _columns(self, file: Path, subject: Subject) -> Columns:
        return subject.columns_at(f"/{relative(file, self._project.root.resolve())}")

    def _trace(self, file: Path, num: int) -> Trace:
        return Trace(relative(file, self._project.root.resolve()), num, "rows")


def _num_rows(file: Path, subject: Subject, columns: Columns) -> int:
    if not file.is_file():
        return 0
    found = sum(_is_theirs(item, subject, columns) for item in rows_of(file))
    return found or int(subject.named(file.name) or (file_kind(file) in _TEXT and _in_text(file, subject)))


def _is_theirs(item: Row | BadRow, subject: Subject, columns: Columns) -> bool:
    return subject.in_row(item.value, columns) if isinstance(item, Row) else subject.in_raw(item.raw, columns)


def _in_text(file: Path, subject: Subject) -> bool:
    with _opened(file) as stream:
        return subject.seen(stream.read())


def _rewrite(file: Path, subject: Subject, columns: Columns) -> None:
    kind = file_kind(file)
    if subject.named(file.name):
        file.unlink()
        fsync_directory(file.parent)
    elif kind in _BY_LINE:
        _without_lines(file, subject, columns)
    elif kind == ".json":
        _without_elements(file, subject, columns)
    elif kind == ".parquet":
        _without_records(file, subject, columns)
    else:
        _without_places(file, subject, columns)


# ───────────────────────────────────────────────────────────────────────────── by kind of file


def _without_lines(file: Path, subject: Subject, columns: Columns) -> None:
    """Copy the file but the lines from each of the subject's records up to the next record."""
    starts = sorted((_line_of(item), _is_theirs(item, subject, columns)) for item in rows_of(file))
    marks = dict(starts)
    with _opened(file) as old, _replacing(file) as new:
        theirs = False
        for number, line in enumerate(_lines(old), start=1):
            theirs = marks.get(number, theirs)
            if not theirs:
                new.write(line)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline():
        yield line


def _line_of(item: Row | BadRow) -> int:
    return int(item.place.rpartition(":")[2])


def _without_elements(file: Path, subject: Subject, columns: Columns) -> None:
    with _opened(file) as stream:
        text = stream.read().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    try:
        value = json.loads(text)
    except ValueError:  # JSON Lines under the name .json
        _without_lines(file, subject, columns)
        return
    kept = _kept(value, subject, columns)
    with _replacing(file) as new:
        new.write(_document(kept, indent=1) + b"\n")


def _document(value: Any, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, which was an escape
        return json.dumps(value, indent=indent).encode()


def _kept(value: Any, subject: Subject, columns: Columns) -> Any:
    """Return a JSON document without the subject's rows: the elements of its list, or of the list it holds."""

    def theirs(row: Any) -> bool:  # what is no object was read as a bad row
        return subject.in_row(row, columns) or (not isinstance(row, dict) and subject.in_raw(_document(row), columns))

    if isinstance(value, list):
        return [row for row in value if not theirs(row)]
    parts = value.items() if isinstance(value, dict) else ()
    lists = {name: rows for name, rows in parts if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    if lists and not subject.owns(value, columns):
        return {**value, **{name: _kept(rows, subject, columns) for name, rows in lists.items()}}
    return [] if theirs(value) else value


def _without_records(file: Path, subject: Subject, columns: Columns) -> None:
    import pyarrow.parquet

    kept = [number for number, item in enumerate(rows_of(file)) if not _is_theirs(item, subject, columns)]
    table = pyarrow.parquet.read_table(file).take(kept)
    with _replacing(file) as new:
        pyarrow.parquet.write_table(table, new)


def _without_places(file: Path, subject: Subject, columns: Columns) -> None:
    """Delete a text that is the subject's as a whole; else replace what names them."""
    whole = (item for item in rows_of(file) if isinstance(item, Row) and item.place == file.name)
    if any(_repeats(item, subject, columns) for item in whole):
        file.unlink()
        fsync_directory(file.parent)
        return
    with _opened(file) as stream:
        data, _ = subject.cut_out(stream.read())
    with _replacing(file) as new:
        new.write(data)


def _repeats(item: Row, subject: Subject, columns: Columns) -> bool:
    return subject.in_row(item.value, columns) and not subject.named("\n".join(map(str, item.value.values())))


# ───────────────────────────────────────────────────────────────────────────── files


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if file.suffix == ".gz":
        with gzip.open(file, "rb") as stream:
            yield cast(IO[bytes], stream)
    elif file.suffix == ".zst":
        with need("zstandard", "rewrite .zst files").open(file, "rb") as stream:
            yield stream
    else:
        with file.open("rb") as stream:
            yield stream


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """Give a stream whose bytes become the file's, packed as it was, when the block ends well; its mode stays."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(file):
        try:
            with temporary.open("wb") as raw:
                if file.suffix == ".gz":
                    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                        yield cast(IO[bytes], packed)
                elif file.suffix == ".zst":
                    with need("zstandard", "rewrite .zst files").open(raw, "wb", closefd=False) as packed:
                        yield packed
                else:
                    yield raw
                raw.flush()
                os.fsync(raw.fileno())
            shutil.copymode(file, temporary)
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(file.parent)
