"""The deciding figure, broken down by the columns a user named and by the length of the text.

Below 100 rows a slice says `insufficient` instead of a number: with fewer rows the difference between two groups is
mostly chance, and a reader would take it for a finding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metier.evaluation.compare import Resampler, figure, measure
from metier.evaluation.result import SliceRow
from metier.evaluation.verdict import MIN_ROWS
from metier.metrics import Metric, Prediction

SHOWN_VALUES = 20
"""Values shown per column, the most frequent first."""
MISSING = "(none)"
LENGTH = "text length"


def slice_rows(
    metric: Metric,
    run: Sequence[Prediction],
    base: Sequence[Prediction] | None,
    columns: Sequence[str],
    *,
    samples: int,
    seed: int,
    confidence: float,
) -> tuple[list[SliceRow], list[str]]:
    """Return one row per column and value, and a sentence per column that no row has."""
    found: list[SliceRow] = []
    limits: list[str] = []
    for column in columns:
        if not any(column in p.meta for p in run):
            limits.append(f"No measured row has the slice column `{column}`.")
            continue
        values = [MISSING if (value := p.meta.get(column)) in (None, "") else str(value) for p in run]
        found += _by_value(metric, run, base, column, values, samples=samples, seed=seed, confidence=confidence)
    lengths = _lengths(run)
    if len(set(lengths)) > 1:
        found += _by_value(metric, run, base, LENGTH, lengths, samples=samples, seed=seed, confidence=confidence)
    return found, limits


def _by_value(
    metric: Metric,
    run: Sequence[Prediction],
    base: Sequence[Prediction] | None,
    column: str,
    values: Sequence[str],
    *,
    samples: int,
    seed: int,
    confidence: float,
) -> list[SliceRow]:
    array = np.array(values)
    names, counts = np.unique(array, return_counts=True)
    order = sorted(zip(names, counts, strict=True), key=lambda pair: (-int(pair[1]), str(pair[0])))
    found = []
    for name, _ in order[:SHOWN_VALUES]:
        members = np.flatnonzero(array == name).tolist()
        ours = measure(metric, [run[i] for i in members])
        theirs = measure(metric, [base[i] for i in members]) if base is not None else None
        enough = ours.n >= MIN_ROWS
        shown = (
            figure(ours, Resampler(len(members), samples=samples, seed=seed, confidence=confidence)) if enough else None
        )
        found.append(
            SliceRow(
                column=column,
                value=str(name),
                n=ours.n,
                metric=metric.name,
                figure=shown.value if shown else None,
                low=shown.low if shown else None,
                high=shown.high if shown else None,
                base=float(theirs.value) if enough and theirs is not None and not np.isnan(theirs.value) else None,
                note="" if enough else "insufficient",
            )
        )
    return found


def _lengths(run: Sequence[Prediction]) -> list[str]:
    """Divide the rows into three parts of about equal size by the length of their text."""
    lengths = np.array([len(p.prompt) for p in run])
    low, high = (int(x) for x in np.quantile(lengths, [1 / 3, 2 / 3], method="lower"))
    names = (f"short (≤ {low} characters)", f"medium ({low + 1}–{high} characters)", f"long (> {high} characters)")
    return [names[0] if n <= low else names[1] if n <= high else names[2] for n in lengths]
