"""Bytes of a source, with a bound on how many: compressed files that would fill the memory, archives, whole files.

No archive is ever unpacked to disk and no name in one is ever used: a folder of files is what can be looked at. (Of a
Word file, which is a ZIP archive, one member is read in memory: documents.py.)
"""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from metier.core.errors import DataError
from metier.core.extras import need

BUFFER_BYTES = 1 << 20

MAX_UNPACKED_RATIO = 300
"""A compressed file that unpacks to more than so many times its size, and to over UNPACKED_FLOOR_BYTES, is refused.

Rows of text pack 3 to 30 times as small, rows that repeat a long prompt up to 100 times; a bomb of gzip 1,000 times,
one of zstandard more than 10,000 times.
"""

UNPACKED_FLOOR_BYTES = 64 * 1024 * 1024

ARCHIVES = {
    ".zip": "unzip",
    ".tar": "tar -xf",
    ".tgz": "tar -xzf",
    ".tbz2": "tar -xjf",
    ".txz": "tar -xJf",
    ".7z": "7z x",
    ".rar": "unrar x",
    ".bz2": "bunzip2 -k",
    ".xz": "unxz -k",
}
"""Endings of archives, and of compressed files that are not read, and what unpacks them."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FOREIGN_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_SIGNS = (
    (0, b"PK\x03\x04", "a ZIP archive (or a spreadsheet)"),
    (0, b"\x1f\x8b\x08", "compressed by gzip"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstandard"),
    (0, b"BZh", "compressed by bzip2"),
    (0, b"\xfd7zXZ\x00", "compressed by xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file"),
    (257, b"ustar", "a tar archive"),
)
"""(offset, bytes, what they say) of files that are no text, whatever their names say."""


def opened(file: Path, name: str) -> io.BufferedReader:
    """Open a file for reading; `.gz` and `.zst` are unpacked on the way, within the bound.

    Raises:
        MachineError: E450, without zstandard.
        OSError: as `open` has it.
    """
    if file.suffix == ".gz":
        packed: Any = gzip.open(file, "rb")  # noqa: SIM115 (closed with the stream around it)
    elif file.suffix == ".zst":
        packed = need("zstandard", "read .zst files").open(file, "rb")
    else:
        return file.open("rb")
    unpacking = _Unpacking(cast(BinaryIO, packed), file.stat().st_size, name)
    return io.BufferedReader(unpacking, BUFFER_BYTES)


def text_of(stream: io.BufferedReader, name: str) -> BinaryIO:
    """Return the stream behind its UTF-8 byte order mark.

    Raises:
        DataError: E302, it is an archive or another file that is no text; E307, it is UTF-16 or UTF-32.
    """
    head = stream.peek(512)
    for offset, sign, what in _SIGNS:
        if head[offset:].startswith(sign):
            raise DataError(
                302,
                f"By its first bytes the file is {what}, not text",
                place=name,
                expected="text, as the file's ending says",
                fix="unpack it and name the folder, or export the rows as .jsonl, .csv or .parquet",
            )
    for mark, encoding in _FOREIGN_MARKS:
        if head.startswith(mark):
            raise DataError(
                307,
                f"The file is {encoding}, not UTF-8",
                place=name,
                expected="UTF-8",
                fix=f"iconv -f {encoding.lower()} -t utf-8 {name} > utf8-{name}",
            )
    if head.startswith(_BYTE_ORDER_MARK):
        stream.read(len(_BYTE_ORDER_MARK))
    return stream


def read_whole(file: BinaryIO, max_bytes: int) -> bytes | None:
    """Return all bytes of a file, or None where there are more than `max_bytes`: no more than those are ever read."""
    try:
        size = os.fstat(file.fileno()).st_size  # of a compressed file its packed size, which is the smaller one
    except OSError:
        size = 0
    if size > max_bytes:
        return None
    data = io.BytesIO()  # grows in place, and gives its bytes away without a copy
    while piece := file.read(BUFFER_BYTES):
        if data.tell() + len(piece) > max_bytes:
            return None
        data.write(piece)
    return data.getvalue()


def archive_command(file: Path) -> str:
    """Return what unpacks an archive, by the file's name; empty where it is none."""
    endings = [suffix.lower() for suffix in file.suffixes[-2:]]
    if endings[:1] == [".tar"] or endings[-1:] == [".tar"]:
        return "tar -xf"
    return ARCHIVES.get(endings[-1], "") if endings else ""


def bomb(name: str) -> DataError:
    """Return the error of a file that would fill the memory."""
    return DataError(
        313,
        f"The file unpacks to more than {MAX_UNPACKED_RATIO} times its size: a bomb, or one row many times over",
        place=name,
        expected=f"at most {MAX_UNPACKED_RATIO} times, or {UNPACKED_FLOOR_BYTES >> 20} MB",
        fix="if you trust it, unpack it yourself and name the unpacked file",
    )


def max_unpacked_bytes(packed_bytes: int) -> int:
    """Return how much a file of this size may unpack to."""
    return max(UNPACKED_FLOOR_BYTES, MAX_UNPACKED_RATIO * packed_bytes)


class _Unpacking(io.RawIOBase):
    """A compressed file, unpacked as far as it is asked for; E313 where that is too far."""

    def __init__(self, file: BinaryIO, packed_bytes: int, name: str) -> None:
        super().__init__()
        self._file = file
        self._name = name
        self._left_bytes = max_unpacked_bytes(packed_bytes)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise bomb(self._name)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
