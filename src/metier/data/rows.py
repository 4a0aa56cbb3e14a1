"""A raw record and a raw record that cannot be used: what every reader yields, in the order of the file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is no row of text; reading stops there, so that a damaged or hostile file cannot fill the memory."""

SKIPPED_BYTES = 1 << 20
"""How much of such a line is in memory while its end is looked for."""

KEPT_BYTES = 64 * 1024
"""How much of a bad row goes to quarantine; the whole of it stays in the source."""

MAX_DEPTH = 100
"""Lists and objects within each other; what is deeper is no row of text, and exhausts whatever walks through it."""


_LIKE_CONTENT = re.compile(r"@|\d[\d .-]{4,}\d")


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it was written. `place` is `train.csv:12`: file and 1-based line (Parquet: row)."""

    value: dict[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """One record that cannot be used.

    `reason` is a stable class in kebab case, by which rows are counted; `what` is a sentence without row content;
    `raw` is the record itself, for the quarantine alone.
    """

    place: str
    reason: str
    what: str
    raw: bytes
    field: str = ""


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes] | BadRow]:
    """Yield (1-based number, line with its newline); a line over MAX_LINE_BYTES becomes a bad row and is skipped."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) <= MAX_LINE_BYTES:
            yield number, line
            continue
        head, line = line[:KEPT_BYTES], line[-1:]
        while line and not line.endswith(b"\n"):
            line = file.readline(SKIPPED_BYTES)
        yield BadRow(f"{name}:{number}", "too-long", f"the line is longer than {MAX_LINE_BYTES >> 20} MB", head)


def depth_within(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Say whether lists and objects lie at most `limit` deep in each other; without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        parts = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in parts if isinstance(part, dict | list)]
    return not level


def shown_name(name: str) -> str:
    """Return a file's name as it may stand in a place: what is no printable text as `\\x1b`, `\\xe9`."""
    if name.isprintable():
        return name
    return "".join(
        c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", "surrogateescape"))
        for c in name
    )


def shown_column(name: str) -> str:
    """Return a column's name as an error may show it; what reads like a row of a file without a header, by its length.

    A name is short, of a few words, with no mail address and no long number in it.
    """
    if len(name) <= 40 and len(name.split()) <= 4 and not _LIKE_CONTENT.search(name):
        return shown_name(name)
    return f"({len(name)} characters: does the file lack a header?)"


def flaw(value: Any) -> tuple[str, str] | None:
    """Return (reason, sentence) when a string anywhere in the value cannot be stored as text, or None.

    Strings decoded with `surrogateescape` show foreign bytes as U+DC80…U+DCFF.
    """
    if isinstance(value, str):
        if "\x00" in value:
            return "nul-byte", "a NUL character stands in the text"
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                if "\udc80" <= value[error.start] <= "\udcff":
                    return "not-utf8", "a byte is not UTF-8 (another encoding?)"
                return "lone-surrogate", "half of a UTF-16 pair stands alone"
        return None
    if isinstance(value, dict):
        parts: Any = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return None
    return next((found for found in map(flaw, parts) if found), None)


def typed(record: dict[str, Any], place: str, *, binary: bool = False) -> Row | BadRow:
    """Return a record of a typed file (Parquet, hub) as a row of JSON data, or as a bad row; `binary` as in `plain`."""
    value = {key: plain(part, binary=binary) for key, part in record.items()}
    if defect := flaw(value):
        return BadRow(place, *defect, repr(value).encode("utf-8", "backslashreplace"))
    return Row(value, place)


def plain(value: Any, *, binary: bool = False) -> Any:
    """Return a value of a typed file (Parquet, hub) as JSON data.

    Dates become ISO 8601, decimals strings, NaN and infinities None (missing), bytes their length in words: pictures
    and sounds are no text. With `binary` bytes that are UTF-8 become text: some tables say of no column that it is one.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, dict):
        return {str(k): plain(v, binary=binary) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, binary=binary) for v in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return (_text_of(bytes(value)) if binary else None) or f"{len(value)} bytes"
    return str(value)


def _text_of(data: bytes) -> str | None:
    """Return the text that bytes are, None where they are none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text else text
