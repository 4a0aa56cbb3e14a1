"""Find likely wrong labels: a ranked list for a person; nothing is dropped unless somebody says how much.

Confident learning (Northcutt, Jiang & Chuang, 2021): every row gets class probabilities from a model that has not seen
it (TF-IDF of words and word pairs, logistic regression, k folds; equal texts share a fold). A class is confident of a
row where its probability reaches the mean that the class has on its own rows; a row of which another class is
confident, and more so than any other, is an issue. The list is ordered by how far that class is ahead of the given one.
Rows that are held out are judged by a model of all training rows, listed, and never dropped.

The probabilities are looked at in blocks of rows and never all kept (`Ahead`). What scikit-learn takes while it fits a
model stays: two numbers per row and label.

Left out: several labels per row and numbers; labels with fewer rows than folds, which nothing can be learnt about;
estimating how many labels are wrong. A list is a suspicion: a model of words errs where words deceive.

Shapes: N rows, K labels, B rows of a block, A classes ahead of the given one, of all rows together.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Labelled
from metier.data.digests import Digests
from metier.data.similar import normalise
from metier.data.spool import Examples, chosen
from metier.data.steps import Around, Sign, StepResult

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

summary = "List likely wrong labels for a person to review (by out-of-fold confidence); drop them on request"
SIGN = Sign("E334", "labels that are likely wrong", max_rows=2_000)
FILTERS = True
AFTER_SPLIT = True
MAX_FEATURES = 50_000
TEXT_CHARACTERS = 2_000
"""How much of a row's text the list shows, and how much of it the model reads."""

BLOCK_NUMBERS = 1 << 18
"""How many probabilities there are at a time: 2 MB, and a few times that while they are ranked."""

MAX_AHEAD = 16
"""How many classes are kept of a row until the thresholds are known: few rows have so many ahead of the given one."""


class Options(BaseOptions):
    """How rows are judged, and whether any are dropped."""

    drop: float = Field(
        0,
        description="Training rows to drop, the likeliest first: a share of them (below 1) or a number; 0 = none.",
        ge=0,
    )
    folds: int = Field(5, description="Parts of which each is judged by a model of the others.", ge=2, le=20)
    seed: int = Field(0, description="Seed of the folds.", ge=0)


_WORDS = {"fee": "fee charge cost price", "card": "card lost stolen plastic", "rate": "rate exchange currency euro"}
_ROWS = [
    Labelled(text=f"{first} {second} {n}", target=label)
    for n in range(2)
    for label, words in _WORDS.items()
    for first in words.split()
    for second in words.split()
    if first < second
]
_WRONG = Labelled(text="stolen plastic card lost", target="fee")
SAMPLE: dict[str, Any] = {
    "options": {"drop": 1, "folds": 3},
    "examples": [*_ROWS, _WRONG],
    "result": _ROWS,
}


def run(examples: Examples, options: Options, around: Around) -> StepResult:
    """Return the examples, without the `drop` likeliest issues; the list of all of them is `review`."""
    train = _single("train", examples)
    held_out = [row for split, found in around.held_out.items() for row in _single(split, found)]
    counts = Counter(row.label for row in train)
    labels = sorted(label for label, count in counts.items() if count >= options.folds)
    if len(labels) < 2:
        return StepResult(examples, list(range(len(examples))), "no labels to judge: fewer than 2 have enough rows", [])
    numbers = {label: number for number, label in enumerate(labels)}
    judged = [row for row in train if row.label in numbers]
    rows = [*judged, *(row for row in held_out if row.label in numbers)]
    everything: dict[str, Examples] = {"train": examples}
    everything |= {str(split): found for split, found in around.held_out.items()}
    given_N = np.array([numbers[row.label] for row in rows], dtype=np.int64)
    fold_N = np.full(len(rows), options.folds)  # what is held out is a fold of its own: the others are all judged rows
    fold_N[: len(judged)] = _folds(_Texts(everything, judged), options)
    suggested_N, ahead_N = _issues(_Texts(everything, rows), given_N, fold_N, num_judged=len(judged))
    order = [i for i in np.lexsort((np.arange(len(given_N)), -ahead_N)).tolist() if suggested_N[i] >= 0]
    in_train = [(rows[i].number, rows[i].label) for i in order if rows[i].split == "train"]
    gone = _to_drop(in_train, counts, len(examples), options)
    review = []
    for i in order:
        example = everything[rows[i].split][rows[i].number]
        review.append(
            {
                "place": example.place,
                "id": example.id,
                "split": rows[i].split,
                "label": labels[given_N[i]],
                "suggested": labels[suggested_N[i]],
                "ahead": round(float(ahead_N[i]), 3),
                "dropped": rows[i].split == "train" and rows[i].number in gone,
                "text": example.text[:TEXT_CHARACTERS],
            }
        )
    origins = [index for index in range(len(examples)) if index not in gone]
    dropped = [(examples[index].id, "likely wrong label") for index in sorted(gone)]
    few = len(train) - len(judged)
    note = f"{len(review):,} likely wrong labels of {len(rows):,} rows judged, {len(dropped):,} dropped"
    note += f"; {few:,} rows of labels with fewer than {options.folds} rows not judged" if few else ""
    return StepResult(chosen(examples, origins), origins, note, dropped, review)


