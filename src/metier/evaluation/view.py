"""What the report's templates show, taken from a Report: pure look-ups, no drawing and no HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from metier.core.catalog import catalog
from metier.core.page import THIN, apart, interval, label, number, shorten, visible
from metier.evaluation.diff import Piece, words
from metier.evaluation.result import Difference, Figure, Report, Shown, SliceRow, System, TargetResult, Verdict

SECTIONS: tuple[tuple[str, str], ...] = (
    ("verdict", "Verdict"),
    ("objective", "Objective and targets"),
    ("data", "Data"),
    ("training", "Training"),
    ("quality", "Quality"),
    ("fairness", "Fairness and slices"),
    ("forgetting", "Forgetting and safety"),
    ("examples", "Examples"),
    ("parity", "Parity"),
    ("reproduce", "How to reproduce"),
    ("limits", "Limits"),
)


GAIN = re.compile(r"gain_over_(base|floor)\.")
"""Start of a target that compares, such as `gain_over_base.accuracy`."""


@dataclass(frozen=True, slots=True)
class Words:
    """A verdict for a reader: title, symbol, tone of colour, and what it means for a decision."""

    title: str
    symbol: str
    tone: str
    meaning: str


VERDICTS: dict[Verdict, Words] = {
    "worth_it": Words(
        "Worth it", "✔", "good",
        "The tuned model beats the untouched base by more than chance explains, and it is not below the simple floor.",
    ),
    "target_missed": Words(
        "Better than the base, but short of its target", "◐", "warn",
        "The gain over the base is real, and a target that was set before training is still missed: see section 2.",
    ),
    "no_gain": Words(
        "No clear gain", "=", "warn",
        "The difference from the untouched base is within what chance explains: by this figure nothing speaks for "
        "the tuned model.",
    ),
    "worse": Words(
        "Worse than the base", "▼", "bad",
        "On these rows the tuned model does worse than the model it started from. Keep the base.",
    ),
    "below_floor": Words(
        "Below the simple floor", "▼", "bad",
        "A simple method without a language model does at least as well here. Use that method, or change data or base.",
    ),
    "insufficient": Words(
        "Not enough evidence", "?", "plain",
        "Too little was measured to decide. The figures are shown as they are and carry no verdict.",
    ),
}  # fmt: skip
OUTCOMES = {
    "better": Words("better", "▲", "good", ""),
    "same": Words("no clear difference", "=", "plain", ""),
    "worse": Words("worse", "▼", "bad", ""),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is shown; the last level is for reports that would be too large otherwise."""

    examples: int
    prompt: int
    text: int
    rows: int
    charts: bool = True


LEVELS = (
    Limits(examples=10, prompt=6000, text=3000, rows=200),
    Limits(examples=10, prompt=1500, text=1000, rows=120),
    Limits(examples=4, prompt=500, text=400, rows=60),
    Limits(examples=1, prompt=200, text=200, rows=20, charts=False),
)


# ───────────────────────────────────────────────────────────────────────────── systems and figures


def run_of(report: Report) -> System | None:
    """Return the system that was trained, or None when it was not measured."""
    return next((s for s in report.systems if s.role == "run"), None)


def figure(system: System | None, metric: str) -> Figure | None:
    """Return a system's figure of that metric."""
    return next((f for f in system.figures if f.metric == metric), None) if system else None


def beside(report: Report, item: Figure) -> str:
    """Return what stands behind a figure: its interval, and which rows it is of where these are not the run's, or all.

    A reader compares what stands in one table, so a figure of other rows has to say so where it stands.
    """
    run = figure(run_of(report), item.metric)
    rows = item.note or (f"{item.n:,} rows" if run is not None and run.n != item.n else "")
    return "; ".join(text for text in (interval(item.low, item.high, item.unit), rows) if text)


def unit_of(report: Report, metric: str) -> str:
    """Return the unit of a metric, as the measured figures state it; of a target's name, that of its last part."""
    name = GAIN.sub("", metric)
    return next((f.unit for s in report.systems for f in s.figures if f.metric == name), "")


