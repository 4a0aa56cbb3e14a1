"""Where things stand: the project around a recipe, and the project of a run.

The command line and the functions of `metier` both look here, so that the same words mean the same project to both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from metier.core import refs
from metier.core.errors import ConfigError
from metier.core.project import Project, is_run_dir
from metier.core.recipe import Recipe
from metier.core.run import Run


@dataclass(frozen=True, slots=True)
class Located:
    """A recipe with where it stands; `text` is the file as its user wrote it."""

    recipe: Recipe
    project: Project
    path: Path
    text: str


def recipe(path: Path, overrides: Iterable[str] = ()) -> Located:
    """Return the recipe of a file, with `section.key=value` overrides applied, and its project.

    Raises:
        ConfigError: E230, no project around it; whatever is wrong in the recipe.
    """
    loaded = Recipe.read(path, overrides)
    return Located(loaded, around(path), path, path.read_text(encoding="utf-8-sig"))


def around(path: Path) -> Project:
    """Return the project that holds a file, or else the one that holds the working directory.

    Raises:
        ConfigError: E230, neither exists.
    """
    try:
        return Project.find(path.resolve().parent)
    except ConfigError as error:
        if error.number != 230:
            raise
        return Project.find()


def run(ref: str | Run) -> tuple[Project, Run]:
    """Return the run that a reference means, with its project: `12`, `run:12`, `last`, or a run's directory.

    Raises:
        ConfigError: E230 no project here, E232 no such run.
    """
    if isinstance(ref, Run):
        project = Project.find(ref.dir)
        return project, Run(project.run_dir(str(ref.dir.resolve())))
    folder = Path(ref)
    project = Project.find(folder) if is_run_dir(folder) else Project.find()
    return project, Run(project.run_dir(ref))


def policy(ref: str | Run) -> tuple[Project, Run, str]:
    """Return the run that a reference such as `12@best` means, with its project, and the reference by its directory.

    By that one a run is found from everywhere, whatever it is called, and taken for no other of the same number.

    Raises:
        ConfigError: as `run`; E251, no reference to a run or its checkpoint.
    """
    named, checkpoint = refs.run_and_checkpoint(ref) if isinstance(ref, str) else (ref, "")
    project, found = run(named)
    return project, found, f"{found.dir.resolve()}@{checkpoint}".removesuffix("@")
