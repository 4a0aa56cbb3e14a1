"""Exact and near-duplicate texts, for splits, leaks and the step `deduplicate`.

Two texts are *exact* duplicates when their words are the same, whatever the case, spacing and punctuation; *near*
duplicates when the Jaccard similarity of their character 5-grams reaches a threshold. Candidates come from MinHash
signatures (Broder, 1997; `rensa`) in bands (LSH); each candidate pair is then verified on the signatures, and pairs
whose estimate is not clear-cut on the 5-grams themselves. Deterministic for a seed.

Of each MinHash value one byte is kept (b-bit minwise hashing, Li and König, 2010): two different values agree in it
with a probability of 1/256, for which the estimate is corrected. Texts are asked for one by one and never all kept: a
million short ones take about 250 MB.

Left out: paraphrases, which share few 5-grams; texts are compared by their first MAX_CHARACTERS only.

Shapes: N texts, U distinct normalised texts, P permutations, X pairs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metier.core.types import Conversation, Example, Labelled, Message, Preference, Text
from metier.data.digests import Digests

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
MAX_SHINGLES = 500_000
"""How many 5-grams are kept in memory while pairs are verified: those of some ten thousand short texts, about 50 MB."""

CHUNK_TEXTS = 2_000
CHUNK_PAIRS = 20_000

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


class Compared(Sequence[str]):
    """The texts by which examples are compared, each made when it is asked for.

    Args:
        examples: N examples.
        literals: as `comparable` has them.
        of: what of each example is compared; default: all of it.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        literals: Sequence[str] = (),
        *,
        of: Callable[[Example], Example] = lambda example: example,
    ) -> None:
        self._examples = examples
        self._literals = literals
        self._of = of

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [comparable(self._of(example), self._literals) for example in self._examples[index]]
        return comparable(self._of(self._examples[index]), self._literals)


