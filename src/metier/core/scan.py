"""Look through every byte of a folder for a person who was erased: names of files and folders, and their content.

What a file is, its first bytes say. gzip, bzip2, xz, zstandard (where the package is there) and ZIP are unpacked on the
way, in each other up to MAX_DEPTH and up to MAX_RATIO times their size; UTF-16 and UTF-32 are read as text; a tar file
is the bytes of its files. What cannot be read so is looked at byte by byte, and named: archives of other kinds,
databases, documents whose text is packed or lies in pieces, links that lead out. What the stores ask as rows (Parquet,
PDF, DOCX, vaults) need not be named.

Left out: what lies under `.git` (its objects are compressed, and its history is its owner's to rewrite), and pictures
and sound, in which nothing is looked for but bytes.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from metier.core.errors import MachineError
from metier.core.extras import need
from metier.core.needles import MAX_NEEDLE_BYTES
from metier.core.subject import Subject, relative

CHUNK_BYTES = 8 << 20
LEFT_OUT = frozenset({".git"})
MAX_DEPTH = 4
"""Files packed within each other; a deeper one is named."""
MAX_RATIO, UNPACKED_FLOOR_BYTES = 1000, 1 << 30
"""A file is unpacked up to so many times its size, and up to so many bytes in any case."""

_HEAD_BYTES = 1024
_CLOSED = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"FEA1", "Feather"),
    (b"Obj\x01", "Avro"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"%PDF", "PDF"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x04\x22\x4d\x18", "compressed by lz4"),
    (b"\x1f\x9d", "compressed by compress"),
)
"""First bytes, and what they say, of files that hold more than their bytes show."""
_OFFICE = ("word/document.xml", "xl/workbook.xml", "ppt/presentation.xml", "content.xml")
"""Members by which a ZIP archive is a document: a word of its text may lie in pieces."""
_ZIP = b"PK\x03\x04"
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Scan(NamedTuple):
    """What a scan found: files (relative to the folder) that tell of the subject, how many were read and their bytes as
    they were unpacked, and what could not be read, a line each."""

    hits: list[str]
    num_files: int
    num_bytes: int
    unread: list[str]


def scan(
    root: Path,
    subject: Subject,
    *,
    skip: Path | None = None,
    asked: Collection[str] = (),
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Scan:
    """Look for a subject in every file of a folder.

    Args:
        root: the project's folder.
        skip: a folder that is left out: the journal of the erasure, which is deleted last.
        asked: files (relative to `root`) whose rows the stores ask, so that they need not be named.
        progress: called with what is being done and how many files are done.
    """
    found = Scan([], 0, 0, [])
    num_files = num_bytes = 0
    for path in paths(root, skip):
        name = relative(path, root).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if path.is_symlink():
            if link := _leads_out(path, root):
                found.unread.append(f"{name}: {link}")
            if subject.named(name) or subject.named(str(path.readlink())):
                found.hits.append(name)
            continue
        if path.is_dir():  # an empty one has nothing but its name
            found.hits.extend([name] if subject.named(name) else ())
            found.unread.extend([] if os.access(path, os.R_OK) else [f"{name}: it cannot be read"])
            continue
        num_files += 1
        if progress and num_files % 100 == 0:
            progress("byte scan", num_files, None)
        look = _Look(subject, subject.columns_at(*_above(name)))
        try:
            hit = look.file(path)
        except FileNotFoundError:  # a lock or a temporary file of another process
            continue
        except OSError as error:
            look.unread[f"it cannot be read ({error.strerror})"] = True
            hit = False
        num_bytes += look.num_bytes
        if hit or subject.named(name):
            found.hits.append(name)
        if look.unread and name not in asked:
            found.unread.append(f"{name}: {', '.join(look.unread)}")
    return found._replace(num_files=num_files, num_bytes=num_bytes)


def paths(root: Path, skip: Path | None = None) -> Iterator[Path]:
    """Yield every file, link and empty folder under a folder, sorted; nothing under LEFT_OUT or `skip`."""
    for path in sorted(root.iterdir()):
        if path.name in LEFT_OUT or path == skip:
            continue
        if path.is_dir() and not path.is_symlink():
            if os.access(path, os.R_OK) and any(path.iterdir()):
                yield from paths(path, skip)
            else:
                yield path
        elif path.is_symlink() or path.is_file():
            yield path


def _leads_out(link: Path, root: Path) -> str:
    """Return what a link is where what it leads to is not looked through in its own place; empty where it is."""
    target = link.resolve()
    if target.is_relative_to(root.resolve()):
        return "" if target.exists() else "a link that leads nowhere"
    return "a link that leads out of the project was not followed"


def _above(name: str) -> list[str]:
    """Return a file and the folders around it as a subject's scopes name them, the nearest first."""
    parts = name.split("/")
    return ["/" + "/".join(parts[:end]) for end in range(len(parts), 0, -1)]


# ───────────────────────────────────────────────────────────────────────────── one file


@dataclass(slots=True)
class _Bound:
    """How much may still be unpacked."""

    left_bytes: int


class _TooMuch(Exception):
    """A file unpacks to more than its bound."""


