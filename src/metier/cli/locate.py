"""From the words of a command line to the project, the recipe and the run they mean."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metier.cli.show import Show
from metier.core.errors import ConfigError

if TYPE_CHECKING:
    from metier.core.locate import Located
    from metier.core.project import Project
    from metier.core.run import Run


def recipe(words: Sequence[str] | None) -> Located:
    """Return the recipe that `[RECIPE] [KEY=VALUE]...` means.

    Without RECIPE it is the project's only one. RECIPE may be a path, or a name in the project's recipes/ folder.

    Raises:
        ConfigError: E250, none or several could be meant; E203, no such file; E230, no project around it; whatever is
            wrong in the recipe.
    """
    from metier.core import locate

    files = [w for w in words or () if "=" not in w]
    overrides = [w for w in words or () if "=" in w]
    if len(files) > 1:
        raise ConfigError(
            250,
            "More than one recipe is given",
            received=" ".join(files),
            expected="one recipe, then section.key=value",
            fix=f"{files[0]} alone",
        )
    found = locate.recipe(_named(files[0]) if files else _only(), overrides)
    about(found.project)
    return found


def run(ref: str) -> tuple[Project, Run]:
    """Return the run that a reference means, with its project: `12`, `run:12`, `last`, or a run's directory.

    Raises:
        ConfigError: E230 no project here, E232 no such run.
    """
    from metier.core import locate

    project, found = locate.run(ref)
    about(project)
    return project, found


def about(project: Project) -> None:
    """Let the commands that are printed from here on say where their project is, if it is not the one around here."""
    from metier.core.project import Project

    try:
        around = Project.find().root
    except ConfigError:
        around = None
    root = project.root.resolve()
    Show.elsewhere = None if around == root else root


def policy(ref: str) -> tuple[Project, Run, str]:
    """Return the run that a reference such as `12@best` means, with its project, and the reference by its directory.

    Raises:
        ConfigError: as `run`; E251, no reference to a run or its checkpoint.
    """
    from metier.core import locate

    project, found, whole = locate.policy(ref)
    about(project)
    return project, found, whole


def _named(word: str) -> Path:
    path = Path(word)
    if path.exists():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path  # reading it gives the coded error
    from metier.core.project import Project

    folder = Project.find().root / "recipes"
    return next((p for p in (folder / f"{word}.yaml", folder / f"{word}.yml") if p.exists()), path)


def _only() -> Path:
    from metier.core.project import Project

    project = Project.find()
    folder = project.root / "recipes"
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        250,
        "The project has several recipes: name one" if found else "The project has no recipe yet",
        place=str(folder),
        expected=", ".join(p.stem for p in found),
        fix="metier train RECIPE" if found else f"metier init {shlex.quote(project.shown(project.root))} --data FILE",
    )
