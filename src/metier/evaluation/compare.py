"""Intervals for figures and for differences, by the paired bootstrap.

Both systems answered the same N rows, so that one resample of rows serves both and what is hard for both cancels out
(Efron & Tibshirani 1993; Koehn 2004). Every metric is a function of column sums (metrics/__init__.py): a resample is a
vector of row counts, and R resamples of an (N, S) statistics array are one product of (R, N) and (N, S).

Three corrections where the percentile interval is known to be wrong:

* a share (each row 0 or 1) gets the Wilson score interval, which does not collapse when every row is right;
* the difference of two shares gets two pseudo-rows, one won and one lost (Bonett & Price 2012), so that 4 rows won of
  100 and none lost is not yet "better", as in McNemar's exact test;
* a calibration error, which chance can only raise, has its lower bound from resamples of its bins (metrics/ece.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from metier.evaluation.result import Difference, Figure, Outcome
from metier.metrics import Array, Metric, Prediction, mean_statistics

CHUNK_VALUES = 4_000_000
"""Row counts held at once."""
KEPT_VALUES = 20_000_000
"""Row counts kept for the next metric instead of being drawn again (80 MB)."""
NORMAL = NormalDist()


class Resampler:
    """R resamples of N rows with replacement: the same ones for every metric and system of an evaluation.

    Args:
        n: rows.
        samples: resamples.
        seed: the same seed gives the same intervals.
        confidence: level of the intervals.
    """

    def __init__(self, n: int, *, samples: int = 2000, seed: int = 0, confidence: float = 0.95) -> None:
        self.n = n
        self.samples = samples
        self.seed = seed
        self.confidence = confidence

    def sums(self, statistics: Array) -> Array:
        """Return the (R, S) column sums of each resample of an (N, S) array."""
        return np.concatenate([counts @ statistics for counts in self._counts()])

    def interval(self, values: Array, estimate: float) -> tuple[float, float] | None:
        """Return the bias-corrected percentile interval (Efron 1982) of resampled values around the estimate.

        The correction matters for figures whose resamples lean to one side. None when hardly any resample had a value.
        """
        values = values[np.isfinite(values)]
        if len(values) < self.samples / 2:
            return None
        below = float((values < estimate).mean() + (values == estimate).mean() / 2)
        lean = NORMAL.inv_cdf(min(max(below, 0.01), 0.99))
        z = NORMAL.inv_cdf(0.5 + self.confidence / 2)
        low, high = np.quantile(values, [NORMAL.cdf(2 * lean - z), NORMAL.cdf(2 * lean + z)])
        return float(low), float(high)

    def bounds(self, lowest: Array, highest: Array, estimate: float) -> tuple[float, float] | None:
        """Return an interval whose ends come from two arrays of resampled values; the estimate lies within."""
        lowest, highest = lowest[np.isfinite(lowest)], highest[np.isfinite(highest)]
        if min(len(lowest), len(highest)) < self.samples / 2:
            return None
        tail = 0.5 - self.confidence / 2
        return min(estimate, float(np.quantile(lowest, tail))), max(estimate, float(np.quantile(highest, 1 - tail)))

    def _counts(self) -> Iterator[Array]:
        return iter(self._kept) if self.n * self.samples <= KEPT_VALUES else self._draw()

    @cached_property
    def _kept(self) -> list[Array]:
        return list(self._draw())

    def _draw(self) -> Iterator[Array]:
        rng = np.random.default_rng(self.seed)
        size = max(1, CHUNK_VALUES // max(self.n, 1))
        for start in range(0, self.samples, size):
            rows = min(size, self.samples - start)
            drawn = rng.integers(0, self.n, (rows, self.n)) + self.n * np.arange(rows)[:, None]
            yield np.bincount(drawn.ravel(), minlength=rows * self.n).reshape(rows, self.n).astype(np.float32)


@dataclass(frozen=True)
class Measured:
    """One metric over one system's predictions, ready to be resampled."""

    metric: Metric
    statistics: Array
    value: float
    """NaN when it cannot be computed."""
    rows: Array | None
    """One number per row, NaN where the metric does not apply; None for metrics over the whole set."""
    applies: npt.NDArray[np.bool_]
    """True for the rows that take part: a false alarm on one side counts where the other side rightly said nothing."""

    @property
    def n(self) -> int:
        """Rows that take part."""
        return int(self.applies.sum())

    @property
    def is_share(self) -> bool:
        """True when every row is 0 or 1."""
        return self.rows is not None and bool(np.isin(self.rows[self.applies], (0.0, 1.0)).all())


