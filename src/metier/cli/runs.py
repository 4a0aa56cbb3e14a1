"""`metier runs ls|show|logs|stop|resume|rm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier.cli import locate, watch
from metier.cli.flags import Json, Overrides, RunRef
from metier.cli.show import Show, confirm, duration, pairs, table, typed
from metier.core.errors import ConfigError

if TYPE_CHECKING:
    from metier.core.run import Run

app = typer.Typer(help="List, look at, stop, resume and remove runs.", no_args_is_help=True)


@app.command("ls")
def list_runs(json: Json = False) -> None:
    """List the project's runs, newest last."""
    from metier.core.project import Project
    from metier.core.run import Run

    show = Show(json)
    project = Project.find()
    rows = [_summary(Run(folder)) for folder in project.run_dirs()]
    header: tuple[str, ...] = ("run", "state", "method", "name", "created", "step", "verdict")
    header += ("erased",) if any(row["erased"] for row in rows) else ()
    text = table(header, [[row[name] for name in header] for row in rows]) if rows else ""
    show.result(rows, text)
    if not rows:
        show.say("No run yet.")
        show.next("metier train RECIPE")


@app.command("show")
def show_run(ref: RunRef = "last", json: Json = False) -> None:
    """Show a run: state, figures, files."""
    from metier.core import erase_runs

    show = Show(json)
    project, run = locate.run(ref)
    status = run.status()
    evaluations = list(run.events("evaluation"))
    names = [p.name for p in run.checkpoints_dir.glob("step-*")] if run.checkpoints_dir.is_dir() else []
    of = run.report_of_another()
    report = project.shown(run.dir / "report.html") if (run.dir / "report.html").exists() else ""
    checkpoints = sorted(names, key=lambda name: (len(name), name))  # a seventh digit follows step-999999
    value = {**_summary(run), "status": status, "evaluations": evaluations, "checkpoints": checkpoints}
    text = pairs(
        {
            "run": run.dir.name,
            "state": value["state"],
            "name": status.get("name"),
            "method": f"{status.get('method')} with adapter {status.get('adapter')}",
            "model": status.get("model"),
            "dataset": status.get("dataset"),
            "created": status.get("created"),
            "step": value["step"],
            "took": duration(float(status["seconds"])) if status.get("seconds") else "",
            "checkpoints": ", ".join(checkpoints),
            "verdict": value["sentence"] or value["verdict"],
            "folder": project.shown(run.dir),
            "report": f"{report} (of {of}, which is not the chosen checkpoint any more)" if of else report,
            "erased": " ".join(erase_runs.warnings(status)),
            "resume": typed(str(status.get("resume") or ""))
            if value["state"] in ("stopped", "failed") and not value["erased"]
            else "",
        }
    )
    show.result(value, text)


@app.command()
def logs(
    ref: RunRef = "last",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends; leaving stops nothing.")
    ] = False,
    worker: Annotated[
        bool, typer.Option("--worker", help="What the worker printed (log.txt) instead of its events.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the events of a run, oldest first.

    With --json they are one list; with --follow --json one event per line, as they come.
    """
    from metier.cli.progress import Lines
    from metier.core import jobs

    show = Show(json)
    if worker and follow:
        raise ConfigError(
            258, "--follow shows events, --worker what the worker printed", fix="metier runs logs --follow, or --worker"
        )
    _, run = locate.run(ref)
    if worker:
        text = watch.log_tail(run, lines=10**6)
        show.result({"log": text.splitlines()}, text)
    elif follow and json:
        for event in jobs.watch(run):
            if event is not None:
                show.line(event)
    elif follow:
        watch.follow(run)
        show.say(f"run {run.number} is {run.status()['state']}")
    elif json:
        show.result(list(run.events()))
    else:
        lines = Lines(lambda line: show.result(None, line))
        for event in run.events():
            lines.feed(event)
        if run.status().get("reason") == "E100":
            show.result(None, watch.log_tail(run))


@app.command()
def stop(
    ref: RunRef = "last",
    now: Annotated[bool, typer.Option("--now", help="End it at once, without a save.")] = False,
    json: Json = False,
) -> None:
    """Ask a run to save and stop."""
    from metier.core import jobs

    show = Show(json)
    _, run = locate.run(ref)
    pid = jobs.stop(run)
    if now:
        jobs.kill(run)
    value = {"run": run.number, "pid": pid, "resume": f"metier runs resume {run.number}"}
    show.result(value, f"run {run.number} {'was stopped' if now else 'is asked to save and stop'}")
    show.next(str(value["resume"]))


@app.command()
def resume(
    ref: RunRef = "last",
    overrides: Overrides = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Start a new run from the changed recipe; semantic keys may change.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    json: Json = False,
) -> None:
    """Continue a stopped or failed run from its newest checkpoint.

    Execution keys may change; other keys need --fork, which starts a new run.
    """
    from metier.actions import train as actions

    show = Show(json)
    project, run = locate.run(ref)
    run = actions.resume(project, ref, overrides or [], fork=fork)
    offset = watch.end_of_events(run)
    show.say(f"run {run.number}   {project.shown(run.dir)}")
    if detach:
        actions.start(run)
        show.result({"run": run.number, "state": "running", "dir": str(run.dir), "pid": run.pid()}, str(run.number))
    else:
        watch.foreground(run, show, lambda: actions.start(run), offset=offset)


@app.command("rm")
def remove(
    refs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs: numbers or directories.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete runs with their checkpoints.

    A run whose exported model is still there stays: it says whose rows the model was trained on.
    """
    from metier.actions import train as actions

    show = Show(json)
    found = [locate.run(ref) for ref in refs]
    names = ", ".join(run.dir.name for _, run in found)
    if not yes:
        confirm(f"Delete {names}?")
    removed: list[Path] = [actions.remove(project, str(run.dir)) for project, run in found]
    show.result({"removed": [str(path) for path in removed]}, "\n".join(f"deleted {path.name}" for path in removed))


def _summary(run: Run) -> dict[str, Any]:
    """One row of `runs ls`."""
    status = run.status()
    state = "queued" if status["state"] == "running" and status.get("phase") == "queued" else status["state"]
    last: dict[str, dict[str, Any]] = {event["kind"]: event for event in run.events()}
    step, done = last.get("step"), last.get("done", {})
    return {
        "run": run.number,
        "state": state,
        "method": status.get("method"),
        "name": status.get("name"),
        "created": str(status.get("created", ""))[:16].replace("T", " "),
        "step": f"{step['step']}/{step['steps']}" if step else "",
        "verdict": done.get("verdict") or status.get("reason") or "",
        "sentence": done.get("sentence", ""),
        "erased": ", ".join(mark["certificate"] for mark in status.get("erased", [])),
        "dir": str(run.dir),
    }
