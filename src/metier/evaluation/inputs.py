"""What an evaluation is asked to do, as one value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metier.core.errors import ConfigError, DataError
from metier.core.types import Example, ProblemType, kind_of
from metier.evaluation.protocols import PolicyLike, Progress, silent
from metier.evaluation.result import DataSummary, TrainingSummary
from metier.metrics import ANSWERS, Metric, applicable, metric, metrics_for


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationInput:
    """Everything `suite.evaluate` needs. The test split decides nothing here: choices are made on validation."""

    policy: PolicyLike
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
    """Ids of test rows that have a twin in train or validation."""
    canaries: Sequence[Example] = ()
    """Secrets that were planted in train, each once (data/canaries.py)."""
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
    kinds = {kind_of(example) for example in given.test}
    found = situation_of(kinds, head=given.policy.head is not None, problem_type=given.problem_type, task=given.task)
    if found is None:
        raise nothing_to_measure(kinds)
    return found


def nothing_to_measure(kinds: Collection[str], *, split: str = "", place: str = "") -> DataError:
    """Return E361, for a split whose rows have no single right answer, or answers of more than one sort."""
    return DataError(
        361,
        "Rows of this kind have no single right answer to measure against",
        place=place,
        received=", ".join(sorted(kinds)) + (f" in {split}" if split else ""),
        expected="labelled rows, conversations or texts, one kind per split",
        fix="a source of such rows with split: test",
    )


def situation_of(kinds: Collection[str], *, head: bool, problem_type: ProblemType | None, task: str) -> str | None:
    """Return what kind of answers rows of these kinds get, None where there is no single right one.

    Args:
        kinds: kinds of examples (core.types.kind_of).
        head: whether the policy answers with a task head.
    """
    if set(kinds) == {"labelled"} and head:
        return problem_type or "single_label"
    if set(kinds) == {"labelled"} and task == "classify" and problem_type == "single_label":
        return "single_label"
    if set(kinds) == {"text"}:
        return "continue"
    if set(kinds) in ({"labelled"}, {"conversation"}):
        return "extract" if task == "classify" else task
    return None


def check_metrics(
    situations: Sequence[str],
    metrics: tuple[str, ...] | Literal["auto"],
    targets: Mapping[str, str],
    *,
    place: Callable[[str], str],
) -> None:
    """Refuse a metric or a target that can have no figure in any of these situations, before hours of training.

    Args:
        place: says where a key of the recipe stands (Recipe.place).

    Raises:
        ConfigError: E210, E211 no such metric or option; E276, it has no figure here.
    """
    asked = [] if metrics == "auto" else [(spec, f"evaluation.metrics.{i}") for i, spec in enumerate(metrics)]
    asked += [(_metric_of(target), f"objective.targets.{target}") for target in targets]
    able = applicable(situations)
    for spec, key in asked:
        found = metric(spec, place=place(key))
        if spec.partition(":")[0] not in able:
            raise ConfigError(
                276,
                f"`{spec}` can have no figure here: it is measured on {_either(found.module.answers)}",
                place=place(key),
                received=f"a recipe whose answers are {_either(kind for what in situations for kind in ANSWERS[what])}",
                expected=", ".join(able),
                fix="name one of these, or change method.kind",
            )


def _either(kinds: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(_SAID[kind] for kind in kinds))


_SAID = {
    "label": "a label",
    "labels": "several labels",
    "number": "a number",
    "text": "a written text",
    "likelihood": "the likelihood of a text",
}


def _metric_of(target: str) -> str:
    """`gain_over_base.accuracy` → `accuracy`."""
    return target.removeprefix("gain_over_base.").removeprefix("gain_over_floor.")


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
        spec = _metric_of(target)
        if spec not in known:
            known.add(spec)
            found.append(metric(spec, place=place))
    return found


@contextmanager
def untouched_base(given: EvaluationInput) -> Iterator[PolicyLike]:
    """Yield the base as it was before this run: the policy with its adapter off."""
    with given.policy.reference():
        yield given.policy
