"""Topics: groups of texts that share words, and the words that set each group apart.

TF-IDF (words in at least MIN_ROWS_USED texts and in at most half of them) → truncated SVD (latent semantic analysis,
Deerwester et al. 1990) → k-means on the unit sphere, all with a fixed seed. k grows with the root of the number of
texts, `num_topics`. A topic's keywords are the words with the largest s · log(s / b): s is the share of the topic's
texts with the word, b the share of all texts. It is class-based TF-IDF (Grootendorst 2022) with shares of texts in the
place of counts, so that words which stand everywhere weigh nothing. Function words are left out (function_words.py; of
languages that it does not have, only what stands in half of the texts). Where no spaces are written, pairs of
neighbouring characters are the words.

Left out: topics of several levels, texts in two topics. Word order and meaning do not count: two ways to say a thing in
other words are two topics. The figures are exact for one machine and its libraries; elsewhere rounding can move a text
that lies between two topics.

Shapes: N texts, T words, V distinct words, K topics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.data.function_words import function_words
from metier.data.words import Words

MIN_ROWS = 100
"""With fewer texts there are no topics: a person reads them faster, and a keyword could be one text's."""
MAX_TOPICS = 20
NUM_DIMENSIONS = 50
MIN_ROWS_USED = 3
MIN_ROWS_SHOWN = 10
"""A word that fewer texts of a topic share is never shown."""
MAX_WORD_SHARE = 0.5
MAX_WORDS = 10_000
NUM_KEYWORDS = 6
NUM_CANDIDATES = 18
_SEED = 0


@dataclass(frozen=True, slots=True)
class Topics:
    """What N texts are about: `topic_N` is −1 for a text without a usable word; topics are ordered by size."""

    topic_N: NDArray[np.int64]
    keywords: list[list[str]]


def num_topics(num_texts: int) -> int:
    """Return k: √(N / 25), from 2 at 100 texts to MAX_TOPICS at 10,000; 0 below MIN_ROWS."""
    return min(MAX_TOPICS, math.isqrt(num_texts // 25)) if num_texts >= MIN_ROWS else 0


def topics_of(words: Words, allowed: Callable[[str, NDArray[np.int64]], bool] = lambda word, rows: True) -> Topics:
    """Return the topics of N texts.

    Args:
        words: their words.
        allowed: whether a word may be shown, given the numbers of the topic's texts that it stands in.
    """
    counts_NV, names = _counts(words)
    used_N = np.diff(counts_NV.indptr) > 0
    num = num_topics(int(used_N.sum()))
    topic_N = np.full(words.num_texts, -1, dtype=np.int64)
    if not num or counts_NV.shape[1] < num:
        return Topics(topic_N, [])
    topic_N[used_N] = _clustered(_reduced(counts_NV[used_N]), num)
    sizes = np.bincount(topic_N[used_N], minlength=num)
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    place = np.empty(num, dtype=np.int64)
    place[order] = np.arange(len(order))
    topic_N[used_N] = place[topic_N[used_N]]
    return Topics(topic_N, _keywords(counts_NV, names, topic_N, len(order), allowed))


def _counts(words: Words) -> tuple[Any, list[str]]:
    """Return how often each usable word stands in each text, as a sparse matrix, and the words."""
    from scipy.sparse import csr_matrix

    num_V = np.bincount(words.word_T, minlength=len(words.vocabulary)).tolist()
    ignored = function_words(dict(zip(words.vocabulary, num_V, strict=True)))
    kept_V = np.array([_tells(word, ignored) for word in words.vocabulary], dtype=bool)
    tells_T = kept_V[words.word_T]
    rows, columns, names = words.row_T[tells_T], words.word_T[tells_T], words.vocabulary
    if (alone_V := np.array([_unspaced(word) for word in words.vocabulary], dtype=bool)).any():
        starts, numbers = words.phrases(2)
        both = alone_V[words.word_T[starts]] & alone_V[words.word_T[starts + 1]]
        _, first, pair = np.unique(numbers[both], return_index=True, return_inverse=True)
        at = words.word_T[starts[both][first][:, None] + np.arange(2)].tolist()
        rows, columns = np.append(rows, words.row_T[starts[both]]), np.append(columns, len(names) + pair)
        names = names + [names[a] + names[b] for a, b in at]
    counts_NV = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(words.num_texts, len(names)))
    rows_V = np.bincount(counts_NV.indices, minlength=len(names))
    kept = (rows_V >= MIN_ROWS_USED) & (rows_V <= MAX_WORD_SHARE * words.num_texts)
    columns = np.flatnonzero(kept)
    if len(columns) > MAX_WORDS:
        columns = np.sort(columns[np.argsort(-rows_V[columns], kind="stable")[:MAX_WORDS]])
    names = [names[column] for column in columns]
    alphabetical = sorted(range(len(names)), key=names.__getitem__)
    return counts_NV[:, columns[alphabetical]], [names[index] for index in alphabetical]


def _tells(word: str, ignored: frozenset[str]) -> bool:
    """Whether a word may name a topic: no number, no function word; three letters, or two beyond European alphabets.

    Of `i'm` and `he's`, what stands before the apostrophe counts.
    """
    stem = re.split("['’]", word)[0]
    return len(stem) >= (3 if stem[0] < "\u0590" else 2) and stem[0].isalpha() and stem not in ignored


def _unspaced(word: str) -> bool:
    return len(word) == 1 and word > "\u0e00" and word.isalpha()


def _reduced(counts_NV: Any) -> NDArray[np.float64]:
    """Return the texts as unit vectors of at most NUM_DIMENSIONS."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize

    tfidf_NV = TfidfTransformer(sublinear_tf=True).fit_transform(counts_NV)
    num = min(NUM_DIMENSIONS, tfidf_NV.shape[1] - 1, tfidf_NV.shape[0] - 1)
    if num < 2:
        return np.asarray(tfidf_NV.todense())
    vectors = TruncatedSVD(num, n_iter=3, random_state=_SEED).fit_transform(tfidf_NV)
    return np.asarray(normalize(vectors))


def _clustered(vectors_ND: NDArray[np.float64], num: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    found = KMeans(num, n_init=2, max_iter=100, random_state=_SEED).fit(vectors_ND)
    return np.asarray(found.labels_, dtype=np.int64)


def _keywords(
    counts_NV: Any,
    names: list[str],
    topic_N: NDArray[np.int64],
    num: int,
    allowed: Callable[[str, NDArray[np.int64]], bool],
) -> list[list[str]]:
    rows_V = np.bincount(counts_NV.indices, minlength=len(names))
    background_V = rows_V / counts_NV.shape[0]
    found = []
    for topic in range(num):
        rows = np.flatnonzero(topic_N == topic)
        inside = counts_NV[rows].tocsc()
        there_V = np.diff(inside.indptr)
        share_V = there_V / len(rows)
        weight_V = np.where(share_V > background_V, share_V * np.log(np.maximum(share_V, 1e-12) / background_V), 0.0)
        weight_V[there_V < MIN_ROWS_SHOWN] = 0.0
        shown: list[str] = []
        for column in np.argsort(-weight_V, kind="stable")[:NUM_CANDIDATES].tolist():
            if len(shown) == NUM_KEYWORDS or weight_V[column] <= 0:
                break
            if allowed(names[column], rows[inside.indices[inside.indptr[column] : inside.indptr[column + 1]]]):
                shown.append(names[column])
        found.append(shown)
    return found