class Joined(Sequence[str]):
    """Several sequences of texts as one."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Which of N texts are alike.

    `text_N` numbers the distinct normalised texts; `pairs_X2` holds pairs of such numbers that are near duplicates.
    """

    text_N: NDArray[np.int64]
    pairs_X2: NDArray[np.int64]

    @property
    def num_texts(self) -> int:
        """How many numbers there are."""
        return int(self.text_N.max()) + 1 if self.text_N.size else 0

    def groups(self, keys: Sequence[str | None] = ()) -> NDArray[np.int64]:
        """Return N group numbers: duplicates, chains of near duplicates and equal keys share one.

        Args:
            keys: a group key per text, or None; empty for no keys.
        """
        links_X2 = self.pairs_X2
        first: dict[str, int] = {}
        same = [
            (first.setdefault(key, int(self.text_N[row])), int(self.text_N[row]))
            for row, key in enumerate(keys)
            if key is not None
        ]
        if same:
            links_X2 = np.concatenate([links_X2, np.array(same, dtype=np.int64)])
        return _components(self.num_texts, links_X2)[self.text_N]

    def of(self, rows: ArrayLike) -> Likeness:
        """Return the likeness of some of the texts alone; near pairs with a text that is gone go too."""
        asked_N = np.asarray(rows, dtype=np.int64)
        there_U = np.zeros(self.num_texts, dtype=bool)
        there_U[self.text_N[asked_N]] = True
        number_U = np.cumsum(there_U) - 1
        inside_X = there_U[self.pairs_X2].all(axis=1)
        return Likeness(number_U[self.text_N[asked_N]], number_U[self.pairs_X2[inside_X]])

    def twins(self, rows: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return two masks over the N texts: those of `rows` with an exact, or only a near, twin among `others`."""
        there = np.zeros(self.num_texts, dtype=bool)
        there[self.text_N[others]] = True
        near = np.zeros(self.num_texts, dtype=bool)
        for a, b in (self.pairs_X2.T, self.pairs_X2.T[::-1]):
            near[a[there[b]]] = True
        exact_N = rows & there[self.text_N]
        return exact_N, rows & near[self.text_N] & ~exact_N


def liken(texts: Sequence[str], threshold: float, seed: int = 0) -> Likeness:
    """Compare texts with each other.

    Args:
        texts: N texts; each is asked for once, and again where it belongs to a pair that is not clear-cut.
        threshold: Jaccard similarity in (0, 1] from which two texts are near duplicates; 1 looks for exact ones only.
        seed: seed of the MinHash permutations.
    """
    digests = Digests()
    rows = _band_rows(threshold)
    signatures_NP = np.empty((len(texts), NUM_PERMUTATIONS), dtype=_kept(rows)) if threshold < 1 else None
    for start in range(0, len(texts), CHUNK_TEXTS):
        chunk = [normalise(text) for text in texts[start : start + CHUNK_TEXTS]]
        for text in chunk:
            digests.add(text.encode("utf-8", "surrogatepass"))
        if signatures_NP is not None:
            signatures_NP[start : start + len(chunk)] = _signatures(chunk, seed, signatures_NP.dtype)
    text_N, first_U = digests.numbered()
    del digests
    if signatures_NP is None or len(first_U) < 2:
        return Likeness(text_N, np.zeros((0, 2), dtype=np.int64))
    signatures_UP = _distinct(signatures_NP, first_U)
    codes_X = _likely(signatures_UP, rows, threshold)
    alike_X = _sure(codes_X, signatures_UP, threshold)
    del signatures_NP, signatures_UP  # most of the memory, and not needed any more
    num_texts = len(first_U)
    unclear_V = np.flatnonzero(~alike_X)
    alike_X[unclear_V] = _verified(codes_X[unclear_V], num_texts, _Shingles(texts, first_U), threshold)
    return Likeness(text_N, np.stack(np.divmod(codes_X[alike_X], num_texts), axis=1))


# ───────────────────────────────────────────────────────────────────────────── the steps of `liken`


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _signatures(texts: Sequence[str], seed: int, kept: np.dtype[Any]) -> NDArray[Any]:
    """Return the leading bits of the MinHash values, which are mixed first: what a value says is not in one place."""
    import rensa

    sets = [list(_shingles(text)) for text in texts]
    whole = np.array(rensa.RMinHash.digests_from_token_sets(sets, NUM_PERMUTATIONS, seed), dtype=np.uint32)
    mixed: NDArray[np.uint32] = (whole * np.uint32(0x9E3779B1)) >> np.uint32(32 - 8 * kept.itemsize)
    return mixed.astype(kept)


def _distinct(signatures_NP: NDArray[Any], first_U: NDArray[np.int64]) -> NDArray[Any]:
    """Return the signatures of the distinct texts, moved to the front in place: a copy would double the memory."""
    for start in range(0, len(first_U), CHUNK_TEXTS):
        rows = first_U[start : start + CHUNK_TEXTS]  # never in front of where they go
        signatures_NP[start : start + len(rows)] = signatures_NP[rows]
    return signatures_NP[: len(first_U)]


def _band_rows(threshold: float) -> int:
    """Return the longest band that still finds a pair at the threshold with probability 1 − MISS_RATE."""
    for rows in range(32, 1, -1):
        if (1 - threshold**rows) ** (NUM_PERMUTATIONS // rows) <= MISS_RATE:
            return rows
    return 1


def _kept(rows: int) -> np.dtype[Any]:
    """Return how much of a MinHash value is kept: a byte, more where a band would else have fewer than 24 bits."""
    return np.dtype({1: "uint32", 2: "uint16"}.get(rows, "uint8"))


def _likely(signatures_UP: NDArray[Any], rows: int, threshold: float) -> NDArray[np.int64]:
    """Return the codes a · U + b of the pairs (a < b), in order, that agree in all values of some band and by their
    signatures may reach the threshold. A code is kept once, from its first band on."""
    num_texts = len(signatures_UP)
    rng = np.random.default_rng(num_texts)
    # In a random but fixed order, so that the few others a member of a large bucket meets lie anywhere in the data.
    shuffled_U = rng.permutation(num_texts)
    factors_P = rng.integers(1, 1 << 63, NUM_PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    known = np.zeros(0, dtype=np.int64)
    for start in range(0, NUM_PERMUTATIONS - rows + 1, rows):
        hash_U = np.zeros(num_texts, dtype=np.uint64)
        for column in range(start, start + rows):
            hash_U += signatures_UP[:, column] * factors_P[column]
        order = np.argsort(hash_U[shuffled_U], kind="stable")
        hash_U = hash_U[shuffled_U[order]]
        edges = np.flatnonzero(np.concatenate([[True], hash_U[1:] != hash_U[:-1]]))
        sizes = np.diff(edges, append=num_texts)
        found = [known]
        for one, other in _pairs_within(edges[sizes > 1], sizes[sizes > 1]):
            a, b = shuffled_U[order[one]], shuffled_U[order[other]]
            a, b = np.minimum(a, b), np.maximum(a, b)
            likely = _estimates(signatures_UP, a, b) >= threshold - CLEAR_MARGIN
            found.append(a[likely] * num_texts + b[likely])
        known = np.unique(np.concatenate(found))
    return known


def _pairs_within(
    starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of positions to compare in buckets, some at a time.

    These are all pairs of a bucket, and in a large one each member with the LINKS that follow it in a ring.
    """
    for num_members in range(2, MAX_BUCKET + 1):
        of_size = starts[sizes == num_members]
        a, b = np.triu_indices(num_members, 1)
        at_once = max(1, CHUNK_PAIRS // len(a))
        for first in range(0, len(of_size), at_once):
            begin = of_size[first : first + at_once, None]
            yield (begin + a).ravel(), (begin + b).ravel()
    starts, sizes = starts[sizes > MAX_BUCKET], sizes[sizes > MAX_BUCKET]
    begin, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    member = np.arange(len(begin)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    for link in range(1, LINKS + 1):
        for first in range(0, len(begin), CHUNK_PAIRS):
            part = slice(first, first + CHUNK_PAIRS)
            yield begin[part] + member[part], begin[part] + (member[part] + link) % size[part]


def _estimates(signatures_UP: NDArray[Any], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Jaccard similarities that the signatures of pairs say: the share of equal values, less chance."""
    chance = 2.0 ** (-8 * signatures_UP.itemsize)
    equal_X = np.count_nonzero(signatures_UP[a] == signatures_UP[b], axis=1) / NUM_PERMUTATIONS
    estimates: NDArray[np.float64] = (equal_X - chance) / (1 - chance)
    return estimates


class _Shingles:
    """The 5-grams of distinct texts, by their numbers, read again when they are asked for; some are kept."""

    def __init__(self, texts: Sequence[str], first_U: NDArray[np.int64]) -> None:
        self._texts = texts
        self._first_U = first_U
        self._known: dict[int, set[str]] = {}
        self._num_kept = 0

    def of(self, number: int) -> set[str]:
        """Return the 5-grams of a text."""
        if number not in self._known:
            if self._num_kept > MAX_SHINGLES:
                self._known.clear()
                self._num_kept = 0
            self._known[number] = _shingles(normalise(self._texts[int(self._first_U[number])]))
            self._num_kept += len(self._known[number])
        return self._known[number]


def _sure(codes_X: NDArray[np.int64], signatures_UP: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Return which pairs are near duplicates beyond doubt, by their signatures."""
    sure_X = np.zeros(len(codes_X), dtype=bool)
    for start in range(0, len(codes_X), CHUNK_PAIRS):
        a, b = np.divmod(codes_X[start : start + CHUNK_PAIRS], len(signatures_UP))
        estimates = _estimates(signatures_UP, a, b)
        sure_X[start : start + CHUNK_PAIRS] = estimates >= min(1.0, threshold + CLEAR_MARGIN)
    return sure_X


def _verified(codes_V: NDArray[np.int64], num_texts: int, shingles: _Shingles, threshold: float) -> NDArray[np.bool_]:
    """Return which of V pairs are near duplicates, by their 5-grams.

    Pairs that have to do with each other follow one another, so that a text is read about once and not for every pair.
    """
    alike_V = np.zeros(len(codes_V), dtype=bool)
    order_V = np.argsort(_nearby(codes_V, num_texts)[codes_V // num_texts], kind="stable")
    for start in range(0, len(codes_V), CHUNK_PAIRS):
        part = order_V[start : start + CHUNK_PAIRS]
        pairs = zip(*(numbers.tolist() for numbers in np.divmod(codes_V[part], num_texts)), strict=True)
        alike_V[part] = [_alike(shingles.of(a), shingles.of(b), threshold) for a, b in pairs]
    return alike_V


def _nearby(codes_V: NDArray[np.int64], num_texts: int) -> NDArray[np.int64]:
    """Return for each text a number that it has in common with most texts that a few pairs lead to: the smallest."""
    near_U = np.arange(num_texts)
    for _ in range(2):
        for start in range(0, len(codes_V), CHUNK_PAIRS):
            a, b = np.divmod(codes_V[start : start + CHUNK_PAIRS], num_texts)
            smaller = np.minimum(near_U[a], near_U[b])
            np.minimum.at(near_U, a, smaller)
            np.minimum.at(near_U, b, smaller)
    return near_U


def _alike(one: set[str], other: set[str], threshold: float) -> bool:
    if min(len(one), len(other)) < threshold * max(len(one), len(other)):
        return False  # even if one held all of the other
    shared = len(one & other)
    return shared >= threshold * (len(one) + len(other) - shared)


def _components(size: int, links_X2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest member of each item's connected component."""
    if not len(links_X2):
        return np.arange(size)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(links_X2), dtype=np.int8), (links_X2[:, 0], links_X2[:, 1])), shape=(size, size))
    _, component_U = connected_components(graph, directed=False)
    smallest = np.unique(component_U, return_index=True)[1]
    return np.asarray(smallest[component_U], dtype=np.int64)


def _said(message: Message) -> str:
    return "\n".join((message.text, *(f"{call.name} {call.arguments_text}" for call in message.tool_calls)))