class _Look:
    """One file, with what is packed in it: how many bytes were read, and what could not be."""

    def __init__(self, subject: Subject, columns: frozenset[str]) -> None:
        self._subject = subject
        self._columns = columns
        self.num_bytes = 0
        self.unread: dict[str, bool] = {}

    def file(self, path: Path) -> bool:
        """Return whether a file tells of the subject.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as stream:
            bound = _Bound(max(UNPACKED_FLOOR_BYTES, MAX_RATIO * path.stat().st_size))
            return self._seekable(stream, 0, bound)

    def _seekable(self, stream: IO[bytes], depth: int, bound: _Bound) -> bool:
        """Look at the bytes as they are, then at what is packed in them."""
        head = stream.read(_HEAD_BYTES)
        self._closed(head)
        stream.seek(0)
        if self._bytes(stream, head, depth, bound):
            return True
        stream.seek(0)
        try:
            if head.startswith(_ZIP):
                return self._members(stream, depth, bound)
            return self._packed(stream, head, depth, bound)
        except _TooMuch:
            self.unread["it unpacks to too much"] = True
        except MachineError as error:
            self.unread[f"compressed by zstandard ({error.code})"] = True
        except Exception as error:  # of five libraries, each with errors of its own
            if isinstance(error, OSError) and error.errno is not None:
                raise
            self.unread["it is damaged, locked or packed in an unknown way"] = True
        return False

    def _packed(self, stream: IO[bytes], head: bytes, depth: int, bound: _Bound) -> bool:
        """Look at what a compressed file holds; False for any other."""
        unpacking: Any
        if head.startswith(b"\x1f\x8b\x08"):
            unpacking = gzip.GzipFile(fileobj=stream)
        elif head.startswith(b"BZh"):
            unpacking = bz2.BZ2File(stream)
        elif head.startswith(b"\xfd7zXZ\x00"):
            unpacking = lzma.LZMAFile(stream)  # noqa: SIM115 (closed below, as the others)
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            unpacking = need("zstandard", "look through what is compressed by it").open(stream, "rb", closefd=False)
        else:
            return False
        with unpacking:
            return self._inner(cast(IO[bytes], unpacking), depth + 1, bound)

    def _members(self, stream: IO[bytes], depth: int, bound: _Bound) -> bool:
        """Look at the names and the files of a ZIP archive."""
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            if not set(_OFFICE).isdisjoint(names):
                self.unread["a document whose words may lie in pieces"] = True
            if any(map(self._subject.named, names)):
                return True
            for member in archive.infolist():
                with archive.open(member) as unpacked:
                    if self._inner(unpacked, depth + 1, bound):
                        return True
        return False

    def _inner(self, stream: IO[bytes], depth: int, bound: _Bound) -> bool:
        """Look at what was unpacked; what is packed in it again is kept in memory to be opened, where it is small."""
        head = stream.read(_HEAD_BYTES)
        if not _is_packed(head):
            self._closed(head)
            return self._bytes(_Joined(head, stream), head, depth, bound)
        if depth > MAX_DEPTH:
            self.unread[f"more than {MAX_DEPTH} files packed within each other"] = True
            return self._bytes(_Joined(head, stream), head, depth, bound)
        data = head + stream.read(UNPACKED_FLOOR_BYTES)
        bound.left_bytes -= len(data)
        if bound.left_bytes < 0 or stream.read(1):
            raise _TooMuch
        return self._seekable(io.BytesIO(data), depth, bound)

    def _closed(self, head: bytes) -> None:
        self.unread.update({what: True for sign, what in _CLOSED if head.startswith(sign)})

    def _bytes(self, stream: Any, head: bytes, depth: int, bound: _Bound) -> bool:
        """Look at bytes as they come, and at the text that they are in UTF-16."""
        decoder = _decoder(head)
        tail = text = b""
        while chunk := stream.read(CHUNK_BYTES):
            self.num_bytes += len(chunk)
            if depth:
                bound.left_bytes -= len(chunk)
                if bound.left_bytes < 0:
                    raise _TooMuch
            data = tail + chunk
            if self._subject.seen(data, self._columns):
                return True
            tail = data[-MAX_NEEDLE_BYTES:]
            if decoder is not None:
                text += decoder.decode(chunk).encode("utf-8", "replace")
                if self._subject.seen(text, self._columns):
                    return True
                text = text[-MAX_NEEDLE_BYTES:]
        return False


class _Joined:
    """What was read already, and the rest of the stream."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, at the end none."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._rest.read(size)


def _is_packed(head: bytes) -> bool:
    return head.startswith((_ZIP, b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))


def _decoder(head: bytes) -> codecs.IncrementalDecoder | None:
    """Return what reads a text of two or four bytes per character, by its mark or by its zeros; None for any other."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return codecs.getincrementaldecoder(encoding)("replace")
    even, odd = head[0::2].count(0), head[1::2].count(0)
    few, many = len(head) // 20, len(head) // 5
    if odd > many and even < few:
        return codecs.getincrementaldecoder("utf-16-le")("replace")
    if even > many and odd < few:
        return codecs.getincrementaldecoder("utf-16-be")("replace")
    return None
