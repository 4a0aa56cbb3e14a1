"""What a run is compared with: the untouched base in its strongest form, and floors that need no language model.

* zero-shot label likelihood, plain or divided by each label's likelihood without a text (Zhao et al. 2021), whichever
  is better on validation;
* frozen base + linear probe: logistic regression (ridge for numbers) on pooled hidden states;
* majority class (mean for numbers);
* TF-IDF of words and characters + linear SVM (ridge for numbers);
* the reply of the nearest training row by TF-IDF.

Regularisation is chosen on validation and the fit uses train alone, as the run's does. Everything is deterministic.

Shapes: N rows, K labels, D features.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from metier.core.types import Conversation, Labelled, ProblemType
from metier.evaluation.predict import from_logits, from_probabilities
from metier.evaluation.records import prediction_of, prompt_text, target_of
from metier.metrics import Array, Metric, Prediction, labels_of, metrics_for

FIT_ROWS = 20_000
"""Training rows of a larger set on which a linear probe is fitted and a floor's strength chosen: a seeded sample."""
TFIDF_CHARACTERS = 20_000_000
"""Text that TF-IDF is fitted on, where that is more than FIT_ROWS rows: about a minute and 3 GB on one core."""
FIT_WORK = 600_000_000
"""Characters × labels of a linear fit, one model per label: twice as much took more than seven minutes on one core."""
NEAREST_WORK = 60_000_000_000
"""Characters × rows asked of a search for the nearest row: about five minutes."""
PROBE_STRENGTHS = (0.03, 0.3, 3.0, 30.0)
SVM_STRENGTHS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Rows:
    """Labelled rows of one dataset, as baselines need them."""

    train: Sequence[Labelled]
    validation: Sequence[Labelled]
    asked: Sequence[Labelled]
    """The rows to predict."""
    labels: tuple[str, ...]
    problem_type: ProblemType
    decides: Metric | None = None
    """The figure that decides the verdict, by which forms and strengths are chosen; None: the problem type's own."""


def sample(rows: Sequence[Any], limit: int, seed: int) -> list[Any]:
    """Return at most `limit` rows, drawn by the seed, in their original order."""
    if len(rows) <= limit:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return [rows[i] for i in sorted(chosen)]


