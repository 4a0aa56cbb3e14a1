"""How varied texts are, and how even a division is.

`distinct_n` is the share of different runs among all runs of n words (Li et al. 2016, "A diversity-promoting objective
function"; there divided by the number of words, so that 1 means here that nothing is said twice). It falls with the
number of words, so that it is taken over about NUM_WORDS of them: only figures over as many words can be compared.
Left out: runs across two texts.

*Evenness* is the entropy of shares divided by its largest value, log k: 1 for k equal parts, 0 for all in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.data.words import words_in

NUM_WORDS = 200_000
NUM_FREQUENT = 10
NUM_SHOWN = 5
MIN_TEXTS_SHOWN = 10
"""An opening that fewer texts share is never shown."""
OPENING = 3
OPENING_CHARACTERS = 120


def diversity(texts: Iterable[str]) -> dict[str, Any]:
    """Return how varied the words of texts are, of as many of them, from the first on, as hold NUM_WORDS words.

    Returns:
        `texts`, `words`: how many were looked at; `distinct_1`, `distinct_2`, `distinct_3`; `frequent_3`: the share of
        all runs of three words that are one of the ten most frequent. None where there is no run of that length.
    """
    words = words_in(texts, NUM_WORDS)
    found: dict[str, Any] = {"texts": words.num_texts, "words": len(words.word_T)}
    for length in (1, 2, 3):
        _, numbers = words.phrases(length)
        counts = np.unique(numbers, return_counts=True)[1]
        found[f"distinct_{length}"] = _share(len(counts), len(numbers))
    found["frequent_3"] = _share(int(np.sort(counts)[-NUM_FREQUENT:].sum()), len(numbers))
    return found


def openings(texts: Iterable[str], allowed: Callable[[tuple[str, ...], NDArray[np.int64]], bool]) -> dict[str, Any]:
    """Return how often texts begin with the same three words.

    Args:
        texts: N texts.
        allowed: whether the words of an opening may be shown, given the numbers of the texts that begin with them.

    Returns:
        `texts`: those of three words and more; `different`: how many openings; `largest`: share of the most frequent
        one, None without texts; `shown`: [words, texts] of the frequent ones that may be shown.
    """
    words = words_in(text[:OPENING_CHARACTERS] for text in texts)
    starts, numbers = words.phrases(OPENING)
    first = np.isin(starts, words.starts())
    starts, numbers = starts[first], numbers[first]
    _, at, index, counts = np.unique(numbers, return_index=True, return_inverse=True, return_counts=True)
    found: list[list[Any]] = []
    for number in np.argsort(-counts, kind="stable")[: 2 * NUM_SHOWN].tolist():
        if counts[number] < MIN_TEXTS_SHOWN or len(found) == NUM_SHOWN:
            break
        begin = int(starts[at[number]])
        said = tuple(words.vocabulary[word] for word in words.word_T[begin : begin + OPENING].tolist())
        if not any(word[0].isdigit() for word in said) and allowed(said, words.row_T[starts[index == number]]):
            found.append([" ".join(said), int(counts[number])])
    largest = int(counts.max()) if len(counts) else 0
    share = _share(largest, len(starts))
    return {"texts": len(starts), "different": len(counts), "largest": share, "shown": found}


def evenness(counts: Iterable[int]) -> float | None:
    """Return the normalised entropy of counts, 0 to 1; None for fewer than two parts or nothing counted."""
    known = list(counts)
    total = sum(known)
    if len(known) < 2 or not total:
        return None
    entropy = -sum(n / total * math.log(n / total) for n in known if n)
    return round(entropy / math.log(len(known)), 4)


def balance(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return how even a division into named parts is.

    Returns:
        `values`: parts; `largest`, `smallest`: rows of those, `rarest`: the name of the smallest (the first of equal
        ones); `ratio`: largest / smallest, None where the smallest has no row; `evenness`.
    """
    rarest = min(counts, key=lambda name: (counts[name], name))
    largest, smallest = max(counts.values()), counts[rarest]
    ratio = round(largest / smallest, 2) if smallest else None
    sizes = {"values": len(counts), "largest": largest, "smallest": smallest, "rarest": rarest}
    return {**sizes, "ratio": ratio, "evenness": evenness(counts.values())}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
