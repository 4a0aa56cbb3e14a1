"""Rows from CSV and TSV files, quoted line breaks included.

A stray quote must not swallow the rest of the file: a record that does not parse is reported with its first line, and
reading goes on at the next line that begins a whole record. What begins like a formula stays the text that it is.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from metier.core.errors import DataError
from metier.data import rows
from metier.data.rows import KEPT_BYTES, BadRow, Row, flaw, numbered_lines, shown_column

DELIMITERS = (",", ";", "\t", "|")
MAX_RECORD_LINES = 2000
"""A quoted field longer than this many lines, or in all than a line may be, is taken for a quote never closed."""

FEW_RECORD_LINES = 50
"""The same for a file of which each line was, on average, looked at MAX_LOOKS times: full of quotes never closed."""

MAX_LOOKS = 20

SNIFFED_LINES = 50


class _Lines:
    """Decoded physical lines with their numbers, which can be pushed back."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._source = numbered_lines(file, name)
        self._waiting: deque[tuple[int, str]] = deque()
        self._num_read = self._num_again = 0
        self._too_long: deque[BadRow] = deque()

    @property
    def max_record_lines(self) -> int:
        """How many lines a record may take."""
        often = self._num_again > MAX_LOOKS * (self._num_read + MAX_RECORD_LINES)
        return FEW_RECORD_LINES if often else MAX_RECORD_LINES

    def next(self) -> tuple[int, str] | None:
        """Return the next line, or None at the end."""
        if self._waiting:
            return self._waiting.popleft()
        for item in self._source:
            self._num_read += 1
            if not isinstance(item, BadRow):
                return item[0], item[1].decode("utf-8", "surrogateescape")
            self._too_long.append(item)
        return None

    def too_long_before(self, number: int | None) -> Iterator[BadRow]:
        """Yield, once, the lines over the bound that stand before a line, all of them where it is None."""
        while self._too_long and (number is None or int(self._too_long[0].place.rpartition(":")[2]) < number):
            yield self._too_long.popleft()

    def push_back(self, lines: list[tuple[int, str]]) -> None:
        """Put lines in front again."""
        self._waiting.extendleft(reversed(lines))
        self._num_again += len(lines)


def read_csv(file: BinaryIO, name: str, *, delimiter: str | None = None) -> Iterator[Row | BadRow]:
    """Yield one row per record, under the names of the first one. All values are strings, as they were written.

    Args:
        file: bytes without a byte order mark.
        name: shown in places.
        delimiter: None looks for it among `,` `;` tab and `|`.

    Raises:
        DataError: E308, the header is unreadable or names a column twice.
    """
    csv.field_size_limit(rows.MAX_LINE_BYTES)
    lines = _Lines(file, name)
    delimiter = delimiter or _sniff(lines)
    header = _header(lines, name, delimiter)
    broken: BadRow | None = None  # a record that did not parse, while its end is looked for
    while header:
        record = _record(lines, delimiter)
        yield from lines.too_long_before(record[0][0][0] if record else None)
        if record is None:
            break
        taken, fields, error = record
        place, raw = f"{name}:{taken[0][0]}", "".join(text for _, text in taken)
        if not fields and not error:
            continue  # a blank line
        if error or (broken and not _is_whole(raw, fields, header)):
            lines.push_back(taken[1:])
            first = _bad(place, "broken-quotes", error, taken[0][1])
            if broken is None:
                broken = first
            elif len(broken.raw) < KEPT_BYTES:
                broken = replace(broken, raw=broken.raw + first.raw)
            continue
        if broken:
            yield broken
            broken = None
        if defect := flaw(raw):
            yield _bad(place, *defect, raw)
        elif len(fields) != len(header):
            yield _bad(place, "wrong-column-count", f"{len(fields)} columns instead of {len(header)}", raw)
        else:
            yield Row(dict(zip(header, fields, strict=True)), place)
    if broken:
        yield broken


Record = tuple[list[tuple[int, str]], list[str], str]


def _record(lines: _Lines, delimiter: str) -> Record | None:
    """Return (lines taken, fields, error) of the next record, or None at the end."""
    taken: list[tuple[int, str]] = []
    left, max_lines = rows.MAX_LINE_BYTES, lines.max_record_lines

    def feed() -> Iterator[str]:
        nonlocal left
        while len(taken) < max_lines and left > 0 and (item := lines.next()) is not None:
            taken.append(item)
            left -= len(item[1])
            yield item[1]

    try:
        fields = next(csv.reader(feed(), delimiter=delimiter, strict=True))
    except StopIteration:
        return None
    except csv.Error as error:
        if "new-line character" in str(error):
            return taken, [], "a carriage return stands alone within the line"
        return taken, [], "a quote is not closed, or text follows a closing quote"
    return taken, fields, ""


def _is_whole(raw: str, fields: list[str], header: list[str]) -> bool:
    """True for a record that cannot be the tail of the broken one before it: right width, quotes in pairs."""
    return len(fields) == len(header) and raw.count('"') % 2 == 0


def _sniff(lines: _Lines) -> str:
    """Return the delimiter under which most of the first records are as wide as the header, and wider than one."""
    head: list[tuple[int, str]] = []
    while len(head) < SNIFFED_LINES and (item := lines.next()) is not None:
        head.append(item)
    lines.push_back(head)

    def score(delimiter: str) -> tuple[float, int]:
        try:
            widths = [len(r) for r in csv.reader([text for _, text in head], delimiter=delimiter) if r]
        except csv.Error:
            return 0.0, 0
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(w == widths[0] for w in widths) / len(widths), widths[0]

    return max(DELIMITERS, key=score)  # the first of equals: the comma


def _header(lines: _Lines, name: str, delimiter: str) -> list[str]:
    record = _record(lines, delimiter)
    if record is None:
        return []
    _, fields, error = record
    names = [field.strip() for field in fields]
    twice = sorted({n for n in names if names.count(n) > 1})
    if error or flaw("".join(names)) or twice:
        raise DataError(
            308,
            "The first line does not name the columns" if not twice else "The first line names a column twice",
            place=f"{name}:1",
            received=", ".join(f"`{shown_column(n)}`" for n in twice)
            if twice and not error
            else error or "text that is not UTF-8",
            expected="one distinct name per column",
            fix="write the names of the columns into the first line",
        )
    return names


def _bad(place: str, reason: str, what: str, raw: str) -> BadRow:
    return BadRow(place, reason, what, raw.encode("utf-8", "surrogateescape"))
