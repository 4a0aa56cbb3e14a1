"""Fragments: pieces of texts by which they are recognised in other files, many of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

FRAGMENT_BYTES = 24
"""Length of a fragment: where twice as much of a text is left somewhere, it is found."""

_PREFIX = 8
_PLAIN = re.compile(r"""[^\x00-\x1f"'\\<>&\x7f\ud800-\udfff]+""")
"""What stands in JSON, HTML and text in the same way: a fragment must not care where it is written."""


def fragments(texts: Iterable[str]) -> set[str]:
    """Return the pieces, each of FRAGMENT_BYTES, by which texts are recognised in other files."""
    found: set[str] = set()
    for text in texts:
        for run in _PLAIN.findall(text):
            piece = ""
            for character in run:
                piece = (piece + character).lstrip()
                if len(piece) * 4 >= FRAGMENT_BYTES and len(piece.rstrip().encode()) >= FRAGMENT_BYTES:
                    found.add(piece.rstrip())
                    piece = ""
    return found


class Matcher:
    """Many fragments at once: every eight bytes of the data are looked up in a table, what fits is compared.

    As fast for a thousand fragments as for one.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces: dict[int, list[bytes]] = {}
        for piece in map(str.encode, pieces):
            self._pieces.setdefault(int.from_bytes(piece[:_PREFIX], "little"), []).append(piece)
        self._heads = np.array(sorted(self._pieces), dtype="<u8")
        self._table = np.zeros(1 << 16, dtype=bool)
        self._table[_slot(self._heads)] = True

    def found(self, data: bytes) -> Iterator[bytes]:
        """Yield the fragments that stand in the data, one per place."""
        num = len(data) - _PREFIX + 1
        if num < 1 or not len(self._heads):
            return
        windows: NDArray[np.uint64] = np.ndarray((num,), dtype="<u8", buffer=data, strides=(1,))
        likely = np.flatnonzero(self._table[_slot(windows)])
        if not likely.size:
            return
        heads = windows[likely]
        known = self._heads[np.minimum(np.searchsorted(self._heads, heads), len(self._heads) - 1)]
        for place in likely[known == heads].tolist():
            head = int.from_bytes(data[place : place + _PREFIX], "little")
            yield from (piece for piece in self._pieces[head] if data.startswith(piece, place))

    def any(self, data: bytes) -> bool:
        """Whether one of them stands in the data."""
        return next(self.found(data), None) is not None


def _slot(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(48)
    return slots
