"""`metier plan` and `metier train`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from metier.cli import locate, watch
from metier.cli.flags import Json, Words
from metier.cli.progress import counting
from metier.cli.show import Show


def plan(
    words: Words = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few steps and a save, and predict from them.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what a run will need, before it starts.

    Tokens, masking, rows cut, leakage, memory, time and disk. Nothing is trained without --measure.
    """
    from metier.actions.plan import plan as make_plan

    show = Show(json)
    found = locate.recipe(words)
    with counting(show.say) as progress:
        result = make_plan(found.recipe, found.project, measure=measure, progress=progress)
    show.result(result, result.to_text())
    show.next(shlex.join(["metier", "train", *(words or [])]))


def train(
    words: Words = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    json: Json = False,
) -> None:
    """Train, evaluate against the untouched base, write the report.

    The work is done by a process of its own: closing the terminal stops nothing. Ctrl+C saves, stops and says how to
    resume; a second Ctrl+C stops at once.
    """
    from metier.actions import train as actions

    show = Show(json)
    found = locate.recipe(words)
    run = actions.create(found.recipe, found.project, found.text)
    show.say(f"run {run.number}   {found.project.shown(run.dir)}")
    if detach:
        actions.start(run)
        show.result({"run": run.number, "state": "running", "dir": str(run.dir), "pid": run.pid()}, str(run.number))
        show.next(f"metier runs logs -f {run.number}", f"metier runs stop {run.number}")
    else:
        watch.foreground(run, show, lambda: actions.start(run))
