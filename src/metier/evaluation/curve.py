"""The pictures of a training run over its steps, each with its table: loss, validation, learning rate, norm, speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from metier.core.page import number
from metier.evaluation.drawing import BASE, INK, PAPER, RUN, Canvas, Chart, real
from metier.evaluation.result import TrainingSummary

MAX_POINTS = 240


def curves(training: TrainingSummary) -> list[Chart]:
    """Draw loss, validation metrics, learning rate, gradient norm and speed over the steps."""
    charts = [_loss(training)]
    measured = {key for point in training.validation_curve for key in point} - {"step", "loss", "best"}
    for key in sorted(measured)[:2]:
        charts.append(
            _line(training.validation_curve, key, f"Validation {key.replace('_', ' ')}", best=training.best_step)
        )
    for key, title in (
        ("learning_rate", "Learning rate"),
        ("grad_norm", "Gradient norm"),
        ("tokens_per_second", "Tokens per second"),
    ):
        charts.append(_line(training.curve, key, title))
    return [chart for chart in charts if chart is not None]


def _loss(training: TrainingSummary) -> Chart | None:
    train, validation = _points(training.curve, "loss"), _points(training.validation_curve, "loss")
    if not train and not validation:
        return None
    with Canvas(360, 250, (44, 14, 32, 38)) as canvas:
        axes = canvas.axes
        smooth = _smoothed(train)
        if len(smooth) < len(train) or len(train) > 40:
            axes.plot(*_columns(train), color=RUN, lw=0.8, alpha=0.3)
        axes.plot(*_columns(smooth), color=RUN, lw=2, label="train")
        if validation:
            axes.plot(
                *_columns(validation), color=BASE, lw=1.8, ls="--", marker="D", ms=5, mfc=PAPER, label="validation"
            )
        _mark_measured(canvas, training.best_step, max(step for step, _ in [*train, *validation]))
        axes.set_xlabel("step")
        canvas.legend()
        alt = "Loss over steps. " + "; ".join(
            f"{name} from {number(points[0][1])} to {number(points[-1][1])}"
            for name, points in (("train", train), ("validation", validation))
            if points
        )
        svg = canvas.svg("loss", alt)
    both = dict(validation)
    steps = sorted({*(step for step, _ in thinned(train, 30)), *both})
    known = dict(train)
    rows = tuple((f"{step:.0f}", number(known.get(step)), number(both.get(step))) for step in steps[:80])
    return Chart("loss", "Loss", alt, svg, ("Step", "Train", "Validation"), rows)


def _line(curve: Sequence[Mapping[str, float]], key: str, title: str, best: int | None = None) -> Chart | None:
    points = _points(curve, key)
    if len(points) < 2:
        return None
    name = "curve-" + "".join(char if char.isalnum() else "-" for char in key)
    with Canvas(360, 230, (62, 14, 12, 38)) as canvas:
        few = len(points) <= 30
        canvas.axes.plot(*_columns(points), color=RUN, lw=2 if few else 1.4, marker="o" if few else None, ms=4)
        if best is not None:
            _mark_measured(canvas, best, points[-1][0])
        canvas.axes.set_xlabel("step")
        canvas.axes.yaxis.set_major_formatter(
            lambda value, _: f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        )
        canvas.axes.locator_params(axis="y", nbins=5)
        alt = f"{title} over steps, from {number(points[0][1])} to {number(points[-1][1])}"
        svg = canvas.svg(name, alt)
    rows = tuple((f"{step:.0f}", number(value)) for step, value in thinned(points, 40))
    return Chart(name, title, alt, svg, ("Step", title), rows)


# ───────────────────────────────────────────────────────────────────────────── points


def _points(curve: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [(p["step"], p[key]) for p in curve if "step" in p and real(p.get(key))]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    kept = thinned(points, MAX_POINTS)
    return [x for x, _ in kept], [y for _, y in kept]


def thinned(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """Return at most about `limit` points, evenly taken, the last one included."""
    if len(points) <= limit:
        return list(points)
    stride = math.ceil(len(points) / limit)
    return [*points[:-1:stride], points[-1]]


def _smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the running mean over a twentieth of the points, for curves of more than 40."""
    if len(points) <= 40:
        return points
    reach = max(1, len(points) // 40)
    means = []
    for i, (step, _) in enumerate(points):
        window = [y for _, y in points[max(0, i - reach) : i + reach + 1]]
        means.append((step, sum(window) / len(window)))
    return means


def _mark_measured(canvas: Canvas, step: int, last: float) -> None:
    if not 0 < step <= last:
        return
    canvas.axes.axvline(step, color=INK, lw=1, ls=":", alpha=0.8)
    canvas.axes.annotate(
        f"measured: {step:,}",
        (step, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -10),
        textcoords="offset points",
        ha="right",
        fontsize=10.5,
    )
