"""Ask everything that is compared: the run, the forms of its untouched base, the floors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from metier.core.errors import ConfigError
from metier.core.types import Conversation, Example, Labelled, ProblemType, Text
from metier.evaluation import baseline
from metier.evaluation.inputs import EvaluationInput, untouched_base
from metier.evaluation.predict import (
    label_scores,
    pooled_features,
    predict_generate,
    predict_head,
    predict_label_likelihood,
    predict_text,
)
from metier.evaluation.protocols import PolicyLike
from metier.evaluation.records import as_conversation, prediction_of, prompt_text
from metier.metrics import Metric, Prediction

Role = Literal["run", "base", "base_candidate", "floor"]
CHOICE_ROWS = 500
"""Validation rows on which the strongest form of the base is chosen, and test rows on which a zero-shot base that was
not chosen is still shown."""


@dataclass(frozen=True)
class Asked:
    """One system with its answers, row by row."""

    name: str
    label: str
    role: Role
    predictions: Sequence[Prediction]
    seconds: float = 0.0
    phrase: str = ""
    """How a sentence speaks of it, such as `a keyword baseline`."""
    note: str = ""


def ask_all(given: EvaluationInput, what: str, decides: Metric) -> tuple[list[Asked], list[str]]:
    """Return every system (the run first, then the base, then the floors) and what could not be asked, in words.

    Args:
        what: the situation (inputs.situation).
        decides: the metric of the verdict, by which the strongest form of base and floor is chosen.
    """
    if what in ("single_label", "multi_label", "regression"):
        return _ask_classifiers(given, cast(ProblemType, what), decides)
    return _ask_writers(given, what)


# ───────────────────────────────────────────────────────────────────────────── labels and numbers


def _ask_classifiers(
    given: EvaluationInput, problem_type: ProblemType, decides: Metric
) -> tuple[list[Asked], list[str]]:
    rows = baseline.Rows(
        train=_labelled(given.train),
        validation=_labelled(given.validation),
        asked=_labelled(given.test),
        labels=given.labels,
        problem_type=problem_type,
        decides=decides,
    )
    found = _run_classifier(given, rows)
    written = any(system.name == "run_text" for system in found)
    limits = _sampled(given, rows.asked, "the other figures are of all") if written else []
    if given.baseline:
        found += _base_classifiers(given, rows, limits)
    if rows.train:
        number = problem_type == "regression"
        label = "TF-IDF + ridge regression" if number else "TF-IDF + linear SVM"
        read = given.policy.encoder.labelled_text
        models = len(rows.labels) if problem_type == "multi_label" or len(rows.labels) > 2 else 1
        num_fitted = baseline.affordable([read(e) for e in rows.train], models, baseline.FIT_WORK)
        label = _label(label, num_fitted, len(rows.train), limits)
        fitted_on = replace(rows, train=baseline.sample(rows.train, num_fitted, given.seed))
        found.append(
            _timed(
                "tfidf_ridge" if number else "tfidf_svm",
                label,
                "floor",
                lambda: baseline.tfidf_linear(fitted_on, read, seed=given.seed),
                phrase="a keyword baseline",
            )
        )
        given.progress("TF-IDF floor", len(rows.asked), len(rows.asked))
    return found, limits


def _label(label: str, seen: int, num_train: int, limits: list[str]) -> str:
    """Return the label of a system that saw so many training rows; fewer than all is said in it and in a limit."""
    if seen >= num_train:
        return label
    share = f"{seen:,} of {num_train:,} training rows"
    limits.append(f"{label} saw {share}; with all of them it could be better.")
    return f"{label}, on {share}"


def _run_classifier(given: EvaluationInput, rows: baseline.Rows) -> list[Asked]:
    policy, progress = given.policy, given.progress
    if policy.head is not None:
        return [
            _timed(
                "run",
                "This run",
                "run",
                lambda: predict_head(
                    policy, rows.asked, labels=rows.labels, problem_type=rows.problem_type, progress=progress
                ),
            )
        ]
    by_likelihood = _timed(
        "run",
        "This run, by label likelihood",
        "run",
        lambda: predict_label_likelihood(policy, rows.asked, labels=rows.labels, progress=progress),
    )
    by_text = _timed(
        "run_text", "This run, free text", "run", lambda: _free_text(given, policy, rows.asked, rows.labels)
    )
    return [by_likelihood, by_text]


def _base_classifiers(given: EvaluationInput, rows: baseline.Rows, limits: list[str]) -> list[Asked]:
    """Measure each form of the base on validation, call the best one `base`, and answer the test rows with all."""
    choice = _choice_rows(rows, given.seed, limits)
    forms: list[tuple[Asked, tuple[float, float]]] = []

    def add(form: Asked, on_choice: Sequence[Prediction]) -> None:
        forms.append((form, baseline.score(on_choice, rows)))

    if rows.train:
        add(
            _timed("majority", "Most frequent answer", "base_candidate", lambda: baseline.majority(rows, rows.asked)),
            baseline.majority(rows, choice),
        )
    with untouched_base(given) as base:
        if rows.train:
            started = time.perf_counter()
            fitted_on = replace(rows, train=baseline.sample(rows.train, baseline.FIT_ROWS, given.seed))
            label = _label("Frozen base + linear probe", len(fitted_on.train), len(rows.train), limits)
            on_validation, answers = baseline.linear_probe(
                fitted_on, lambda examples: pooled_features(base, examples, progress=given.progress)
            )
            wanted = {id(e) for e in choice}
            pairs = (
                zip(rows.validation, on_validation, strict=True)
                if rows.validation
                else zip(rows.asked, answers, strict=True)
            )
            seconds = time.perf_counter() - started
            probe = Asked("linear_probe", label, "base_candidate", answers, seconds)
            add(probe, [p for e, p in pairs if id(e) in wanted])
        if rows.problem_type == "single_label" and base.base.kind == "causal":
            best_so_far = max((value for _, value in forms), default=(float("-inf"), float("-inf")))
            zero = _zero_shot(given, base, rows, choice, best_so_far, limits)
            if zero is not None:
                add(*zero)
    if not forms:
        limits.append("The untouched base was not measured: there are no training rows to fit a probe on.")
        return []
    best = max(range(len(forms)), key=lambda k: forms[k][1])
    chosen = forms[best][0]
    base_system = replace(
        chosen, role="base", label=f"Untouched base: {_lower(chosen.label)}", phrase=_lower(chosen.label)
    )
    return [base_system, *(form for k, (form, _) in enumerate(forms) if k != best)]


def _choice_rows(rows: baseline.Rows, seed: int, limits: list[str]) -> list[Labelled]:
    if rows.validation:
        return baseline.sample(rows.validation, CHOICE_ROWS, seed)
    limits.append(
        "There is no validation split, so the strongest form of the untouched base was chosen on the measured rows, "
        "which favours the base."
    )
    return baseline.sample(rows.asked, CHOICE_ROWS, seed)


def _zero_shot(
    given: EvaluationInput,
    base: PolicyLike,
    rows: baseline.Rows,
    choice: Sequence[Labelled],
    to_beat: tuple[float, float],
    limits: list[str],
) -> tuple[Asked, Sequence[Prediction]] | None:
    """Ask the base for the likeliest label: for all measured rows if it is the strongest form, else for a sample."""
    started = time.perf_counter()
    blank = [replace(choice[0], text="N/A")]
    try:
        prior = label_scores(base, blank, labels=rows.labels)[0][0]
    except ConfigError as error:
        if error.number != 240:
            raise
        limits.append("The base could not be asked without training (zero-shot): it has no chat template.")
        return None
    scores, _ = label_scores(base, choice, labels=rows.labels, progress=given.progress)
    forms = [(c, baseline.zero_shot(scores, prior, choice, rows.labels, calibrated=c)) for c in (False, True)]
    calibrated, on_choice = max(forms, key=lambda form: baseline.score(form[1], rows))
    whole = baseline.score(on_choice, rows) > to_beat
    asked = list(rows.asked) if whole else baseline.sample(rows.asked, CHOICE_ROWS, given.seed)
    test_scores, cut = label_scores(base, asked, labels=rows.labels, progress=given.progress)
    answers = baseline.zero_shot(test_scores, prior, asked, rows.labels, calibrated=calibrated)
    answers = [replace(p, cut_tokens=n) for p, n in zip(answers, cut, strict=True)]
    answered = {id(e): p for e, p in zip(asked, answers, strict=True)}
    predictions = [answered.get(id(e)) or prediction_of(e) for e in rows.asked]
    label = "Zero-shot label likelihood" + (" (calibrated)" if calibrated else "")
    note = "" if len(asked) == len(rows.asked) else f"on a sample of {len(asked)} rows"
    seconds = time.perf_counter() - started
    return Asked("zero_shot", label, "base_candidate", predictions, seconds, note=note), on_choice


# ───────────────────────────────────────────────────────────────────────────── text


def _ask_writers(given: EvaluationInput, what: str) -> tuple[list[Asked], list[str]]:
    rows = [_as_text_or_conversation(given.policy, e) for e in given.test]
    conversations = [e for e in rows if isinstance(e, Conversation)]

    def ask(policy: PolicyLike) -> list[Prediction]:
        likely = predict_text(policy, rows, progress=given.progress)
        if what == "continue":
            return likely
        answers = _free_text(given, policy, conversations, ())
        return [
            replace(p, output=a.output, raw=a.raw, finish=a.finish, cut_tokens=max(p.cut_tokens, a.cut_tokens))
            for p, a in zip(likely, answers, strict=True)
        ]

    found = [_timed("run", "This run", "run", lambda: ask(given.policy))]
    if given.baseline:
        with untouched_base(given) as base:
            found.append(_timed("base", "Untouched base", "base", lambda: ask(base)))
    train = [_as_text_or_conversation(given.policy, e) for e in given.train]
    known = [e for e in train if isinstance(e, Conversation)]
    limits: list[str] = []
    if known and what != "continue":
        num_known = baseline.affordable(
            [prompt_text(e) for e in known], len(_written(given, conversations)), baseline.NEAREST_WORK
        )
        label = _label("Nearest training row's reply", num_known, len(known), limits)
        known = baseline.sample(known, num_known, given.seed)
        found.append(
            _timed(
                "nearest_neighbour",
                label,
                "floor",
                lambda: _nearest_reply(given, known, conversations),
                phrase="the reply of the nearest training row",
            )
        )
    return found, limits + (_sampled(given, rows, "likelihoods use all") if what != "continue" else [])


def _free_text(
    given: EvaluationInput,
    policy: PolicyLike,
    rows: Sequence[Conversation | Labelled],
    labels: Sequence[str],
) -> list[Prediction]:
    """Let the policy write; rows beyond `max_examples` stay without an answer."""
    asked = _written(given, rows)
    answers = predict_generate(
        policy, asked, max_new_tokens=given.max_new_tokens, labels=labels, progress=given.progress
    )
    return _filled(rows, asked, answers)


def _nearest_reply(
    given: EvaluationInput, known: Sequence[Conversation], rows: Sequence[Conversation]
) -> list[Prediction]:
    """Answer the rows that the run writes an answer to: figures that stand side by side are of the same rows."""
    asked = _written(given, rows)
    return _filled(rows, asked, baseline.nearest_reply(known, asked))


def _written(given: EvaluationInput, rows: Sequence[Any]) -> Sequence[Any]:
    """Return the rows that get a written answer: all, or a sample of `max_examples`, the same for every system."""
    return rows if given.max_examples is None else baseline.sample(rows, given.max_examples, given.seed)


def _filled(rows: Sequence[Example], asked: Sequence[Example], answers: Sequence[Prediction]) -> list[Prediction]:
    """Return a prediction per row, without an output for those that were not asked."""
    answered = {id(e): p for e, p in zip(asked, answers, strict=True)}
    return [answered.get(id(e)) or prediction_of(e) for e in rows]


def _sampled(given: EvaluationInput, rows: Sequence[Example], others: str) -> list[str]:
    """Say so where answers were written for some of the rows."""
    if given.max_examples is None or len(rows) <= given.max_examples:
        return []
    return [f"Answers were written for a sample of {given.max_examples:,} of {len(rows):,} rows; {others}."]


# ───────────────────────────────────────────────────────────────────────────── small


def _as_text_or_conversation(policy: PolicyLike, example: Example) -> Text | Conversation:
    return example if isinstance(example, Text) else as_conversation(policy.encoder, example)


def _timed(name: str, label: str, role: Role, ask: Callable[[], Sequence[Prediction]], *, phrase: str = "") -> Asked:
    started = time.perf_counter()
    predictions = ask()
    return Asked(name, label, role, predictions, time.perf_counter() - started, phrase)


def _labelled(examples: Sequence[object]) -> list[Labelled]:
    return [e for e in examples if isinstance(e, Labelled)]


def _lower(label: str) -> str:
    return label[:1].lower() + label[1:]