def affordable(texts: Sequence[str], times: int, work: int) -> int:
    """Return how many of these training rows a floor is fitted on: all where time and memory allow it.

    Args:
        texts: what is read of each row.
        times: models that are fitted, or rows that are asked: how often each character is gone through.
        work: characters × times that may be spent.
    """
    characters = sum(map(len, texts))
    most = min(TFIDF_CHARACTERS, work // max(times, 1))
    return len(texts) if characters <= most else min(len(texts), max(FIT_ROWS, len(texts) * most // characters))


def score(predictions: Sequence[Prediction], rows: Rows) -> tuple[float, float]:
    """Return how good answers are, each number turned so that higher is better; -inf where there is no figure.

    First by the figure that decides, then by that of the problem type: it breaks ties, and decides alone among answers
    that have no such figure, as an SVM's have no calibration error.
    """
    own = metrics_for(rows.problem_type)[0]
    return _turned(rows.decides or own, predictions), _turned(own, predictions)


def _turned(metric: Metric, predictions: Sequence[Prediction]) -> float:
    value = metric.value(predictions)
    return -math.inf if value is None else value if metric.higher_is_better else -value


def one_answer(rows: Rows, train: Sequence[Labelled]) -> bool:
    """Return whether train has a single target, so that there is nothing to fit."""
    return rows.problem_type == "single_label" and len({target_of(e) for e in train}) < 2


# ───────────────────────────────────────────────────────────────────────────── without a model


def majority(rows: Rows, asked: Sequence[Labelled]) -> list[Prediction]:
    """Give every row the most frequent training target, with the shares in train as probabilities; the mean number."""
    if rows.problem_type == "regression":
        mean = float(np.mean([float(target_of(e)) for e in rows.train]))  # type: ignore[arg-type]
        return [prediction_of(e, output=mean) for e in asked]
    counts = Counter(target_of(e) for e in rows.train)
    answer = min(counts, key=lambda target: (-counts[target], str(target)))
    seen = Counter(label for e in rows.train for label in labels_of(target_of(e)))
    probs = {label: seen[label] / len(rows.train) for label in rows.labels}
    confidence = counts[answer] / len(rows.train)
    return [prediction_of(e, output=answer, label_probs=probs, confidence=confidence) for e in asked]


def tfidf_linear(
    rows: Rows, text_of: Callable[[Labelled], str] = attrgetter("text"), *, seed: int = 0
) -> list[Prediction]:
    """Fit a linear model on TF-IDF of words (1–2) and characters (2–5); validation chooses its strength.

    The strength is chosen among fits on FIT_ROWS rows; the one chosen is then fitted on all.

    Args:
        text_of: what is read of a row: the prompt that the run is asked, with the same columns filled in.
    """
    from sklearn.linear_model import Ridge
    from sklearn.svm import LinearSVC

    if one_answer(rows, rows.train):
        return majority(rows, rows.asked)
    if rows.problem_type == "regression":
        models = [Ridge(alpha=1 / c) for c in SVM_STRENGTHS]
    else:
        models = [LinearSVC(C=c, random_state=seed) for c in SVM_STRENGTHS]
    tried = sample(rows.train, FIT_ROWS, seed)
    if one_answer(rows, tried):
        tried = list(rows.train)
    fitted, vectorizer = _fit_texts(models, tried, rows, text_of)
    if len(tried) < len(rows.train):
        fitted, vectorizer = _fit_texts([fitted.estimator], rows.train, rows, text_of)
    return fitted.predict(rows.asked, vectorizer.transform(list(map(text_of, rows.asked))))


def _fit_texts(
    models: Sequence[Any], train: Sequence[Labelled], rows: Rows, text_of: Callable[[Labelled], str]
) -> tuple[Fitted, Any]:
    vectorizer = _vectorizer()
    features = vectorizer.fit_transform(list(map(text_of, train)))
    held_out = vectorizer.transform(list(map(text_of, rows.validation))) if rows.validation else None
    return fit_best(models, train, features, rows, held_out), vectorizer


def nearest_reply(known: Sequence[Conversation], asked: Sequence[Conversation]) -> list[Prediction]:
    """Answer with the reply of the training row whose prompt is nearest by TF-IDF cosine; ties go to the first."""
    from sklearn.preprocessing import normalize

    vectorizer = _vectorizer()
    table = normalize(vectorizer.fit_transform([prompt_text(e) for e in known]))
    found = []
    size = max(1, 256 * FIT_ROWS // max(len(known), FIT_ROWS))  # a dense block of similarities: 40 MB
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        similarity = normalize(vectorizer.transform([prompt_text(e) for e in part])) @ table.T
        nearest = np.asarray(similarity.toarray()).argmax(axis=1)
        found += [prediction_of(e, output=str(target_of(known[k]))) for e, k in zip(part, nearest, strict=True)]
    return found


def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", max_features=200_000)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=200_000)
    return FeatureUnion([("words", words), ("characters", characters)])


# ───────────────────────────────────────────────────────────────────────────── with the frozen base


def linear_probe(
    rows: Rows, features: Callable[[Sequence[Labelled]], np.ndarray[Any, np.dtype[np.float32]]]
) -> tuple[list[Prediction], list[Prediction]]:
    """Fit a linear model on pooled features of the frozen base; return predictions for (validation, asked)."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    if one_answer(rows, rows.train):
        return majority(rows, rows.validation), majority(rows, rows.asked)
    scaler = StandardScaler()
    inputs = scaler.fit_transform(features(rows.train))
    if rows.problem_type == "regression":
        models = [Ridge(alpha=1 / c) for c in PROBE_STRENGTHS]
    else:
        models = [LogisticRegression(C=c, max_iter=300, tol=1e-3) for c in PROBE_STRENGTHS]
    held_out = scaler.transform(features(rows.validation)) if rows.validation else None
    fitted = fit_best(models, rows.train, inputs, rows, held_out)
    asked = fitted.predict(rows.asked, scaler.transform(features(rows.asked)))
    return fitted.predict(rows.validation, held_out), asked


def zero_shot(
    scores_NK: Array, prior_K: Array, asked: Sequence[Labelled], labels: Sequence[str], *, calibrated: bool
) -> list[Prediction]:
    """Choose by label likelihood; `calibrated` divides by how likely each label is without a text."""
    logits = scores_NK - prior_K[None, :] if calibrated else scores_NK
    return from_logits(asked, logits, labels=labels, problem_type="single_label")


# ───────────────────────────────────────────────────────────────────────────── fitting


class Fitted:
    """A linear model of scikit-learn, fitted on train, that answers in predictions."""

    def __init__(self, model: Any, train: Sequence[Labelled], features: Any, rows: Rows) -> None:
        from sklearn.multiclass import OneVsRestClassifier

        self.rows = rows
        self.estimator = model
        targets = [target_of(e) for e in train]
        if rows.problem_type == "multi_label":
            self.model = OneVsRestClassifier(model)
            hot = [[label in labels_of(target) for label in rows.labels] for target in targets]
            self._fit(features, np.array(hot, dtype=np.int64))
        elif rows.problem_type == "regression":
            self.model = model
            self._fit(features, np.array(targets, dtype=np.float64))
        else:
            self.model = model
            self._fit(features, np.array(targets))

    def predict(self, examples: Sequence[Labelled], features: Any) -> list[Prediction]:
        """Answer; with probabilities where the model has them."""
        if not examples:
            return []
        rows = self.rows
        if rows.problem_type != "regression" and hasattr(self.model, "predict_proba"):
            return from_probabilities(
                examples, self._probabilities(features), labels=rows.labels, several=rows.problem_type == "multi_label"
            )
        return [
            prediction_of(e, output=self._output(y))
            for e, y in zip(examples, self.model.predict(features), strict=True)
        ]

    def _fit(self, features: Any, targets: Any) -> None:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # A fit that stops early is still a baseline: validation chooses among the strengths.
            warnings.simplefilter("ignore", ConvergenceWarning)
            # A label that all or none of the training rows have gets a constant answer, which is what we want.
            warnings.filterwarnings("ignore", message="Label (not )?.* is present in all training examples")
            self.model.fit(features, targets)

    def _probabilities(self, features: Any) -> Array:
        found: Array = np.asarray(self.model.predict_proba(features), dtype=np.float64)
        if self.rows.problem_type == "multi_label":
            return found
        columns = {label: k for k, label in enumerate(self.model.classes_)}
        empty = np.zeros(len(found))
        return np.stack([found[:, columns[x]] if x in columns else empty for x in self.rows.labels], axis=1)

    def _output(self, answer: Any) -> str | tuple[str, ...] | float:
        if self.rows.problem_type == "regression":
            return float(answer)
        if self.rows.problem_type == "multi_label":
            return tuple(label for label, yes in zip(self.rows.labels, answer, strict=True) if yes)
        return str(answer)


def fit_best(models: Sequence[Any], train: Sequence[Labelled], features: Any, rows: Rows, held_out: Any) -> Fitted:
    """Fit each model on train and return the one that is best on validation, whose features are `held_out`.

    Without validation rows it is the middle strength.
    """
    if not rows.validation:
        return Fitted(models[len(models) // 2], train, features, rows)
    fitted = [Fitted(model, train, features, rows) for model in models]
    return max(fitted, key=lambda fit: score(fit.predict(rows.validation, held_out), rows))
