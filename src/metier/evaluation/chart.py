"""The pictures of the report, each with its table: systems, calibration, confusion, classes, slices, labels.

Shapes carry the meaning and colours (Okabe–Ito) repeat it: the run is a filled circle, the untouched base an open
diamond, a floor a grey square. Lines are drawn solid for the run, dashed for what it is compared with.
A function returns None when there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from metier.core import page
from metier.core.page import MISSING, interval, number
from metier.evaluation.drawing import BASE, FLOOR, LINE, PAPER, RUN, Canvas, Chart, left_margin, real, wrapped
from metier.evaluation.result import Calibration, ClassRow, Confusion, Figure, Report, SliceRow

WIDTH = 540
MAX_ROWS = 20
_LOOK = {
    "run": {"marker": "o", "color": RUN, "mfc": RUN, "ms": 9},
    "base": {"marker": "D", "color": BASE, "mfc": PAPER, "ms": 8},
    "base_candidate": {"marker": "D", "color": BASE, "mfc": PAPER, "ms": 6},
    "floor": {"marker": "s", "color": FLOOR, "mfc": FLOOR, "ms": 7},
}


def systems(report: Report) -> Chart | None:
    """Draw the primary figure of every system measured, with its interval."""
    found = [(s, f) for s in report.systems for f in s.figures if f.metric == report.primary_metric and real(f.value)]
    if len(found) < 2:
        return None
    first = found[0][1]
    names = [wrapped(s.label) for s, _ in found]
    with Canvas(WIDTH, 64 + 36 * len(found), (left_margin(names), 60, 8, 38)) as canvas:
        axes = canvas.axes
        canvas.rows(names)
        for row, (system, figure) in enumerate(found):
            look = _LOOK[system.role]
            value = figure.value or 0.0
            if real(figure.low) and real(figure.high):
                axes.plot([figure.low, figure.high], [row, row], color=look["color"], lw=2.5, solid_capstyle="round")
            axes.plot(
                [value], [row], ls="", marker=look["marker"], ms=look["ms"], mfc=look["mfc"], mec=look["color"], mew=1.8
            )
            axes.annotate(
                number(value, figure.unit),
                (1.02, row),
                xycoords=("axes fraction", "data"),
                va="center",
                annotation_clip=False,
            )
        _scale(axes.set_xlim, axes.xaxis, [f for _, f in found])
        axes.set_xlabel(first.label + ("" if first.higher_is_better else " (lower is better)"))
        alt = f"{first.label}: " + "; ".join(f"{page.label(s.label)} {number(f.value, f.unit)}" for s, f in found)
        svg = canvas.svg("systems", alt)
    rows = tuple(
        (
            s.label,
            number(f.value, f.unit),
            interval(f.low, f.high, f.unit) or MISSING,
            f"{f.n:,}",
            page.duration(s.seconds),
        )
        for s, f in found
    )
    return Chart(
        "systems",
        f"{first.label} of the run and of everything it must beat",
        alt,
        svg,
        ("System", first.label, "Interval", "Rows", "Time"),
        rows,
        "● run   ◇ untouched base and its candidates   ■ floor; the line is the interval",
    )


def reliability(calibration: Calibration) -> Chart | None:
    """Draw accuracy over confidence: on the diagonal, confidence can be taken at its word."""
    bins = [b for b in calibration.bins if b.get("n", 0) > 0]
    if not bins:
        return None
    total = sum(b["n"] for b in bins)
    with Canvas(400, 370, (52, 14, 34, 42)) as canvas:
        axes = canvas.axes
        axes.plot([0, 1], [0, 1], color=FLOOR, lw=1.2, ls="--", label="as confident as correct")
        for b in bins:
            axes.plot([b["confidence"]] * 2, [b["confidence"], b["accuracy"]], color=BASE, lw=1.6)
            share = b["n"] / total
            axes.plot([b["confidence"]], [b["accuracy"]], ls="", marker="o", color=RUN, ms=5 + 11 * math.sqrt(share))
        axes.plot([], [], ls="", marker="o", color=RUN, ms=7, label="run (area: rows)")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        canvas.legend(2)
        alt = f"Reliability diagram over {total:,.0f} rows, expected calibration error {number(calibration.ece)}"
        svg = canvas.svg("reliability", alt)
    rows = tuple(
        (
            interval(b.get("low"), b.get("high")) or MISSING,
            number(b["confidence"], "share"),
            number(b["accuracy"], "share"),
            f"{b['n']:,.0f}",
        )
        for b in bins
    )
    return Chart(
        "reliability",
        "Is confidence justified?",
        alt,
        svg,
        ("Bin", "Mean confidence", "Accuracy", "Rows"),
        rows,
        "Points below the diagonal: the model is surer than it is right.",
    )


def confusion(matrix: Confusion) -> Chart | None:
    """Draw the confusion matrix of at most 20 classes: those with the most errors when there are more."""
    if not matrix.labels or not any(map(any, matrix.counts)):
        return None
    keep = _most_confused(matrix)
    names = [page.label(matrix.labels[i], 24) for i in keep]
    counts = [[matrix.counts[i][j] for j in keep] for i in keep]
    left, cell = left_margin(names), 24 if len(keep) > 8 else 44
    side = cell * len(keep)
    with Canvas(left + side + 16, side + left + 8, (left, 16, 8, left), fluid=False) as canvas:
        _cells(canvas, counts)
        canvas.rows(names)
        canvas.axes.set_ylim(len(names) - 0.5, -0.5)
        canvas.axes.set_xticks(range(len(names)), names, rotation=90)
        canvas.axes.set_xlim(-0.5, len(names) - 0.5)
        canvas.axes.grid(visible=False)
        alt = f"Confusion matrix of {len(keep)} classes, rows true, columns predicted"
        svg = canvas.svg("confusion", alt)
    note = "Rows: true; columns: predicted. Blue: right; orange: wrong; the stronger, the larger the share of the row."
    num_labels = max(matrix.num_labels, len(matrix.labels))
    if len(keep) < num_labels:
        note = f"The {len(keep)} classes with the most errors, of {num_labels:,}. " + note
    rows = tuple((true, predicted, f"{n:,}") for true, predicted, n in matrix.top_pairs[:60])
    return Chart(
        "confusion", "Which classes are taken for which", alt, svg, ("True", "Predicted instead", "Rows"), rows, note
    )


def _most_confused(matrix: Confusion) -> list[int]:
    size = len(matrix.labels)
    if size <= MAX_ROWS:
        return list(range(size))
    errors = [
        sum(matrix.counts[i]) + sum(row[i] for row in matrix.counts) - 2 * matrix.counts[i][i] for i in range(size)
    ]
    return sorted(sorted(range(size), key=lambda i: (-errors[i], i))[:MAX_ROWS])


def _cells(canvas: Canvas, counts: list[list[int]]) -> None:
    from matplotlib.patches import Rectangle

    for i, row in enumerate(counts):
        total = sum(row) or 1
        for j, n in enumerate(row):
            if n:
                box = Rectangle(
                    (j - 0.47, i - 0.47), 0.94, 0.94, lw=0, fc=RUN if i == j else BASE, alpha=0.12 + 0.48 * n / total
                )
                canvas.axes.add_patch(box)
                canvas.axes.text(j, i, str(n), ha="center", va="center", fontsize=11)


def classes(rows: Sequence[ClassRow]) -> Chart | None:
    """Draw F1 of the 20 weakest classes, run against base."""
    weak = sorted(rows, key=lambda r: (r.f1, r.label))[:MAX_ROWS]
    if not weak:
        return None
    names = [page.label(r.label) for r in weak]
    with Canvas(WIDTH, 78 + 23 * len(weak), (left_margin(names), 20, 30, 38)) as canvas:
        canvas.rows(names)
        for row, item in enumerate(weak):
            if item.base_f1 is not None:
                canvas.axes.plot([item.base_f1, item.f1], [row, row], color=LINE, lw=2)
        compared = [(i, r.base_f1) for i, r in enumerate(weak) if r.base_f1 is not None]
        if compared:
            canvas.axes.plot(
                [v for _, v in compared],
                [i for i, _ in compared],
                ls="",
                marker="D",
                ms=6,
                mfc=PAPER,
                mec=BASE,
                mew=1.6,
                label="untouched base",
            )
        canvas.axes.plot([r.f1 for r in weak], range(len(weak)), ls="", marker="o", ms=7, color=RUN, label="run")
        canvas.axes.set_xlim(-0.03, 1.03)
        canvas.axes.set_xlabel("F1")
        canvas.legend()
        alt = f"F1 of the {len(weak)} weakest classes, from {number(weak[0].f1)} to {number(weak[-1].f1)}"
        svg = canvas.svg("classes", alt)
    title = "F1 per class" if len(weak) == len(rows) else f"The {len(weak)} weakest of {len(rows):,} classes"
    table = tuple(
        (r.label, f"{r.n:,}", number(r.precision), number(r.recall), number(r.f1), number(r.base_f1))
        for r in sorted(rows, key=lambda r: (r.f1, r.label))
    )
    return Chart("classes", title, alt, svg, ("Class", "Rows", "Precision", "Recall", "F1", "Base F1"), table)


def slices(rows: Sequence[SliceRow], title: str, unit: str, name: str) -> Chart | None:
    """Draw one metric over the values of one slice column; values with too few rows keep their line and no point."""
    shown = list(rows)[:MAX_ROWS]
    if not any(real(r.figure) for r in shown):
        return None
    names = [f"\u2068{page.label(r.value, 20)}\u2069 (n={r.n:,})" for r in shown]  # isolated: n stays right of Arabic
    with Canvas(WIDTH, 78 + 28 * len(shown), (left_margin(names), 30, 30, 38)) as canvas:
        axes = canvas.axes
        canvas.rows(names)
        for row, item in enumerate(shown):
            if not real(item.figure):
                axes.annotate(
                    "insufficient: no figure", (0.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=11
                )
                continue
            if real(item.low) and real(item.high):
                axes.plot([item.low, item.high], [row, row], color=RUN, lw=2.5, solid_capstyle="round")
            axes.plot([item.figure], [row], ls="", marker="o", ms=8, color=RUN)
            if real(item.base):
                axes.plot([item.base], [row], ls="", marker="D", ms=6, mfc=PAPER, mec=BASE, mew=1.6)
        axes.plot([], [], ls="", marker="o", ms=8, color=RUN, label="run")
        axes.plot([], [], ls="", marker="D", ms=6, mfc=PAPER, mec=BASE, mew=1.6, label="untouched base")
        figures = [Figure(metric="", label="", value=r.figure, low=r.low, high=r.high, n=r.n, unit=unit) for r in shown]
        figures += [Figure(metric="", label="", value=r.base, n=r.n, unit=unit) for r in shown]
        _scale(axes.set_xlim, axes.xaxis, figures)
        canvas.legend()
        alt = f"{title}: " + "; ".join(f"{page.label(r.value)} {number(r.figure, unit)}" for r in shown)
        svg = canvas.svg(name, alt)
    return replace(slice_table(rows, title, unit), name=name, alt=alt, svg=svg)


def slice_table(rows: Sequence[SliceRow], title: str, unit: str) -> Chart:
    """Return the table of a slice column without a picture, for when no value has enough rows."""
    table = tuple(
        (
            r.value,
            f"{r.n:,}",
            number(r.figure, unit),
            interval(r.low, r.high, unit) or MISSING,
            number(r.base, unit),
            r.note,
        )
        for r in rows
    )
    return Chart("slice", title, title, "", ("Value", "Rows", "Run", "Interval", "Base", "Note"), table)


def labels(counts: Mapping[str, int]) -> Chart | None:
    """Draw how many training rows each label has: the rarest and the most frequent when there are many."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) < 2:
        return None
    half = MAX_ROWS // 2
    shown = ordered if len(ordered) <= MAX_ROWS else ordered[:half] + ordered[-half:]
    names = [page.label(name) for name, _ in shown]
    with Canvas(WIDTH, 50 + 22 * len(shown), (left_margin(names), 60, 6, 38)) as canvas:
        canvas.rows(names)
        canvas.axes.barh(range(len(shown)), [n for _, n in shown], height=0.62, color=RUN, alpha=0.75)
        for row, (_, n) in enumerate(shown):
            canvas.axes.annotate(
                f"{n:,}", (n, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=11
            )
        canvas.axes.set_xlabel("training rows")
        alt = f"Training rows per label: from {ordered[-1][1]:,} to {ordered[0][1]:,} over {len(ordered):,} labels"
        svg = canvas.svg("labels", alt)
    title = f"The {half} most frequent and the {half} rarest of {len(ordered):,} labels"
    if len(shown) == len(ordered):
        title = "Rows per label"
    return Chart("labels", title, alt, svg, ("Label", "Training rows"), tuple((k, f"{v:,}") for k, v in ordered))


def _scale(set_limits: Callable[..., object], axis: object, figures: Sequence[Figure]) -> None:
    """Show shares over 0–100 %, other figures with some air around them."""
    values = [v for f in figures for v in (f.value, f.low, f.high) if v is not None and math.isfinite(v)]
    if figures[0].unit == "share":
        set_limits(min(0.0, *values) - 0.01, max(1.0, *values) + 0.01)
    else:
        low, high = min(0.0, *values), max(values)
        air = 0.05 * (high - low or 1.0)
        set_limits(low - (air if low < 0 else 0), high + air)
    unit = figures[0].unit if figures[0].unit == "share" else ""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %" if unit else number(value))  # type: ignore[attr-defined]
