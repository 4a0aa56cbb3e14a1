"""What an evaluation is asked to do, as one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metier.core.errors import DataError
from metier.core.types import Conversation, Example, Labelled, ProblemType, Text
from metier.evaluation.protocols import PolicyLike, Progress, silent
from metier.evaluation.result import DataSummary, TrainingSummary
from metier.metrics import Metric, metric, metrics_for


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationInput:
    """Everything `suite.evaluate` needs. The test split decides nothing here: choices are made on validation."""

    policy: PolicyLike
    base_policy: PolicyLike | None = None
    """The untouched base as a policy of its own; None: the policy with its adapter off."""
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    """The rows that are measured, whatever the split is called."""
    split: str = "test"
    task: str = "chat"
    labels: tuple[str, ...] = ()
    """Label names in the frozen order of the dataset's manifest."""
    problem_type: ProblemType | None = None
    metrics: tuple[str, ...] | Literal["auto"] = "auto"
    """Specs of metrics; the first one decides the verdict."""
    targets: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()
    leaking_ids: frozenset[str] = frozenset()
    """Ids of test rows that have a twin in train."""
    general_texts: Sequence[str] = ()
    """Text of no particular trade, for the forgetting probe."""
    baseline: bool = True
    max_new_tokens: int = 128
    max_examples: int | None = None
    """Cap on the rows that are answered in free text; likelihood and labels use all."""
    bootstrap_samples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    run: str = ""
    name: str = ""
    description: str = ""
    created: str = ""
    """Time of the report; empty: now."""
    data: DataSummary
    training: TrainingSummary
    parity: Mapping[str, Any] = field(default_factory=dict)
    reproduce: Mapping[str, str] = field(default_factory=dict)
    base_model: Mapping[str, Any] = field(default_factory=dict)
    predictions_dir: Path | None = None
    """Where predictions are written, one JSONL per split and system; None: nowhere."""
    progress: Progress = silent


def situation(given: EvaluationInput) -> str:
    """Return what kind of answers is measured: a problem type, or a task (metrics/__init__.py).

    Raises:
        DataError: E360 no rows, E361 rows that have no single right answer.
    """
    if not given.test:
        raise DataError(
            360,
            f"The split `{given.split}` has no rows to evaluate on",
            fix="data.split.test=0.1, or a source with split: test",
        )
    kinds = {type(example) for example in given.test}
    if kinds == {Labelled}:
        if given.policy.head is not None:
            return given.problem_type or "single_label"
        if given.task == "classify" and given.problem_type == "single_label":
            return "single_label"
        return "extract" if given.task == "classify" else given.task
    if kinds == {Text}:
        return "continue"
    if kinds == {Conversation}:
        return "extract" if given.task == "classify" else given.task
    raise DataError(
        361,
        "Rows of this kind have no single right answer to measure against",
        received=", ".join(sorted(k.__name__.lower() for k in kinds)),
        expected="labelled rows, conversations or texts, one kind per split",
        fix="a source of such rows with split: test",
    )


def chosen_metrics(
    what: str, metrics: tuple[str, ...] | Literal["auto"], targets: Mapping[str, str], *, place: str = ""
) -> list[Metric]:
    """Return the metrics to compute, the one that decides first: those asked for or those of the situation, and any
    that a target names.

    Raises:
        ConfigError: E210, E211: a metric or an option that does not exist. `plan` calls this before training.
    """
    if metrics == "auto":
        found = metrics_for(what)
        if what in ("single_label", "multi_label"):
            found += [metric(spec) for spec in ("f1", "f1:average=micro") if spec not in {m.name for m in found}]
    else:
        found = [metric(spec, place=place) for spec in metrics]
    known = {m.name for m in found}
    for target in targets:
        spec = target.removeprefix("gain_over_base.").removeprefix("gain_over_floor.")
        if spec not in known:
            known.add(spec)
            found.append(metric(spec, place=place))
    return found


@contextmanager
def untouched_base(given: EvaluationInput) -> Iterator[PolicyLike]:
    """Yield the base as it was before this run: a policy of its own, or the run's with its adapter off."""
    if given.base_policy is not None:
        yield given.base_policy
        return
    with given.policy.reference():
        yield given.policy
