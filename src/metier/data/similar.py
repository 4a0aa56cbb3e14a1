"""Exact and near-duplicate texts, for splits, leaks and the step `deduplicate`.

Two texts are *exact* duplicates when their words are the same, whatever the case, spacing and punctuation; *near*
duplicates when the Jaccard similarity of their character 5-grams reaches a threshold. Candidates come from MinHash
signatures (Broder, 1997; `rensa`) in bands (LSH); each candidate pair is then verified on the signatures, and pairs
whose estimate is not clear-cut on the 5-grams themselves. Deterministic for a seed.

Left out: paraphrases, which share few 5-grams; texts are compared by their first MAX_CHARACTERS only.

Shapes: N texts, U distinct normalised texts, P permutations.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metier.core.types import Conversation, Example, Labelled, Message, Preference, Text

SHINGLE = 5
MAX_CHARACTERS = 20_000
NUM_PERMUTATIONS = 128
MISS_RATE = 1e-3
"""Accepted probability that a pair exactly at the threshold is not even a candidate."""

CLEAR_MARGIN = 0.12
"""Four standard errors of a 128-permutation estimate: beyond it the estimate decides alone."""

MAX_BUCKET = 64
"""A bucket with more members, such as rows of one template, is not compared pairwise: each member with LINKS others."""

LINKS = 3
MAX_KNOWN = 20_000
"""How many texts' 5-grams are kept in memory while pairs are verified."""

_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """Return the words of a text, case-folded and NFKC, one space between; of a text without words, its characters."""
    folded = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold()
    return " ".join(_WORD.findall(folded)) or " ".join(folded.split())


def words_of(text: str) -> list[str]:
    """Return the words of a text in the form in which they are compared, of the whole text."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def comparable(example: Example, literals: Sequence[str] = ()) -> str:
    """Return the text by which an example is compared with others.

    A conversation counts with prompt and replies, a preference, a rating and a problem with the prompt alone (all
    pairs of a prompt stay together). System messages and the `literals` (the fixed parts of `data.prompt.user`) are
    left out: they are the same in every row and would make all rows look alike.
    """
    if isinstance(example, Text | Labelled):
        return example.text
    if isinstance(example, Conversation):
        messages: Sequence[Message] = example.messages
    else:
        messages = example.prompt or (example.chosen if isinstance(example, Preference) else ())
    found = "\n".join(_said(m) for m in messages if m.role != "system")
    for literal in literals:
        found = found.replace(literal, " ", 1)
    return found


@dataclass(frozen=True, slots=True)
class Likeness:
    """Which of N texts are alike.

    `text_N` numbers the distinct normalised texts; `pairs_X2` holds pairs of such numbers that are near duplicates.
    """

    text_N: NDArray[np.int64]
    pairs_X2: NDArray[np.int64]

    def groups(self, keys: Sequence[str | None] = ()) -> NDArray[np.int64]:
        """Return N group numbers: duplicates, chains of near duplicates and equal keys share one.

        Args:
            keys: a group key per text, or None; empty for no keys.
        """
        num_texts = int(self.text_N.max()) + 1 if self.text_N.size else 0
        links = [(int(a), int(b)) for a, b in self.pairs_X2]
        first: dict[str, int] = {}
        for text, key in zip(self.text_N.tolist(), keys, strict=False):
            if key is not None:
                links.append((first.setdefault(key, text), text))
        roots = np.array(_components(num_texts, links), dtype=np.int64)
        return roots[self.text_N] if num_texts else np.zeros(0, dtype=np.int64)

    def of(self, rows: Sequence[int]) -> Likeness:
        """Return the likeness of some of the texts alone; near pairs with a text that is gone go too."""
        kept, text_N = np.unique(self.text_N[list(rows)], return_inverse=True)
        inside = np.isin(self.pairs_X2, kept).all(axis=1)
        return Likeness(text_N.astype(np.int64), np.searchsorted(kept, self.pairs_X2[inside]).astype(np.int64))

    def twins(self, rows: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return two masks over the N texts: those of `rows` with an exact, or only a near, twin among `others`."""
        num_texts = int(self.text_N.max()) + 1 if self.text_N.size else 0
        there = np.zeros(num_texts, dtype=bool)
        there[self.text_N[others]] = True
        near = np.zeros(num_texts, dtype=bool)
        for a, b in (self.pairs_X2.T, self.pairs_X2.T[::-1]):
            near[a[there[b]]] = True
        exact_N = rows & there[self.text_N]
        return exact_N, rows & near[self.text_N] & ~exact_N


