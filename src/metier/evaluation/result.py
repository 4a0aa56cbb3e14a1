"""The schema of report.json: what an evaluation found. `evaluate` makes it, `report` renders it, nothing else knows it.

Every figure carries its interval and n; every difference is paired (same rows) and says how it was resampled.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
Verdict = Literal["worth_it", "target_missed", "no_gain", "worse", "below_floor", "insufficient"]
"""`target_missed`: better than the base and not below the floor, but a target of the objective was missed."""
Outcome = Literal["better", "same", "worse"]
_CONDITION = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*")


class Part(BaseModel):
    """Base of all parts: unknown fields refused."""

    model_config = ConfigDict(extra="forbid")


class Figure(Part):
    """A metric over a set of rows; `low` and `high` bound it at the report's confidence level."""

    metric: str
    label: str = Field(description="Shown name, such as `Accuracy`.")
    value: float | None = Field(description="None when it cannot be computed (one class, no rows); see `note`.")
    low: float | None = None
    high: float | None = None
    n: int
    higher_is_better: bool = True
    unit: str = Field("", description="Shares stay in 0…1 with unit `share`; else `nats`, `bits/byte`, `points` …")
    note: str = ""


class Difference(Part):
    """The run minus another system on the same rows, with a paired bootstrap interval."""

    metric: str
    label: str
    other: str = Field(description="Name of the System compared with.")
    delta: float
    low: float
    high: float
    n: int
    outcome: Outcome = Field(description="better/worse only when the interval excludes 0, in the metric's direction.")


class System(Part):
    """One thing that was measured: the run, the untouched base, a floor."""

    name: str = Field(description="`run`, `base`, `zero_shot`, `linear_probe`, `majority`, `tfidf_svm` …")
    label: str = Field(description="Shown name, such as `TF-IDF + linear SVM`.")
    role: Literal["run", "base", "base_candidate", "floor"]
    figures: list[Figure]
    seconds: float | None = None


class TargetResult(Part):
    """One target of the objective."""

    name: str
    condition: str
    value: float | None
    met: bool | None = Field(description="None when the figure does not exist.")
    note: str = ""

    @property
    def limit(self) -> tuple[str, float] | None:
        """The operator and the number of the condition; None where it is written in another way."""
        match = _CONDITION.fullmatch(self.condition)
        return (match[1], float(match[2])) if match else None


class ClassRow(Part):
    """One class of the per-class table."""

    label: str
    n: int
    precision: float
    recall: float
    f1: float
    base_f1: float | None = None


class Confusion(Part):
    """Confusion matrix; rows are true labels, columns predicted. With many labels, only those named."""

    labels: list[str]
    num_labels: int = Field(0, description="Labels that occur, named or not; 0 in older reports.")
    counts: list[list[int]]
    top_pairs: list[tuple[str, str, int]] = Field(description="Most frequent confusions: true, predicted, count.")


class Calibration(Part):
    """Reliability bins of equal width over confidence."""

    ece: float
    brier: float | None = None
    bins: list[dict[str, float]] = Field(description="low, high, confidence, accuracy, n per bin; empty bins left out.")
    base_ece: float | None = None


class SliceRow(Part):
    """One value of a slice column; below 100 rows `value` is None and `note` is `insufficient`."""

    column: str
    value: str
    n: int
    metric: str
    figure: float | None
    low: float | None = None
    high: float | None = None
    base: float | None = None
    note: str = ""


class Shown(Part):
    """One example shown in the report."""

    id: str
    place: str = ""
    prompt: str
    reference: str
    run: str
    base: str | None = None
    run_score: float | None = None
    base_score: float | None = None
    why: str = Field("", description="Why it is shown, such as `confident and wrong`.")


class Examples(Part):
    """The rows worth reading."""

    worst: list[Shown] = []
    changed: list[Shown] = []
    random: list[Shown] = []


class Exposure(Part):
    """How well the model knows the canaries that stood so often in train (evaluation/exposure.py)."""

    repeats: int
    canaries: int
    mean: float = Field(description="Exposure in bits, averaged over the canaries.")
    largest: float
    known: int = Field(description="Canaries that are likelier than every alternative.")


