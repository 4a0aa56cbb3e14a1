"""The report of a run: one HTML file, the same in Markdown, and report.json.

`render` is pure: the same Report gives the same bytes. The page needs no network and no script, carries its style
sheet and its charts, and refuses everything else by a Content-Security-Policy. Every text passes `visible` and the
template's escaping. It stays under 2 MB: when it would not, examples and tables are shortened level by level, and the
page says so.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from metier.core import page
from metier.core.page import MISSING, duration, interval, number, size
from metier.core.project import write_text
from metier.evaluation import chart, curve, view
from metier.evaluation.drawing import Chart
from metier.evaluation.result import DataSummary, Report, TrainingSummary

PACKAGE = "metier.evaluation"
MAX_BYTES = 2_000_000


def render(report: Report) -> str:
    """Return the report as one HTML page of at most 2 MB, sections in the order of `view.SECTIONS`."""
    pictures = _charts(report)
    html = ""
    for level, limits in enumerate(view.LEVELS):
        context = _context(report, limits) | {"reduced": level > 0, "charts": pictures if limits.charts else _NO_CHARTS}
        html = (
            page.templates(PACKAGE, "html", max(limits.prompt, 1000) + 200)
            .get_template("report.html.j2")
            .render(context)
        )
        if len(html.encode()) <= MAX_BYTES:
            break
    return html


def report_markdown(report: Report) -> str:
    """Return the report as Markdown, without pictures; three examples of each group."""
    return markdown_page(report, "report.md.j2", {})


def markdown_page(report: Report, template: str, more: dict[str, Any]) -> str:
    """Return one of the Markdown templates, filled in from the report; the model card is one of them."""
    limits = view.Limits(examples=3, prompt=800, text=800, rows=40)
    return page.squeezed(
        page.templates(PACKAGE, "md", 1200).get_template(template).render(_context(report, limits) | more)
    )


def write(report: Report, folder: Path) -> Path:
    """Write report.json, report.md and report.html into the folder, the page last; return the page's path.

    Raises:
        MachineError: E420–E422, the folder cannot be written.
    """
    write_text(folder / "report.json", report.model_dump_json(indent=2) + "\n")
    write_text(folder / "report.md", report_markdown(report))
    write_text(folder / "report.html", render(report))
    return folder / "report.html"


# ───────────────────────────────────────────────────────────────────────────── what the templates read

_NO_CHARTS: dict[str, Any] = dict.fromkeys(("systems", "labels", "reliability", "classes", "confusion")) | {
    "curves": [],
    "slices": [],
}


def _charts(report: Report) -> dict[str, Any]:
    pictures: list[tuple[Chart | None, Chart]] = []
    for index, (column, metric, rows) in enumerate(view.slice_groups(report)[:12]):
        title = f"{_label(report, metric)} by {column}"
        unit = view.unit_of(report, metric)
        pictures.append((chart.slices(rows, title, unit, f"slice-{index}"), chart.slice_table(rows, title, unit)))
    return {
        "systems": chart.systems(report),
        "labels": chart.labels(report.data.labels),
        "curves": curve.curves(report.training),
        "reliability": chart.reliability(report.calibration) if report.calibration else None,
        "classes": chart.classes(report.classes),
        "confusion": chart.confusion(report.confusion) if report.confusion else None,
        "slices": pictures,
    }


def _context(report: Report, limits: view.Limits) -> dict[str, Any]:
    reload = report.parity.get("reload", {})
    judged = "passed" in reload
    certificates = {name: value for name, value in report.parity.items() if not (judged and name == "reload")}
    return {
        "report": report,
        "view": view,
        "limits": limits,
        "verdict": view.VERDICTS[report.verdict],
        "primary_label": _label(report, report.primary_metric),
        "cards": view.cards(report),
        "metrics": view.metrics(report)[:12],
        "explanations": view.explanations(report),
        "examples": view.examples(report, limits),
        "production": any(s.name == "production" for s in report.systems),
        "calibration_unit": view.unit_of(report, "ece"),
        **_data_context(report),
        **_training_context(report),
        "reload": reload if judged else None,
        "parity_rows": page.flat(certificates)[: limits.rows],
        "reproduce_rows": [(name.replace("_", " "), value) for name, value in report.reproduce.items()][: limits.rows],
        "base_rows": page.flat(report.base_model)[: limits.rows],
    }


def _data_context(report: Report) -> dict[str, Any]:
    data = report.data
    leaks = {kind: n for kind, n in data.leaks.items() if n}
    counts = sorted(data.labels.values())
    return {
        "split_rows": " · ".join(f"{split} {rows:,}" for split, rows in data.rows.items()) or MISSING,
        "source_header": page.SOURCE_HEADER,
        "source_rows": [page.source_row(source) for source in data.sources],
        "step_rows": [
            (s.get("name", MISSING), page.cell(s.get("rows_in")), page.cell(s.get("rows_out")), s.get("note", ""))
            for s in data.steps
        ],
        "quarantine_rows": [(reason, f"{n:,}") for reason, n in data.quarantine_reasons.items()],
        "length_sentence": _length_sentence(data),
        "leaks": leaks,
        "leak_sentence": f"Of the {report.split} rows, "
        + " and ".join(f"{n:,} {'have' if n > 1 else 'has'} {_article(kind)} twin" for kind, n in leaks.items())
        + f" in the {view.twins_in(report)} rows. They can flatter the figures"
        + (", so both are shown." if data.leak_free_figures else "."),
        **_leak_table(report),
        "label_sentence": f"{len(counts):,} labels; the rarest has {counts[0]:,} training rows, "
        f"the most frequent {counts[-1]:,}."
        if counts
        else "",
    }


def _leak_table(report: Report) -> dict[str, Any]:
    """Return the figures of run, base and floors on all rows and, after the arrow, on those without a twin."""
    run = view.run_of(report)
    free = {run.name: report.data.leak_free_figures} if run and report.data.leak_free_figures else {}
    free |= report.data.leak_free_others
    shown = [(s, {f.metric: f for f in free[s.name]}) for s in report.systems if s.name in free]
    rows = []
    for figure in report.data.leak_free_figures:
        whole = view.figure(run, figure.metric)
        cells = []
        for system, without in shown:
            before, after = view.figure(system, figure.metric), without.get(figure.metric)
            text = _with_interval(after) if system is run else number(_value(after), figure.unit)
            cells.append(f"{number(_value(before), figure.unit)} → {text}" if after else MISSING)
        rows.append((figure.label, *cells, f"{whole.n if whole else 0:,} → {figure.n:,}"))
    return {"leak_header": ("Figure", *(system.label for system, _ in shown), "Rows"), "leak_rows": rows}


def _length_sentence(data: DataSummary) -> str:
    """Say how many rows were seen in part or not at all; empty where all were seen whole."""

    def said(rows: dict[str, int]) -> str:
        return " and ".join(f"{n:,} {split} {'rows' if n > 1 else 'row'}" for split, n in rows.items() if n)

    cut, dropped = said(data.cut_rows), said(data.dropped_rows)
    parts = [f"Cut at what the model reads at once: {cut}."] if cut else []
    parts += [f"Left out, since nothing of them is trained on within that: {dropped}."] if dropped else []
    return " ".join([*parts, "The notes in events.jsonl name the first of them."]) if parts else ""


def _training_context(report: Report) -> dict[str, Any]:
    t = report.training
    share = t.trainable_parameters / t.total_parameters if t.total_parameters else None
    # A task head is trained by the label of each row: none of its tokens is.
    supervised = (
        f", {number(t.supervised_tokens / t.tokens, 'share')} of them supervised" if t.supervised_tokens else ""
    )
    facts = [
        ("Method and adapter", f"{t.method}, {t.adapter}"),
        ("Parameters trained", f"{t.trainable_parameters:,} of {t.total_parameters:,} ({number(share, 'share')})"),
        ("Steps taken", _steps(t)),
        ("Checkpoint measured", _checkpoint(t)),
        ("Examples", f"{t.examples:,}"),
        ("Tokens", f"{t.tokens:,}{supervised}"),
        ("Padding", f"{number(t.padding, 'share')} of the computed positions"),
        ("Time", f"{duration(t.seconds)}, {number(t.tokens_per_second)} tokens per second"),
        ("Peak memory", size(t.peak_memory_bytes)),
    ]
    calm = t.overfitting.strip().lower() in ("", "none")
    return {
        "training_facts": facts,
        "overfitting": "None seen: validation did not turn while the training loss fell." if calm else t.overfitting,
        "estimate_rows": [
            _estimate(key, t.estimate.get(key), t.actual.get(key), scaled=t.estimate_scaled)
            for key in {**t.estimate, **t.actual}
        ],
        "choice_rows": [(name.replace("_", " "), reason) for name, reason in t.choices.items()],
    }


def _steps(t: TrainingSummary) -> str:
    """Return how many steps were taken, of how many, and why not all of them."""
    planned = f" of {t.planned_steps:,} planned" if t.steps < t.planned_steps else ""
    why = ", stopped early on validation" if t.stopped_early else ", stopped before its end" if planned else ""
    return f"{t.steps:,}{planned} ({number(t.epochs)} epochs){why}"


def _checkpoint(t: TrainingSummary) -> str:
    """Return which checkpoint the figures are of, and what chose it."""
    why = {"": "", "last step": ", the last one", "request": ", asked for by this evaluation"}
    sure = f"; confidences at temperature {t.temperature:.2f}, fitted on validation" if t.temperature != 1 else ""
    return f"step {t.best_step:,}{why.get(t.chosen_by, f', chosen by the {t.chosen_by} on validation')}{sure}"


def _estimate(
    key: str, planned: float | None, actual: float | None, *, scaled: bool = False
) -> tuple[str, str, str, str]:
    """Return one line of the plan against what happened, in the unit that the key ends in.

    Args:
        scaled: the planned times are for what the run did, which ended before its planned steps.
    """
    show = duration if key.endswith("seconds") else size if key.endswith("bytes") else number
    gap = None
    if planned and actual is not None and math.isfinite(planned) and math.isfinite(actual):
        gap = 100 * (actual / planned - 1)
    names = {
        "seconds": "Training" + (", the steps taken" if scaled else ""),
        "validation_seconds": "Evaluations during training" + (", those made" if scaled else ""),
        "memory_bytes": "Memory",
        "disk_bytes": "Disk",
    }
    name = names.get(key, key.replace("_", " "))
    return name, show(planned), show(actual), MISSING if gap is None else f"{gap:+.0f}{page.THIN}%".replace("-", "−")


# ───────────────────────────────────────────────────────────────────────────── small words


def _article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"


def _label(report: Report, metric: str) -> str:
    return next((f.label for s in report.systems for f in s.figures if f.metric == metric), metric.replace("_", " "))


def _value(figure: Any) -> float | None:
    return figure.value if figure is not None else None


def _with_interval(figure: Any) -> str:
    bounds = interval(figure.low, figure.high, figure.unit)
    return number(figure.value, figure.unit) + (f" ({bounds})" if bounds else "")
