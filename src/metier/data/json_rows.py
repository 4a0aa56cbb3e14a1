"""Rows from JSON Lines and from JSON files.

Stricter than `json.loads`: a key given twice, NaN and text that is not UTF-8 make a bad row instead of a guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from metier.core.errors import DataError
from metier.data.rows import MAX_DEPTH, BadRow, Row, depth_within, flaw, numbered_lines
from metier.data.unpacking import read_whole

MAX_FILE_BYTES = 1 << 30
"""A JSON file is read whole; above this size it has to be JSON Lines, which is read line by line."""

NOT_WRAPPERS = frozenset(
    {"messages", "conversations", "tools", "prompt", "completion", "chosen", "rejected", "history"}
)
"""Lists of objects that belong to one row; any other single list in an object is the list of rows."""

_SPACE = re.compile(r"[ \t\r\n]*")


class _Decoder:
    """A JSON decoder that notes what plain JSON would let pass."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self.notes.append(("duplicate-key", "a key is given twice in one object"))
        return value

    def _constant(self, name: str) -> None:
        self.notes.append(("not-a-number", f"`{name}` is not JSON"))

    def _float(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self.notes.append(("not-a-number", "a number is too large to be stored"))
        return value

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """Return (value, end); `notes` then holds the value's defects.

        Raises:
            ValueError: not JSON, or nested too deeply.
        """
        self.notes.clear()
        try:
            return self._decoder.raw_decode(text, start)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    def row(self, value: Any, text: str, place: str) -> Row | BadRow:
        """Return what was decoded from `text` as a row, or as a bad row with the first defect."""
        if text.count("[") + text.count("{") > MAX_DEPTH and not depth_within(value):
            what = f"lists and objects lie more than {MAX_DEPTH} deep in each other"
            return BadRow(place, "too-deep", what, text.encode("utf-8", "surrogateescape"))
        defect = flaw(text) or (self.notes[0] if self.notes else None) or ("\\u" in text and flaw(value)) or None
        if defect is None and not isinstance(value, dict):
            defect = "not-an-object", f"the row is a JSON {_name_of(value)}, not an object"
        if defect:
            return BadRow(place, *defect, text.encode("utf-8", "surrogateescape"))
        return Row(value, place)


def read_jsonl(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield one row per line; blank lines are no rows."""
    decoder = _Decoder()
    for item in numbered_lines(file, name):
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        text = line.decode("utf-8", "surrogateescape").strip(" \t\r\n")
        if text:
            yield _line(decoder, text, f"{name}:{number}")


def _line(decoder: _Decoder, text: str, place: str) -> Row | BadRow:
    raw = text.encode("utf-8", "surrogateescape")
    if defect := flaw(text):
        return BadRow(place, *defect, raw)
    try:
        value, end = decoder.decode(text)
    except ValueError as error:
        return BadRow(place, "invalid-json", f"not valid JSON: {_short(error)}", raw)
    if end != len(text):
        return BadRow(place, "invalid-json", f"something follows the JSON value at column {end + 1}", raw)
    return decoder.row(value, text, place)


def read_json(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON file: a list, an object that holds one list (`{"data": […]}`), one object, JSON Lines.

    Raises:
        DataError: E306, the file is not JSON; what is cut off in the middle cannot be told from what is complete.
    """
    data = read_whole(file, MAX_FILE_BYTES)
    if data is None:
        raise DataError(
            306, "The JSON file is larger than 1 GB", place=name, fix="write it as JSON Lines: one object per line"
        )
    text = data.decode("utf-8", "surrogateescape")
    start = _skip(text, 0)
    if start == len(text):
        return
    if text[start] == "[":
        yield from _list(text, start, name)
        return
    decoder = _Decoder()
    try:
        value, end = decoder.decode(text, start)
    except ValueError as error:
        first, _, others = text[start:].partition("\n")
        if others.strip() and _is_object(first):
            yield from _several(text, name)
            return
        raise _not_json(error, text, name) from None
    if _skip(text, end) != len(text):
        yield from _several(text, name)
        return
    wrapped = [k for k, v in value.items() if _is_rows(k, v)] if isinstance(value, dict) else []
    if len(wrapped) == 1 and (at := _where(text, wrapped[0], value[wrapped[0]])):
        yield from _list(text, at, name, last=False)
        return
    yield decoder.row(value, text[start:end], f"{name}:{_line_of(text, start)}")


def _several(text: str, name: str) -> Iterator[Row | BadRow]:
    """JSON Lines under the name .json."""
    decoder = _Decoder()
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip(" \t\r"):
            yield _line(decoder, stripped, f"{name}:{number}")


def _list(text: str, start: int, name: str, *, last: bool = True) -> Iterator[Row | BadRow]:
    """Yield the elements of the list that begins at `start`, each with the line on which it begins."""
    decoder = _Decoder()
    line, counted = _line_of(text, start), start
    position = _skip(text, start + 1)
    if text[position : position + 1] == "]":
        return
    while True:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = decoder.decode(text, position)
        except ValueError as error:
            raise _not_json(error, text, name) from None
        yield decoder.row(value, text[position:end], f"{name}:{line}")
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark == "]":
            if last and _skip(text, position + 1) != len(text):
                raise _not_json(ValueError("something follows the list"), text, name)
            return
        if mark != ",":
            raise _not_json(json.JSONDecodeError("Expecting ',' or ']'", text, position), text, name)
        position = _skip(text, position + 1)


def _where(text: str, key: str, rows: list[Any]) -> int:
    """Return where the list under this key begins, or 0 when the key was written with escapes."""
    for match in re.finditer(rf'"{re.escape(key)}"\s*:\s*\[', text):
        value, _ = json.JSONDecoder().raw_decode(text, match.end() - 1)
        if value == rows:
            return match.end() - 1
    return 0


def _is_rows(key: str, value: Any) -> bool:
    return (
        key not in NOT_WRAPPERS and isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _not_json(error: ValueError, text: str, name: str) -> DataError:
    line = _line_of(text, getattr(error, "pos", 0))
    return DataError(
        306,
        "The file is not valid JSON from here on",
        place=f"{name}:{line}",
        received=_short(error),
        expected="a list of objects, or one object per line",
        fix="repair the file, or rename it to .jsonl if each line is an object: good lines are then kept",
    )


def _short(error: ValueError) -> str:
    """The parser's message without its position; it never quotes the text."""
    return getattr(error, "msg", None) or ("nested too deeply" if "nested" in str(error) else "unreadable number")


def _name_of(value: Any) -> str:
    return {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}.get(type(value), "null")
