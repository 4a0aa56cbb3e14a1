"""The rows worth reading: the worst, those the run changed most, and some at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metier.evaluation.result import Examples, Shown
from metier.metrics import Array, Metric, Prediction, Target

SHOWN = 10
MAX_CHARACTERS = 4000
"""A longer text is cut in the report; the predictions file has it whole."""


def pick(
    metrics: Sequence[Metric], run: Sequence[Prediction], base: Sequence[Prediction] | None, *, seed: int
) -> Examples:
    """Choose rows by the first metric that tells rows apart; the same seed picks the same random rows.

    Rows with an answer are preferred to rows that were only scored by likelihood.
    """
    metric = _reading_metric(metrics, run)
    ours, theirs = row_scores(metric, run), row_scores(metric, base) if base is not None else None
    sign = 1.0 if metric.higher_is_better else -1.0
    candidates = np.flatnonzero(~np.isnan(ours))
    sure = np.array([p.confidence or 0.0 for p in run])
    worst = sorted(candidates, key=lambda i: (sign * ours[i], -sure[i], i))
    if metric.unit == "share":
        worst = [i for i in worst if ours[i] < 1.0] if metric.higher_is_better else worst
    changed: list[int] = []
    if theirs is not None:
        gain = sign * (ours - theirs)
        moved = [int(i) for i in candidates if np.isfinite(gain[i]) and abs(gain[i]) > 1e-12]
        changed = sorted(moved, key=lambda i: (-abs(gain[i]), -sure[i], i))
    rng = np.random.default_rng(seed)
    some = rng.permutation(candidates)[:SHOWN]

    def show(i: int, why: str) -> Shown:
        return _shown(run[i], base[i] if base is not None else None, _number(ours, i), _number(theirs, i), why)

    return Examples(
        worst=[show(int(i), _why_worst(run[int(i)])) for i in worst[:SHOWN]],
        changed=[show(i, _why_changed(sign * (ours[i] - theirs[i]))) for i in changed[:SHOWN]]
        if theirs is not None
        else [],
        random=[show(int(i), "") for i in sorted(some)],
    )


def row_scores(metric: Metric, predictions: Sequence[Prediction]) -> Array:
    """Return the metric of each row alone, NaN where it has none: any function of sums is one for a single row too."""
    return metric.rows(predictions) if metric.per_row else metric.figure(metric.statistics(predictions))


def _reading_metric(metrics: Sequence[Metric], run: Sequence[Prediction]) -> Metric:
    """Return the first metric that scores rows with an answer, else the deciding one."""
    if any(p.nll is not None and p.output is not None for p in run):  # text: likelihood is no help to a reader
        for metric in metrics:
            if metric.name.startswith(("rouge", "chrf", "exact_match")) and np.isfinite(row_scores(metric, run)).any():
                return metric
    return metrics[0]


def _shown(run: Prediction, base: Prediction | None, score: float | None, base_score: float | None, why: str) -> Shown:
    return Shown(
        id=run.id,
        place=run.place,
        prompt=_cut(run.prompt),
        reference=_cut(_text(run.reference)),
        run=_cut(_answer(run)),
        base=None if base is None or base.output is None else _cut(_answer(base)),
        run_score=score,
        base_score=base_score,
        why=why,
    )


def _why_worst(prediction: Prediction) -> str:
    if prediction.label_probs is None or prediction.confidence is None:
        return ""
    return f"wrong with confidence {prediction.confidence:.2f}"


def _why_changed(gain: float) -> str:
    return "better than the base" if gain > 0 else "worse than the base"


def _answer(prediction: Prediction) -> str:
    return prediction.raw if prediction.raw and prediction.output == "" else _text(prediction.output)


def _text(value: Target | None) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, tuple) else f"{value:.4g}" if isinstance(value, float) else value


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _number(scores: Array | None, i: int) -> float | None:
    return None if scores is None or np.isnan(scores[i]) else float(scores[i])