def metrics(report: Report) -> list[Figure]:
    """Return one figure per metric, the primary one first, then in the order of the systems."""
    seen: dict[str, Figure] = {}
    for system in report.systems:
        for item in system.figures:
            seen.setdefault(item.metric, item)
    return sorted(seen.values(), key=lambda f: f.metric != report.primary_metric)


@dataclass(frozen=True, slots=True)
class Card:
    """One key figure: the run's, the base's, the best floor's, and where they lie between 0 and 100."""

    run: Figure
    base: tuple[System, Figure] | None
    floor: tuple[System, Figure] | None
    difference: Difference | None
    marks: Mapping[str, float]


def cards(report: Report, count: int = 4) -> list[Card]:
    """Return the key figures: the primary metric and the next ones that the run has."""
    run = run_of(report)
    found = [figure(run, f.metric) for f in metrics(report)]
    return [_card(report, item) for item in found if item is not None and item.value is not None][:count]


def _card(report: Report, run: Figure) -> Card:
    base = _best(report, "base", run)
    floor = _best(report, "floor", run)
    names = {base[0].name} if base else set()
    difference = next((d for d in report.differences if d.metric == run.metric and d.other in names), None)
    values = {"run": run.value, "low": run.low, "high": run.high}
    values |= {"base": base[1].value if base else None, "floor": floor[1].value if floor else None}
    known = {name: value for name, value in values.items() if value is not None}
    low, high = min(0.0, *known.values()), max(known.values())
    high = max(1.0, high) if run.unit == "share" else high * 1.1
    span = (high - low) or 1.0
    marks = {name: round(100 * (value - low) / span, 1) for name, value in known.items()}
    return Card(run, base, floor, difference, marks)


def _best(report: Report, role: str, like: Figure) -> tuple[System, Figure] | None:
    found = [
        (s, f)
        for s in report.systems
        if s.role == role
        for f in s.figures
        if f.metric == like.metric and f.value is not None
    ]
    return max(found, key=lambda pair: (pair[1].value or 0.0) * (1 if like.higher_is_better else -1), default=None)


def sentence(report: Report) -> str:
    """Return the verdict's sentence without the word that the banner has above it already."""
    title = VERDICTS[report.verdict].title
    text = report.sentence.strip()
    for opening in (title, report.verdict.replace("_", " ")):
        if text.lower().startswith(opening.lower() + ":"):
            text = text[len(opening) + 1 :].strip()
            return text[:1].upper() + text[1:]
    return text


def condition(report: Report, target: TargetResult) -> str:
    """Return a target's condition in words and in the figure's own unit: `at least 92.0 %`."""
    limit = _limit(target)
    return target.condition if limit is None else f"{limit[0]} {_exact(report, target, limit[1])}"


def measured(report: Report, target: TargetResult) -> str:
    """Return a target's figure in its unit, with the digits it takes to see on which side of the limit it lies."""
    limit, unit = _limit(target), unit_of(report, target.name)
    shown = number(target.value, unit, sign=_is_gain(target))
    if target.value is None or limit is None:
        return shown
    value, bound = (_scaled(report, target, x) for x in (target.value, limit[1]))
    read = _read(shown)
    seen = (read < bound, read > bound) == (value < bound, value > bound) or math.isclose(value, bound, rel_tol=1e-12)
    return shown if seen else _with_unit(report, target, apart(value, bound))


def _limit(target: TargetResult) -> tuple[str, float] | None:
    """The operator of a target's condition in words, and its number."""
    said = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
    return (said[target.limit[0]], target.limit[1]) if target.limit else None


def _exact(report: Report, target: TargetResult, limit: float) -> str:
    """A limit as it was set: one of 91.96 % is not shown as 92.0 %."""
    shown, value = number(limit, unit_of(report, target.name), sign=_is_gain(target)), _scaled(report, target, limit)
    return shown if math.isclose(_read(shown), value) else _with_unit(report, target, f"{value:.10g}")


def _is_gain(target: TargetResult) -> bool:
    return GAIN.match(target.name) is not None


def _scaled(report: Report, target: TargetResult, value: float) -> float:
    """A figure as it is written: shares in percent."""
    return 100 * value if unit_of(report, target.name) == "share" else value


