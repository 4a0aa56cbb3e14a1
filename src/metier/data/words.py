"""The words of texts as numbers: what topics, diversity and scripts are counted from.

A word is a run of letters with their marks (`don't` is one), a run of digits, or, in scripts that write no spaces
between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), a single character. Words are compared case-folded, in
NFKC.

Shapes: N texts, T words over all texts, V distinct words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of N texts, text by text: `word_T` are numbers in `vocabulary`, `row_T` the text each stands in."""

    word_T: NDArray[np.int64]
    row_T: NDArray[np.int64]
    vocabulary: list[str]
    num_texts: int

    def phrases(self, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return every run of `length` words inside one text: where it begins in `word_T`, and its number.

        Equal runs have equal numbers.
        """
        starts = np.arange(max(0, len(self.word_T) - length + 1))
        starts = starts[self.row_T[starts] == self.row_T[starts + length - 1]]
        number = self.word_T[starts]
        for offset in range(1, length):
            number = np.unique(number, return_inverse=True)[1] * len(self.vocabulary) + self.word_T[starts + offset]
        return starts, number

    def starts(self) -> NDArray[np.int64]:
        """Return where in `word_T` each text that has words begins."""
        return np.flatnonzero(np.diff(self.row_T, prepend=-1))


def words_in(texts: Iterable[str], limit: int | None = None) -> Words:
    """Return the words of texts, with `limit` only of as many as are needed for so many words, the last one whole."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    word, find = numbers.__getitem__, pattern().findall
    found: list[int] = []
    counts_N: list[int] = []
    for text in texts:
        if limit is not None and len(found) >= limit:
            break
        words = find(unicodedata.normalize("NFKC", text).casefold())
        found += map(word, words)
        counts_N.append(len(words))
    row_T = np.repeat(np.arange(len(counts_N)), np.array(counts_N, dtype=np.int64))
    return Words(np.array(found, dtype=np.int64), row_T, list(numbers), len(counts_N))


@cache
def pattern() -> re.Pattern[str]:
    """Return the expression whose finds are the words of a text."""
    marks = (code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    letter = rf"[^\W\d_{_UNSPACED}]"
    part = rf"{letter}+(?:[{_ranges(marks)}]+{letter}*)*"
    return re.compile(rf"{part}(?:['’]{part})*|\d+|[{_UNSPACED}]")


def _ranges(codes: Iterable[int]) -> str:
    """Return code points, ascending, as the inside of a character class."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in spans)
