"""The difference of two texts, word by word, for a reader.

Scripts written without spaces (Chinese, Japanese, Thai …) are compared character by character; blanks are not
compared. A longest common subsequence by dynamic programming, one numpy row at a time: its time is bounded by the
product of the lengths, also for a model that repeats one word for ever (difflib takes minutes there).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

ALIKE = 0.4
"""Share of common words below which a diff is noise and the texts are better read side by side."""
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]\s*|[^\W{_NO_SPACES}]+\s*|[^\w\s]+\s*|\s+")

Kind = Literal["same", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text that both have (`same`), only the second has (`added`) or only the first has (`removed`)."""

    kind: Kind
    text: str


def words(old: str, new: str) -> list[Piece] | None:
    """Return the pieces that turn `old` into `new`; None when too little is common for a diff to help."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    steps = _steps([token.strip() for token in before], [token.strip() for token in after])
    common = sum(kind == "same" for kind, _ in steps)
    if 2 * common < ALIKE * (len(before) + len(after)) or not common:
        return None
    pieces = []
    for kind, group in groupby(steps, key=lambda step: step[0]):
        source = before if kind == "removed" else after
        pieces.append(Piece(kind, "".join(source[index] for _, index in group)))
    return pieces


def _steps(old: Sequence[str], new: Sequence[str]) -> list[tuple[Kind, int]]:
    """Return (kind, index) in reading order; the index is of `old` for `removed`, else of `new`."""
    import numpy as np

    codes: dict[str, int] = {}
    a = np.array([codes.setdefault(word, len(codes)) for word in old], dtype=np.int32)
    b = np.array([codes.setdefault(word, len(codes)) for word in new], dtype=np.int32)
    # longest[i, j]: length of the longest common subsequence of old[i:] and new[j:]
    longest = np.zeros((len(a) + 1, len(b) + 1), dtype=np.int32)
    for i in range(len(a) - 1, -1, -1):
        best = np.maximum(longest[i + 1, :-1], longest[i + 1, 1:] + (b == a[i]))
        longest[i, :-1] = np.maximum.accumulate(best[::-1])[::-1]
    steps: list[tuple[Kind, int]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and a[i] == b[j]:
            steps.append(("same", j))
            i, j = i + 1, j + 1
        elif i < len(a) and (j == len(b) or longest[i + 1, j] >= longest[i, j + 1]):
            steps.append(("removed", i))
            i += 1
        else:
            steps.append(("added", j))
            j += 1
    return _grouped(steps)


def _grouped(steps: list[tuple[Kind, int]]) -> list[tuple[Kind, int]]:
    """Return the steps with what was removed before what was added, between two words that stayed."""
    ordered: list[tuple[Kind, int]] = []
    for same, group in groupby(steps, key=lambda step: step[0] == "same"):
        run = list(group)
        ordered += run if same else sorted(run, key=lambda step: step[0] == "added")
    return ordered