def _read(shown: str) -> float:
    """The number that core.page.number wrote."""
    return float(shown.partition(THIN)[0].replace("−", "-").replace(",", ""))


def _with_unit(report: Report, target: TargetResult, digits: str) -> str:
    unit = unit_of(report, target.name)
    if unit == "share":
        unit = "points" if _is_gain(target) else "%"
    plus = "+" if _is_gain(target) and float(digits) > 0 else ""
    return (plus + digits + (THIN + unit if unit else "")).replace("-", "−", 1)


def target_name(report: Report, target: TargetResult) -> str:
    """Return a target's shown name, `Accuracy` or `Accuracy, gain over the base`."""
    gain = GAIN.match(target.name)
    metric = GAIN.sub("", target.name)
    shown = next((f.label for s in report.systems for f in s.figures if f.metric == metric), metric)
    return f"{shown}, gain over the {gain[1]}" if gain else shown


def name_of(report: Report, system: str) -> str:
    """Return the shown name of a system."""
    return next((s.label for s in report.systems if s.name == system), system.replace("_", " "))


def reloaded(reload: Mapping[str, Any]) -> str:
    """Return in words how near the checkpoint's loss, computed from disk, came to the one that training recorded."""
    return (
        f"the validation loss of {reload['checkpoint']}, computed from what is on disk, is "
        f"{number(reload['reloaded_loss'])}, and {number(reload['recorded_loss'])} was recorded when it was saved. "
        f"They differ by {number(reload['largest_difference'])}; {number(reload['tolerance'])} is allowed."
    )


def explanations(report: Report) -> list[tuple[str, str]]:
    """Return (shown name, one line) for each metric that the catalog knows, for readers who are new to it."""
    known = catalog("metrics")
    names = known.names()
    found = []
    for item in metrics(report):
        name = item.metric.partition(":")[0]
        kind = max((n for n in names if name == n or name.startswith(f"{n}_")), key=len, default="")
        if kind:
            found.append((item.label, known.summary(kind)))
    return found


def twins_in(report: Report) -> str:
    """Return among which rows the twins of the measured rows were looked for (data/split.py, `proof`)."""
    return "training or validation" if report.split == "test" else "training"


def slice_groups(report: Report) -> list[tuple[str, str, list[SliceRow]]]:
    """Return (column, metric, rows) per slice column and metric, in order of appearance."""
    order = {(r.column, r.metric): i for i, r in reversed(list(enumerate(report.slices)))}
    ordered = sorted(report.slices, key=lambda r: order[(r.column, r.metric)])
    return [(*key, list(rows)) for key, rows in groupby(ordered, key=lambda r: (r.column, r.metric))]


# ───────────────────────────────────────────────────────────────────────────── examples


@dataclass(frozen=True, slots=True)
class Example:
    """One example, cut to size. `pieces` leads from the reference to the run's answer (base's, for `changed`)."""

    shown: Shown
    prompt: str
    preview: str
    reference: str
    run: str
    base: str | None
    pieces: list[Piece] | None
    exact: bool


def examples(report: Report, limits: Limits) -> list[tuple[str, str, list[Example], int]]:
    """Return (title, what it shows, examples, how many there were) per group that has any."""
    groups = (
        ("Worst", "Where the run was furthest from the reference.", report.examples.worst),
        ("Most changed", "Where the run differs most from its untouched base.", report.examples.changed),
        ("Random", "Drawn at random: what to expect on an ordinary day.", report.examples.random),
    )
    return [
        (title, what, [_example(item, limits) for item in found[: limits.examples]], len(found))
        for title, what, found in groups
        if found
    ]


def _example(shown: Shown, limits: Limits) -> Example:
    reference, run = (shorten(visible(text), limits.text) for text in (shown.reference, shown.run))
    exact = shown.reference.strip() == shown.run.strip()
    return Example(
        shown=shown,
        prompt=shorten(visible(shown.prompt), limits.prompt),
        preview=label(shown.prompt[:400], 150),
        reference=reference,
        run=run,
        base=None if shown.base is None else shorten(visible(shown.base), limits.text),
        pieces=None if exact else words(reference, run),
        exact=exact,
    )