class Ahead:
    """What is kept of class probabilities that are told in blocks of rows: the given class's, and the likelier ones.

    Which classes are confident is known once all rows are told, and until then any class that is likelier than the
    given one may be the one to suggest. Of those the MAX_AHEAD likeliest are kept. That is enough, but where none of
    them turns out to be confident and one left out may: `undecided` names these rows, which are then told again.

    Args:
        given_N: the given classes.
        num_labels: how many classes there are.
    """

    def __init__(self, given_N: NDArray[np.int64], num_labels: int) -> None:
        self._given_N = given_N
        self._num_labels = num_labels
        self._own_N = np.zeros(len(given_N))
        self._left_N = np.full(len(given_N), -1.0)  # how likely a class that is left out may be; −1: none is
        nothing = np.zeros(0, dtype=np.int32)
        self._kept: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]] = [
            (nothing, nothing, np.zeros(0))
        ]

    def add(
        self,
        rows_B: NDArray[np.int64],
        probability_BK: NDArray[np.float64],
        threshold_K: NDArray[np.float64] | None = None,
    ) -> None:
        """Take the probabilities of some rows, by models that have not seen them.

        Args:
            rows_B: the numbers of the rows.
            probability_BK: their class probabilities.
            threshold_K: of rows that are told again: from where on each class is confident.
        """
        own_B = probability_BK[np.arange(len(rows_B)), self._given_N[rows_B]]
        self._own_N[rows_B] = own_B
        ahead_BK = probability_BK > own_B[:, None]
        if threshold_K is not None:
            ahead_BK &= probability_BK >= threshold_K
        some_B = ahead_BK.any(axis=1)
        rows_B, probability_BK, ahead_BK = rows_B[some_B], probability_BK[some_B], ahead_BK[some_B]
        # Stable: of equally likely classes the first stands in front, as argmax would have it.
        ranked = np.argsort(np.where(ahead_BK, -probability_BK, 1.0), axis=1, kind="stable")[:, :MAX_AHEAD]
        row_A, place_A = np.nonzero(np.take_along_axis(ahead_BK, ranked, axis=1))
        class_A = ranked[row_A, place_A]
        self._kept.append((rows_B[row_A].astype(np.int32), class_A.astype(np.int32), probability_BK[row_A, class_A]))
        more = np.flatnonzero(np.count_nonzero(ahead_BK, axis=1) > MAX_AHEAD)
        self._left_N[rows_B[more]] = probability_BK[more, ranked[more, -1]]

    def thresholds(self, num_judged: int) -> NDArray[np.float64]:
        """Return from where on each class is confident: the mean that it has on its own of the first rows."""
        given_N, own_N = self._given_N[:num_judged], self._own_N[:num_judged]
        sums_K = np.bincount(given_N, weights=own_N, minlength=self._num_labels)
        return sums_K / np.maximum(np.bincount(given_N, minlength=self._num_labels), 1)

    def issues(self, threshold_K: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return for each row the class that it likely belongs to, −1 where the given one may be right, and its lead.

        The lead is the suggested class's probability minus the given one's.
        """
        row_A, class_A, probability_A = (np.concatenate(part) for part in zip(*self._kept, strict=True))
        confident_A = np.flatnonzero(probability_A >= threshold_K[class_A])
        rows, first = np.unique(row_A[confident_A], return_index=True)  # the first of a row is its likeliest
        suggested_N, lead_N = np.full(len(self._given_N), -1), np.zeros(len(self._given_N))
        suggested_N[rows] = class_A[confident_A[first]]
        lead_N[rows] = probability_A[confident_A[first]] - self._own_N[rows]
        return suggested_N, lead_N

    def undecided(self, threshold_K: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the rows of which a class that is not kept may be confident, and none that is kept."""
        return np.flatnonzero((self.issues(threshold_K)[0] < 0) & (self._left_N >= threshold_K.min()))


class _Row(NamedTuple):
    """A row with one label: where it stands, and the label."""

    split: str
    number: int
    label: str


class _Texts(Sequence[str]):
    """What the model reads of rows, one by one."""

    def __init__(self, examples: Mapping[str, Examples], rows: Sequence[_Row]) -> None:
        self._examples = examples
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.whole(index)[:TEXT_CHARACTERS]

    def whole(self, index: int) -> str:
        """Return a text beyond what the model reads."""
        example = self._examples[self.rows[index].split][self.rows[index].number]
        return example.text if isinstance(example, Labelled) else ""


def _single(split: str, examples: Examples) -> list[_Row]:
    """Return the rows that have one label."""
    return [
        _Row(split, index, sys.intern(e.target))
        for index, e in enumerate(examples)
        if isinstance(e, Labelled) and isinstance(e.target, str)
    ]


def _to_drop(found: list[tuple[int, str]], counts: Counter[str], num_rows: int, options: Options) -> set[int]:
    """Return the rows to drop, in the order of the list; the last row of a label always stays."""
    limit = int(options.drop) if options.drop >= 1 else int(options.drop * num_rows + 1e-9)
    left = Counter(counts)
    gone: set[int] = set()
    for index, label in found:
        if len(gone) < limit and left[label] > 1:
            left[label] -= 1
            gone.add(index)
    return gone


# ───────────────────────────────────────────────────────────────────────────── the model


def _issues(
    texts: _Texts, given_N: NDArray[np.int64], fold_N: NDArray[np.int64], *, num_judged: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return what `Ahead.issues` does: thresholds and models are those of the first `num_judged` rows."""
    num_labels = int(given_N.max()) + 1
    every = np.ones(len(given_N), dtype=bool)
    found = Ahead(given_N, num_labels)
    for rows_B, probability_BK in _told(texts, given_N, fold_N, every, num_judged, num_labels):
        found.add(rows_B, probability_BK)
    threshold_K = found.thresholds(num_judged)
    again = np.zeros(len(given_N), dtype=bool)
    again[found.undecided(threshold_K)] = True
    for rows_B, probability_BK in _told(texts, given_N, fold_N, again, num_judged, num_labels):
        found.add(rows_B, probability_BK, threshold_K)
    return found.issues(threshold_K)


def _told(
    texts: _Texts,
    given_N: NDArray[np.int64],
    fold_N: NDArray[np.int64],
    wanted_N: NDArray[np.bool_],
    num_judged: int,
    num_labels: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield the wanted rows in blocks, with their class probabilities by a model of the judged rows of other folds.

    Of a fold without which there are not two labels, nothing is told.
    """
    size = max(1, BLOCK_NUMBERS // num_labels)
    for fold in np.unique(fold_N[wanted_N]).tolist():
        others = np.flatnonzero(fold_N[:num_judged] != fold)
        if len(np.unique(given_N[others])) < 2:
            continue
        model = _fitted((texts[i] for i in others.tolist()), given_N[others])
        rows = np.flatnonzero(wanted_N & (fold_N == fold))
        for rows_B in np.split(rows, range(size, len(rows), size)):
            probability_BK = np.zeros((len(rows_B), num_labels))  # 0 for a label that the model has never seen
            probability_BK[:, model.classes_] = model.predict_proba(texts[i] for i in rows_B.tolist())
            yield rows_B, probability_BK


def _fitted(texts: Iterable[str], targets: NDArray[np.int64]) -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", max_features=MAX_FEATURES
    )
    # C > 1: with few rows and many classes the default shrinks all probabilities towards 1/K.
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")).fit(texts, targets)


def _folds(texts: _Texts, options: Options) -> NDArray[np.int64]:
    """Return a fold per row: equal texts share one, and the rows of each label are spread over all of them."""
    digests = Digests()
    orders: list[int] = []
    for index in range(len(texts)):
        said = normalise(texts.whole(index)).encode("utf-8", "surrogatepass")
        digests.add(said)
        orders.append(int.from_bytes(hashlib.blake2b(b"%d:%s" % (options.seed, said), digest_size=8).digest()))
    text_N, first_U = digests.numbered()
    numbers = {label: number for number, label in enumerate(sorted({row.label for row in texts.rows}))}
    label_U = np.array([numbers[texts.rows[row].label] for row in first_U.tolist()], dtype=np.int64)
    order_U = np.array(orders, dtype=np.uint64)[first_U]
    fold_U = np.empty(len(first_U), dtype=np.int64)
    fold_U[np.lexsort((first_U, order_U, label_U))] = np.arange(len(first_U)) % options.folds
    return fold_U[text_N]
