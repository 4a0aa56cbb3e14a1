"""`metier init`, `demo` and `doctor`: a place to work in, and whether this machine is ready."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from metier.cli import locate, watch
from metier.cli.flags import Json
from metier.cli.progress import counting
from metier.cli.show import Show, style
from metier.core.errors import ConfigError, MachineError

_FIRST = ("data preview", "plan", "train")
"""What is done with a first recipe."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; made if it does not exist.")] = Path(),
    data: Annotated[
        Path | None, typer.Option("--data", help="Your rows: the recipe follows from what is in them.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the specialist; default: the folder's or the file's.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What it will do; default: what the rows look like.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: a directory, a hub id, or metier/nano (the default).")
    ] = None,
    origin: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            "--from",
            metavar="TOOL FILE",
            help="Another tool's settings: axolotl, llamafactory, openai or trl, and its file.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a project and its first recipe.

    The recipe is commented. From a data file, its format, task and method follow from what the rows look like. From
    another tool's settings, it trains as they say, that tool's defaults included; what cannot be said here stands in
    its head, and why. Nothing is asked when a flag is given.
    """
    from metier.actions import recipes as actions
    from metier.core.project import Project

    show = Show(json)
    if origin and (data or task):
        flag = "--data" if data else "--task"
        raise ConfigError(207, f"`--from` and `{flag}` exclude each other", fix="the settings say both: leave it out")
    asked = data is None and name is None and task is None and origin is None and not json and sys.stdin.isatty()
    if asked:
        answer = typer.prompt("Data file (empty: none yet)", default="", show_default=False, err=True)
        data = Path(answer).expanduser() if answer else None
    root = folder.resolve()
    value: dict[str, object] = {"project": str(root)}
    if origin is not None:
        _carry_over(root, origin, name, model, value, show)
        return
    if data is None:
        project = Project.create(root, name or root.name)
        show.result(value, project.shown(root))
        place = f"{shlex.quote(shown)} " if (shown := project.shown(root)) != "." else ""
        show.next(f"metier init {place}--data FILE", "metier demo")
        return
    first = actions.first_recipe(root, data.resolve(), name=name, task=task, model=model or actions.NANO)
    show.say(f"format {first.format}: {first.reason}")
    shown = first.project.shown(first.path)
    show.result({**value, "recipe": str(first.path), "format": first.format, "task": first.task}, shown)
    show.next(*(f"metier {verb} {shlex.quote(shown)}" for verb in _FIRST))


def _carry_over(
    root: Path,
    origin: tuple[str, Path],
    name: str | None,
    model: str | None,
    value: dict[str, object],
    show: Show,
) -> None:
    """Write the recipe that another tool's settings say, and say what is not in it."""
    from metier.actions.origin import carry_over

    made = carry_over(root, *origin, name=name, model=model)
    for key, why in made.left.items():
        show.say(f"not carried over: {key}: {why}")
    shown = made.project.shown(made.path)
    show.result({**value, "recipe": str(made.path), "from": made.tool, "left": made.left}, shown)
    show.next(*(f"metier {verb} {shlex.quote(shown)}" for verb in _FIRST))


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the demo project is made.")] = Path(
        "metier-demo"
    ),
    json: Json = False,
) -> None:
    """Show the whole journey on data that ships with Metier.

    Prepare, plan, train, evaluate against the untouched base, report: about three minutes on two cores, no network.
    """
    from metier.actions import demo as demo_actions
    from metier.actions import plan as plan_actions
    from metier.actions import train as train_actions
    from metier.core.recipe import Recipe

    show = Show(json)
    project, path = demo_actions.create(folder.resolve())
    locate.about(project)
    recipe = Recipe.read(path)
    show.say(f"{style('1', 'bold')} project  {project.shown(project.root)}   recipe {project.shown(path)}")
    show.say(f"{style('2', 'bold')} plan")
    with counting(show.say) as progress:
        planned = plan_actions.plan(recipe, project, progress=progress)
    show.say(planned.to_text())
    run = train_actions.create(recipe, project, path.read_text(encoding="utf-8"))
    show.say(f"{style('3', 'bold')} run {run.number}  {project.shown(run.dir)}   (Ctrl+C saves and stops)")
    watch.foreground(run, show, lambda: train_actions.start(run), then=False)
    place = shlex.quote(str(project.root))  # whole: the first of these leads into the folder
    show.next(
        f"cd {place} && metier report last --open",
        f"cd {place} && metier predict last 'Can I move my appointment to Friday?'",
        f"cd {place} && metier train {path.relative_to(project.root)} training.seed=1",
    )


def doctor(json: Json = False) -> None:
    """Say whether this machine is ready.

    Packages, device, memory, disk, the shipped base, the compute slot. Exits with 4 when something is missing.
    """
    from metier.cli.doctor import findings

    show = Show(json)
    found = findings()
    marks = {"ok": style("✓", "green", stream=sys.stdout), "missing": style("✗", "red", stream=sys.stdout), "info": "·"}
    width = max(len(f.name) for f in found)
    lines = [f"{marks[f.level]} {f.name:<{width}}  {f.text}" for f in found]
    show.result([f.to_json() for f in found], "\n".join(lines))
    missing = [f for f in found if f.level == "missing"]
    if missing:
        raise MachineError(
            455, f"This machine is not ready: {', '.join(f.name for f in missing)}", fix=missing[0].fix or "make test"
        )