def liken(texts: Iterable[str], threshold: float, seed: int = 0) -> Likeness:
    """Compare texts with each other.

    Args:
        texts: N texts.
        threshold: Jaccard similarity in (0, 1] from which two texts are near duplicates; 1 looks for exact ones only.
        seed: seed of the MinHash permutations.
    """
    numbers: dict[str, int] = {}
    text_N = np.array([numbers.setdefault(normalise(t), len(numbers)) for t in texts], dtype=np.int64)
    distinct = list(numbers)
    if threshold >= 1 or len(distinct) < 2:
        return Likeness(text_N, np.zeros((0, 2), dtype=np.int64))
    signatures_UP = _signatures(distinct, seed)
    candidates_X2 = _candidates(signatures_UP, _band_rows(threshold))
    return Likeness(text_N, _verified(candidates_X2, signatures_UP, distinct, threshold))


# ───────────────────────────────────────────────────────────────────────────── the steps of `liken`


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _signatures(texts: Sequence[str], seed: int, chunk: int = 2000) -> NDArray[np.uint32]:
    import rensa

    parts = []
    for start in range(0, len(texts), chunk):
        sets = [list(_shingles(text)) for text in texts[start : start + chunk]]
        rows = rensa.RMinHash.digests_from_token_sets(sets, NUM_PERMUTATIONS, seed)
        parts.append(np.array(rows, dtype=np.uint32))
    return np.concatenate(parts)


def _band_rows(threshold: float) -> int:
    """Return the longest band that still finds a pair at the threshold with probability 1 − MISS_RATE."""
    for rows in range(32, 1, -1):
        if (1 - threshold**rows) ** (NUM_PERMUTATIONS // rows) <= MISS_RATE:
            return rows
    return 1


def _candidates(signatures_UP: NDArray[np.uint32], rows: int) -> NDArray[np.int64]:
    """Return the distinct pairs (a < b) that agree in all values of some band."""
    num_texts = len(signatures_UP)
    rng = np.random.default_rng(num_texts)
    # In a random but fixed order, so that the few others a member of a large bucket meets lie anywhere in the data.
    shuffled_U = rng.permutation(num_texts)
    factors_P = rng.integers(1, 1 << 63, NUM_PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    found: list[NDArray[np.int64]] = []
    for start in range(0, NUM_PERMUTATIONS - rows + 1, rows):
        band = slice(start, start + rows)
        hash_U = (signatures_UP[shuffled_U, band] * factors_P[band]).sum(axis=1, dtype=np.uint64)
        order = np.argsort(hash_U, kind="stable")
        edges = np.flatnonzero(np.diff(hash_U[order], prepend=hash_U[order[0]] + np.uint64(1)))
        sizes = np.diff(edges, append=num_texts)
        for first, size in zip(edges[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            a, b = _pairs_within(size)
            one, other = shuffled_U[order[first + a]], shuffled_U[order[first + b]]
            found.append(np.minimum(one, other) * num_texts + np.maximum(one, other))
    if not found:
        return np.zeros((0, 2), dtype=np.int64)
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // num_texts, codes % num_texts], axis=1)


def _pairs_within(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of positions to compare in a bucket: all of them, or each with the LINKS that follow."""
    if size <= MAX_BUCKET:
        a, b = np.triu_indices(size, 1)
        return a, b
    a = np.repeat(np.arange(size), LINKS)
    return a, (a + np.tile(np.arange(1, LINKS + 1), size)) % size


def _verified(
    pairs_X2: NDArray[np.int64],
    signatures_UP: NDArray[np.uint32],
    texts: Sequence[str],
    threshold: float,
    chunk: int = 50_000,
) -> NDArray[np.int64]:
    kept: list[NDArray[np.int64]] = []
    known: dict[int, set[str]] = {}

    def alike(a: int, b: int) -> bool:
        for index in (a, b):
            if index not in known:
                known[index] = _shingles(texts[index])
        shared = len(known[a] & known[b])
        verdict = shared >= threshold * (len(known[a]) + len(known[b]) - shared)
        if len(known) > MAX_KNOWN:
            known.clear()
        return verdict

    for start in range(0, len(pairs_X2), chunk):
        part = pairs_X2[start : start + chunk]
        estimate = (signatures_UP[part[:, 0]] == signatures_UP[part[:, 1]]).mean(axis=1)
        sure = estimate >= min(1.0, threshold + CLEAR_MARGIN)
        unclear = np.flatnonzero(~sure & (estimate >= threshold - CLEAR_MARGIN))
        sure[unclear] = [alike(a, b) for a, b in part[unclear].tolist()]
        kept.append(part[sure])
    return np.concatenate(kept) if kept else np.zeros((0, 2), dtype=np.int64)


def _components(size: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Return the smallest member of each item's connected component."""
    parent = list(range(size))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(item) for item in range(size)]


def _said(message: Message) -> str:
    return "\n".join((message.text, *(f"{call.name} {call.arguments_text}" for call in message.tool_calls)))
