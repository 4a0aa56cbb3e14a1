"""Which words of the rows a page may show: those that many rows share and that name nobody.

A card and a report travel further than the rows. Beside labels and column values they show single words (topics) and
openings, and a word may be a name. So a word is held back where fewer than MIN_SUBJECTS people (`subject_key`) or
groups (`data.split.group_by`) say it, and where our rules for identifiers (data/privacy) cover it in one of a few rows
that it stands in. How many rows must share a word is up to those who count them (topics.py, diversity.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metier.data.privacy.engine import detect
from metier.data.words import pattern

MIN_SUBJECTS = 5
NUM_LOOKED_AT = 5
AROUND_CHARACTERS = 120


class Guard:
    """Says which words of N texts may be shown.

    Args:
        texts: N texts.
        subjects: for each column that tells people or groups apart, its N values; None where a text has none.
    """

    def __init__(self, texts: Sequence[str], subjects: Sequence[Sequence[str | None]] = ()):
        self._texts = texts
        self._subjects = subjects

    def allows(self, said: tuple[str, ...], rows: NDArray[np.int64]) -> bool:
        """Whether neighbouring words, case-folded, may be shown, given the numbers of the texts that they stand in."""
        for values in self._subjects:
            known = {values[row] for row in rows.tolist()} - {None}
            if 0 < len(known) < MIN_SUBJECTS:
                return False
        looked_at = rows[:: -(-len(rows) // NUM_LOOKED_AT)].tolist()
        return not any(_identifies(self._texts[row], said) for row in looked_at)


def _identifies(text: str, said: tuple[str, ...]) -> bool:
    """Whether the first place in a text where the words stand is part of an identifier."""
    text = unicodedata.normalize("NFKC", text)
    found = list(pattern().finditer(text))
    words = [match.group().casefold() for match in found]
    size = len(said)
    first = next((i for i in range(len(words) - size + 1) if tuple(words[i : i + size]) == said), None)
    if first is None:
        return False
    start, end = found[first].start(), found[first + size - 1].end()
    low, high = max(0, start - AROUND_CHARACTERS), min(len(text), end + AROUND_CHARACTERS)
    while 0 < low < start and not text[low - 1].isspace():
        low += 1
    while end < high < len(text) and not text[high].isspace():
        high -= 1
    return any(span.start + low < end and span.end + low > start for span in detect(text[low:high]))
