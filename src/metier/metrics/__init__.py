"""Figures over predictions: one file per metric; averaged it is a metric, optimised it is a reward.

A metric is a *function of sums*: `statistics` turns N predictions into an (N, S) array, `figure` turns the S column
sums into the value. A mean, a ratio (bits per byte), macro F1 (counts per class), ECE (counts per bin) and corpus BLEU
(n-gram counts) all have this form, so that a bootstrap of any of them is one matrix product (evaluation/compare.py).

A plug-in file holds `summary`, `label`, `Options`, `higher_is_better`, `range`, `unit`, `tasks` (the situations in
which `auto` takes it), optionally `primary` (the situations whose verdict it decides) and `rank` (its place
in tables, smaller first), `answers` (kinds of answers it can measure), `SAMPLE`, and either
`per_example(prediction, options) -> float` (NaN where it does not apply; the figure is the mean) or
`statistics(predictions, options)`, `figure(sums, options)` and `applies(prediction)`: whether the system answered a row
and there is a reference, also where that adds nothing to the sums (no label was right and none was given). A figure
that chance can only raise adds `lowest(sums, whole, options)`: what resamples say of how low the truth may be.

A situation is the problem type of a classifier (`single_label`, `multi_label`, `regression`) or else the objective's
task (`chat`, `summarize`, `translate`, `extract`, `generate`, `continue`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from metier.core.catalog import catalog

Array = npt.NDArray[np.float64]
Target = str | tuple[str, ...] | float
UNRANKED = 50
"""Place in tables of a metric that names none."""
ANSWERS: dict[str, tuple[str, ...]] = {
    "single_label": ("label",),
    "multi_label": ("labels",),
    "regression": ("number",),
    "continue": ("likelihood",),
    **dict.fromkeys(("chat", "summarize", "translate", "extract", "generate"), ("text", "likelihood")),
}
"""Situation → what a prediction holds there: a label, several, a number, a written text, the reference's likelihood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one system said about one row, with what was right.

    `output` is None where the system was not asked to answer; an empty string is an answer that names no known label.
    `raw` is the text before it was matched with a label. `nll` is the negative log-likelihood of the reference in
    nats over `num_tokens` tokens, which spell `num_bytes` bytes of UTF-8.
    """

    id: str
    place: str = ""
    prompt: str = ""
    reference: Target = ""
    output: Target | None = None
    raw: str = ""
    label_probs: Mapping[str, float] | None = None
    confidence: float | None = None
    nll: float | None = None
    num_tokens: int = 0
    num_bytes: int = 0
    finish: str = ""
    cut_tokens: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def correct(self) -> bool | None:
        """Whether the output equals the reference; order does not count among several labels, None for numbers."""
        if self.output is None or isinstance(self.reference, float) or isinstance(self.output, float):
            return None
        if isinstance(self.reference, tuple):
            return set(_as_labels(self.output)) == set(self.reference)
        return self.output == self.reference


def _as_labels(value: Target) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


def labels_of(value: Target | None) -> frozenset[str]:
    """Return the labels in a target or an output; an empty output holds none."""
    return frozenset() if value is None else frozenset(x for x in _as_labels(value) if x)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with its options filled in. Made by `metric`."""

    name: str
    module: ModuleType
    options: Any

    @property
    def label(self) -> str:
        """Shown name, such as `F1 (macro)`."""
        return str(self.module.label).format(**self.options.model_dump())

    @property
    def higher_is_better(self) -> bool:
        """Direction."""
        return bool(self.module.higher_is_better)

    @property
    def unit(self) -> str:
        """`share` for figures in 0…1, else `bits/byte`, `points`, …"""
        return str(self.module.unit)

    @property
    def per_row(self) -> bool:
        """True when the figure is the mean of one number per row."""
        return hasattr(self.module, "per_example")

    def rows(self, predictions: Sequence[Prediction]) -> Array:
        """Return one number per row, NaN where the metric does not apply. Only for `per_row` metrics."""
        return np.array([self.module.per_example(p, self.options) for p in predictions], dtype=np.float64)

    def statistics(self, predictions: Sequence[Prediction]) -> Array:
        """Return the (N, S) array whose column sums decide the figure."""
        if not self.per_row:
            found: Array = np.asarray(self.module.statistics(predictions, self.options), dtype=np.float64)
            return found
        return mean_statistics(self.rows(predictions))

    def applies(self, predictions: Sequence[Prediction]) -> npt.NDArray[np.bool_]:
        """Return (N,): True for the rows that take part, whether or not they change the sums."""
        if self.per_row:
            return ~np.isnan(self.rows(predictions))
        return np.array([self.module.applies(p) for p in predictions], dtype=np.bool_)

    def figure(self, sums: Array) -> Array:
        """Return the value for sums of shape (..., S); NaN where it cannot be computed."""
        if not self.per_row:
            found: Array = np.asarray(self.module.figure(sums, self.options), dtype=np.float64)
            return found
        return ratio(sums[..., 0], sums[..., 1])

    def lowest(self, sums: Array, whole: Array) -> Array | None:
        """Return how low each resample leaves the truth, (…,) for (…, S) sums; None: as low as its figure."""
        if not hasattr(self.module, "lowest"):
            return None
        found: Array = np.maximum(self.module.lowest(sums, whole, self.options), self.module.range[0])
        return found

    def value(self, predictions: Sequence[Prediction]) -> float | None:
        """Return the figure over the predictions, None when it cannot be computed (no rows, no reference …)."""
        if not predictions:
            return None
        value = float(self.figure(self.statistics(predictions).sum(axis=0)))
        return None if np.isnan(value) else value


def metric(spec: str, *, place: str = "") -> Metric:
    """Return the metric that a spec names: `accuracy`, `f1:average=micro`, `regex_match:pattern=^[0-9]+$`.

    Raises:
        ConfigError: E210 no such metric, E211 an option it does not have.
    """
    name, _, rest = spec.partition(":")
    values = dict(part.split("=", 1) for part in re.split(r",(?=\w+=)", rest) if "=" in part)
    if rest and not values:
        values = {rest: ""}  # `f1:micro` is refused by name, with the options that exist
    found = catalog("metrics")
    return Metric(spec, found.get(name, place=place), found.options(name, values, place=place))


def metrics_for(situation: str) -> list[Metric]:
    """Return the metrics that `auto` takes in a situation, the one that decides the verdict first."""
    metrics = catalog("metrics")
    chosen = [metric(name) for name in metrics.names() if situation in metrics.get(name).tasks]
    return sorted(
        chosen,
        key=lambda m: (situation not in getattr(m.module, "primary", ()), getattr(m.module, "rank", UNRANKED), m.name),
    )


def applicable(situations: Sequence[str]) -> list[str]:
    """Return the metrics that can have a figure in one of these situations: BLEU of a number does not exist."""
    kinds = {kind for what in situations for kind in ANSWERS[what]}
    metrics = catalog("metrics")
    return [name for name in metrics.names() if not kinds.isdisjoint(metrics.get(name).answers)]


def mean_statistics(rows: Array) -> Array:
    """Return the (N, 2) statistics of a mean: the value and 1, or two zeros where the value is NaN."""
    applies = ~np.isnan(rows)
    return np.stack([np.where(applies, rows, 0.0), applies.astype(np.float64)], axis=1)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with NaN where the denominator is 0."""
    safe = np.where(denominator > 0, denominator, 1.0)
    divided: Array = np.where(denominator > 0, numerator / safe, np.nan)
    return divided