def measure(metric: Metric, predictions: Sequence[Prediction]) -> Measured:
    """Compute a metric's statistics once; figure, interval and differences follow from them."""
    rows = metric.rows(predictions) if metric.per_row else None
    statistics = metric.statistics(predictions) if rows is None else mean_statistics(rows)
    value = float(metric.figure(statistics.sum(axis=0))) if len(predictions) else float("nan")
    applies = metric.applies(predictions) if rows is None else ~np.isnan(rows)
    return Measured(metric, statistics, value, rows, applies)


def figure(measured: Measured, resampler: Resampler, *, note: str = "") -> Figure:
    """Return the figure with its interval; value None and a note when it cannot be computed."""
    metric = measured.metric
    interval = None
    if not np.isnan(measured.value):
        if measured.is_share:
            interval = wilson(measured.value, measured.n, resampler.confidence)
        else:
            lowest, highest = _extremes(measured.metric, measured.statistics, resampler)
            interval = (
                resampler.interval(highest, measured.value)
                if lowest is None
                else resampler.bounds(lowest, highest, measured.value)
            )
    return Figure(
        metric=metric.name,
        label=metric.label,
        value=None if np.isnan(measured.value) else measured.value,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        n=measured.n,
        higher_is_better=metric.higher_is_better,
        unit=metric.unit,
        note=note or ("cannot be computed on these rows" if np.isnan(measured.value) else ""),
    )


def difference(run: Measured, other: Measured, other_name: str, resampler: Resampler) -> Difference | None:
    """Return run minus other over the rows in which both take part, None when either has no value there.

    The outcome is `better` or `worse` only when the interval excludes 0.
    """
    both = run.applies & other.applies
    ours, theirs = run.statistics * both[:, None], other.statistics * both[:, None]
    metric = run.metric
    delta = float(metric.figure(ours.sum(0)) - metric.figure(theirs.sum(0))) if both.any() else float("nan")
    if np.isnan(delta):
        return None
    if run.rows is not None and other.rows is not None and run.is_share and other.is_share:
        interval = _share_interval((run.rows - other.rows)[both], resampler)
    else:
        low_ours, high_ours = _extremes(metric, ours, resampler)
        low_theirs, high_theirs = _extremes(metric, theirs, resampler)
        interval = (
            resampler.interval(high_ours - high_theirs, delta)
            if low_ours is None or low_theirs is None
            else resampler.bounds(low_ours - high_theirs, high_ours - low_theirs, delta)
        )
    if interval is None:
        return None
    low, high = interval
    return Difference(
        metric=metric.name,
        label=metric.label,
        other=other_name,
        delta=delta,
        low=low,
        high=high,
        n=int(both.sum()),
        outcome=outcome(low, high, metric.higher_is_better),
    )


def _extremes(metric: Metric, statistics: Array, resampler: Resampler) -> tuple[Array | None, Array]:
    """Return what each resample leaves possible: (how low, how high); None where low and high are one figure."""
    sums = resampler.sums(statistics)
    return metric.lowest(sums, statistics.sum(axis=0)), metric.figure(sums)


def outcome(low: float, high: float, higher_is_better: bool) -> Outcome:
    """Return the verdict on one difference: `same` unless its interval excludes 0."""
    if low > 0:
        return "better" if higher_is_better else "worse"
    if high < 0:
        return "worse" if higher_is_better else "better"
    return "same"


def wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927)."""
    z = NORMAL.inv_cdf(0.5 + confidence / 2)
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, min(center - half, share)), min(1.0, max(center + half, share))


def _share_interval(deltas: Array, resampler: Resampler) -> tuple[float, float] | None:
    """Resample N + 2 rows: those that were seen, one more that the run won and one more that it lost."""
    smoothed = np.concatenate([deltas, [1.0, -1.0]])
    wider = Resampler(len(smoothed), samples=resampler.samples, seed=resampler.seed, confidence=resampler.confidence)
    return wider.interval(wider.sums(smoothed[:, None])[:, 0] / len(smoothed), float(smoothed.mean()))
