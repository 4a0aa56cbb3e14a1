"""What the values of a row say: its texts and numbers, in the one form in which they are compared.

A row is JSON data here, of any shape. A key may be written as a text or as a number, and a table with gaps writes 17 as
17.0: all of them are `17`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from metier.core.needles import composed

_WHOLE = re.compile(r"(-?\d+)\.0+")
"""A whole number as a table with gaps writes it."""


def strings(value: Any) -> Iterator[str]:
    """Yield every text in JSON data, in order; names of keys are none."""
    return (part for part in _parts(value) if isinstance(part, str))


def told(value: Any) -> Iterator[str]:
    """Yield every text and every whole number in JSON data, in order: a key may be written as either."""
    for part in _parts(value):
        if isinstance(part, str):
            yield part
        elif isinstance(part, int) and not isinstance(part, bool):
            yield str(part)
        elif isinstance(part, float) and math.isfinite(part) and part.is_integer():
            yield str(int(part))


def canonical(text: str) -> str:
    """Return the value of a column in the one form in which keys are compared."""
    text = composed(text)
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def row_digest(row: Any) -> str:
    """Return a digest of a row's texts, in order, whatever their columns are called."""
    return hashlib.blake2b("\x1e".join(strings(row)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def structure(text: str) -> Any:
    """Return the object or list that a text is in JSON, None for any other."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def cells(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the cells of each line of a text as a table, as far as it is one."""
    try:
        yield from csv.reader(text.splitlines(), delimiter=delimiter)
    except csv.Error:
        return


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _parts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    else:
        yield value
