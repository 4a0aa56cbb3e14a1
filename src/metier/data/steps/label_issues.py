"""Find likely wrong labels: a ranked list for a person; nothing is dropped unless somebody says how much.

Confident learning (Northcutt, Jiang & Chuang, 2021): every row gets class probabilities from a model that has not seen
it (TF-IDF of words and word pairs, logistic regression, k folds; equal texts share a fold). A class is confident of a
row where its probability reaches the mean that the class has on its own rows; a row of which another class is
confident, and more so than any other, is an issue. The list is ordered by how far that class is ahead of the given one.
Rows that are held out are judged by a model of all training rows, listed, and never dropped.

Left out: several labels per row and numbers; labels with fewer rows than folds, which nothing can be learnt about;
estimating how many labels are wrong. A list is a suspicion: a model of words errs where words deceive.

Shapes: N rows, K labels.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    known = set(labels)
    judged = [row for row in train if row.label in known]
    asked = [row for row in held_out if row.label in known]
    everything: dict[str, Examples] = {"train": examples}
    everything |= {str(split): found for split, found in around.held_out.items()}
    inside_NK, outside_NK = _probabilities(_Texts(everything, judged), _Texts(everything, asked), labels, options)
    numbers = {label: number for number, label in enumerate(labels)}
    rows = [*judged, *asked]
    given_N = np.array([numbers[row.label] for row in rows], dtype=np.int64)
    suggested_N, ahead_N = issues(np.concatenate([inside_NK, outside_NK]), given_N, num_judged=len(judged))
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


def issues(
    probability_NK: NDArray[np.float64], given_N: NDArray[np.int64], *, num_judged: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each row the class that it likely belongs to, −1 where the given one may be right, and its lead.

    The lead is the suggested class's probability minus the given one's.

    Args:
        probability_NK: class probabilities from models that have not seen the row.
        given_N: the given classes.
        num_judged: how many of the rows, from the first on, the classes' thresholds come from; default all.
    """
    own_N = probability_NK[np.arange(len(given_N)), given_N]
    basis = slice(0, num_judged)
    sums_K = np.bincount(given_N[basis], weights=own_N[basis], minlength=probability_NK.shape[1])
    counts_K = np.bincount(given_N[basis], minlength=probability_NK.shape[1])
    threshold_K = sums_K / np.maximum(counts_K, 1)
    confident_NK = np.where(probability_NK >= threshold_K, probability_NK, -1.0)
    suggested_N = confident_NK.argmax(axis=1)
    lead_N = probability_NK[np.arange(len(given_N)), suggested_N] - own_N
    wrong_N = (confident_NK.max(axis=1) > 0) & (suggested_N != given_N) & (lead_N > 0)
    return np.where(wrong_N, suggested_N, -1), np.where(wrong_N, lead_N, 0.0)


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


def _probabilities(
    judged: _Texts, asked: _Texts, labels: Sequence[str], options: Options
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the class probabilities of the judged rows, out of fold, and of the asked rows, by all judged ones."""
    targets = [row.label for row in judged.rows]
    fold_N = _folds(judged, options)
    inside_NK = np.zeros((len(judged), len(labels)))
    for fold in range(options.folds):
        rows, others = np.flatnonzero(fold_N == fold).tolist(), np.flatnonzero(fold_N != fold).tolist()
        if len(rows) and len({targets[i] for i in others}) > 1:
            model = _fitted((judged[i] for i in others), [targets[i] for i in others])
            inside_NK[rows] = _asked(model, (judged[i] for i in rows), labels)
    if not asked:
        return inside_NK, np.zeros((0, len(labels)))
    return inside_NK, _asked(_fitted(judged, targets), asked, labels)


def _fitted(texts: Iterable[str], targets: Sequence[str]) -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", max_features=MAX_FEATURES
    )
    # C > 1: with few rows and many classes the default shrinks all probabilities towards 1/K.
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")).fit(texts, targets)


def _asked(model: Pipeline, texts: Iterable[str], labels: Sequence[str]) -> NDArray[np.float64]:
    """Return the probabilities in the order of the labels; 0 for a label that the model has never seen."""
    found = model.predict_proba(texts)
    columns = {label: number for number, label in enumerate(model.classes_)}
    probability_NK = np.zeros((len(found), len(labels)))
    for number, label in enumerate(labels):
        if label in columns:
            probability_NK[:, number] = found[:, columns[label]]
    return probability_NK


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