class DataSummary(Part):
    """What the model was trained and measured on."""

    dataset: str
    digest: str
    rows: dict[str, int] = Field(description="split → rows")
    quarantined: int = 0
    quarantine_reasons: dict[str, int] = {}
    cut_rows: dict[str, int] = Field(
        {}, description="split → rows that lost tokens to training.max_length or the base's window"
    )
    dropped_rows: dict[str, int] = Field(
        {}, description="split → rows that were left out: over max_length, or without a trained token"
    )
    leaks: dict[str, int] = Field(
        {}, description="`exact`, `near`: measured rows with a twin in train, those of test in train or validation."
    )
    leak_free_figures: list[Figure] = Field(
        [], description="The run on the test rows that have no twin in train or validation."
    )
    leak_free_others: dict[str, list[Figure]] = Field(
        {}, description="The same of the untouched base and of each floor, by the name of the system."
    )
    steps: list[dict[str, Any]] = Field([], description="name, rows_in, rows_out, note per preparation step")
    sources: list[dict[str, Any]] = Field([], description="path, format, split, rows, license, basis per source")
    labels: dict[str, int] = Field({}, description="label → train rows")


class TrainingSummary(Part):
    """How it was trained."""

    method: str
    adapter: str
    steps: int = Field(description="Optimiser steps that were taken; those lost by a kill and taken again count once.")
    planned_steps: int = Field(0, description="Steps of the plan; fewer are taken when the run is stopped.")
    epochs: float
    examples: int
    tokens: int
    supervised_tokens: int
    padding: float = Field(description="share of computed positions that were padding")
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
    best_step: int = Field(description="Step of the checkpoint that was measured.")
    chosen_by: str = Field(
        "",
        description="What chose it: a figure on validation such as `loss`, `last step` where nothing was validated, or "
        "`request`: the evaluation asked for it.",
    )
    temperature: float = Field(
        1.0,
        description="What a task head's outputs are divided by before they become confidences; fitted on validation.",
    )
    stopped_early: bool = Field(description="Whether validation ended the run before its planned steps.")
    overfitting: str = Field(description="A verdict in words: `none`, or where validation turned and by how much.")
    curve: list[dict[str, float]] = Field([], description="step, loss, learning_rate, grad_norm, tokens_per_second")
    validation_curve: list[dict[str, float]] = Field([], description="step, loss, and metrics such as accuracy")
    estimate: dict[str, float] = Field({}, description="planned seconds, validation_seconds, memory_bytes, disk_bytes")
    estimate_scaled: bool = Field(
        False, description="The planned times are for the steps and evaluations that came to be, not for all planned."
    )
    actual: dict[str, float] = Field({}, description="the same keys, measured")
    choices: dict[str, str] = Field({}, description="automatic choice → value because reason")


class Report(Part):
    """report.json, whole."""

    schema_version: int = SCHEMA_VERSION
    metier_version: str
    created: str
    run: str
    name: str
    description: str = ""
    task: str
    split: str = Field("test", description="The split that was measured.")
    confidence: float = 0.95
    verdict: Verdict
    sentence: str = Field(description="The verdict in words, with figure and interval.")
    primary_metric: str
    targets: list[TargetResult] = []
    systems: list[System]
    differences: list[Difference]
    classes: list[ClassRow] = []
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    slices: list[SliceRow] = []
    forgetting: list[Difference] = Field([], description="General-ability probe: run minus untouched base.")
    forgetting_note: str = ""
    exposure: list[Exposure] = Field(
        [], description="Memorisation of planted canaries, by how often they stood in train."
    )
    exposure_note: str = ""
    examples: Examples = Examples()
    data: DataSummary
    training: TrainingSummary
    parity: dict[str, Any] = Field({}, description="reload and export certificates: the largest difference")
    reproduce: dict[str, str] = Field({}, description="commands and digests")
    base_model: dict[str, Any] = Field({}, description="name, digest, license, parameters")
    limits: list[str] = Field([], description="What this evaluation cannot say, one sentence each.")
    warnings: list[str] = Field([], description="Those of the limits that are shown beside the verdict too.")
