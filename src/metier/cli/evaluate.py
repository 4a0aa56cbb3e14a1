"""`metier evaluate`, `compare` and `report`."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier.cli import locate
from metier.cli.flags import Json, PolicyRef, RunRef
from metier.cli.progress import counting
from metier.cli.show import Show, figure, style, table
from metier.core.errors import ConfigError, GateError

if TYPE_CHECKING:
    from metier.core.run import Run


class SplitName(enum.StrEnum):
    """Which rows are measured."""

    test = "test"
    validation = "validation"


class Form(enum.StrEnum):
    """How a report is shown."""

    html = "html"
    md = "md"


def evaluate(
    ref: PolicyRef = "last",
    split: Annotated[SplitName, typer.Option(help="Which rows are measured.")] = SplitName.test,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with 5 when a target of the objective is missed.")] = False,
    json: Json = False,
) -> None:
    """Measure a run and its untouched base on held-out rows.

    Both answer the same rows; every difference has a paired interval. Writes the report of the run; that of another
    split or checkpoint than the chosen one goes into a folder of its own.
    """
    from metier.actions import evaluate as actions

    show = Show(json)
    project, run, ref = locate.policy(ref)
    with counting(show.say) as progress:
        report = actions.evaluate(project, ref, split=split.value, progress=progress)
    show.result(report, _text(report))
    folder = actions.folder_of(run, split=report.split, step=report.training.best_step, rows=report.data.rows)
    show.say(f"report: {project.shown(folder / 'report.html')}")
    missed = [t for t in report.targets if not t.met]
    if gate and missed:
        first = missed[0]
        raise GateError(
            501,
            f"{len(missed)} of {len(report.targets)} targets are missed: {', '.join(t.name for t in missed)}",
            place=run.dir.name,
            received=f"{first.name} {_against(first)}",
            expected=f"{first.name} {first.condition}",
            fix=f"metier report {run.number}" if folder == run.dir else project.shown(folder / "report.html"),
        )


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A run.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The run it is compared with.")],
    json: Json = False,
) -> None:
    """Compare two runs on the same rows, with paired intervals."""
    from metier.actions import evaluate as actions

    show = Show(json)
    project, _, one = locate.policy(first)
    found = actions.compare(project, one, second)
    rows = [(d.label, _signed(d.delta), f"{_signed(d.low)} … {_signed(d.high)}", d.n, d.outcome) for d in found.rows]
    said = "\n".join([found.sentence, *(style(f"! {note}", "yellow") for note in found.notes)])
    show.result(found, said + "\n\n" + table(("figure", "A − B", "interval", "n", "A is"), rows))


def report(
    ref: RunRef = "last",
    form: Annotated[
        Form, typer.Option("--format", help="`html`: print the path of the page; `md`: print the text.")
    ] = Form.html,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    json: Json = False,
) -> None:
    """Show the report of a run: was it worth it?"""
    from metier.core.project import read_json

    show = Show(json)
    project, run = locate.run(ref)
    page = run.dir / "report.html"
    _require_report(run)
    value = read_json(run.dir / "report.json")
    if form is Form.md and not json:
        show.result(None, (run.dir / "report.md").read_text(encoding="utf-8"))
    else:
        show.say(str(value.get("sentence", "")))
        show.result(value, project.shown(page))
    if browser:
        typer.launch(page.resolve().as_uri())


def _require_report(run: Run) -> None:
    if not (run.dir / "report.json").exists():
        raise ConfigError(
            254,
            f"Run {run.number} has no report yet",
            place=str(run.dir),
            received=f"state {run.status()['state']}",
            fix=f"metier evaluate {run.number}",
        )
    if of := run.report_of_another():
        raise ConfigError(
            254,
            f"Run {run.number} has no report of its chosen checkpoint",
            place=str(run.dir),
            received=f"a report of {of}",
            fix=f"metier evaluate {run.number}",
        )


def _text(report: Any) -> str:
    """The verdict with its warnings, the targets and the figures of every system side by side."""
    lines = [style(report.sentence, "bold", stream=sys.stdout)]
    lines += [*(style(f"! {w}", "yellow", stream=sys.stdout) for w in report.warnings), ""]
    names = [s.label for s in report.systems]
    rows_of_run = {f.metric: f.n for f in report.systems[0].figures}
    by_metric: dict[str, list[str]] = {}
    for index, system in enumerate(report.systems):
        for f in system.figures:
            row = by_metric.setdefault(f.label, ["–"] * len(names))
            interval = f" ({figure(f.low)}–{figure(f.high)})" if f.low is not None and index == 0 else ""
            rows = f.note or (f"{f.n:,} rows" if f.n != rows_of_run.get(f.metric, f.n) else "")
            row[index] = figure(f.value) + interval + (f" ({rows})" if rows else "")
    lines.append(table(("figure", *names), [(label, *row) for label, row in by_metric.items()]))
    if report.targets:
        rows = [(t.name, t.condition, _against(t), "met" if t.met else "missed") for t in report.targets]
        lines += ["", table(("target", "condition", "value", ""), rows)]
    return "\n".join(lines)


def _against(target: Any) -> str:
    """A target's figure, with the digits it takes to see on which side of its limit it lies."""
    from metier.core.page import apart

    if target.value is None or target.limit is None:
        return figure(target.value)
    return apart(target.value, target.limit[1], digits=4)


def _signed(value: float) -> str:
    return f"{value:+.4g}"
