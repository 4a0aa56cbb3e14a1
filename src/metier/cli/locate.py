"""From the words of a command line to the project, the recipe and the run they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.errors import ConfigError

if TYPE_CHECKING:
    from metier.core.project import Project
    from metier.core.recipe import Recipe
    from metier.core.run import Run


@dataclass(frozen=True, slots=True)
class Located:
    """A recipe with where it stands."""

    recipe: Recipe
    project: Project
    path: Path
    text: str


def recipe(words: Sequence[str] | None) -> Located:
    """Return the recipe that `[RECIPE] [KEY=VALUE]...` means.

    Without RECIPE it is the project's only one. RECIPE may be a path, or a name in the project's recipes/ folder.

    Raises:
        ConfigError: E250, none or several could be meant; E203, no such file; E230, no project around it; whatever is
            wrong in the recipe.
    """
    from metier.core.recipe import Recipe

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
    path = _named(files[0]) if files else _only()
    loaded = Recipe.read(path, overrides)
    return Located(loaded, project_around(path), path, path.read_text(encoding="utf-8-sig"))


def project_around(path: Path) -> Project:
    """Return the project that holds a file, or else the one that holds the working directory.

    Raises:
        ConfigError: E230, neither exists.
    """
    from metier.core.project import Project

    try:
        return Project.find(path.resolve().parent)
    except ConfigError as error:
        if error.number != 230:
            raise
        return Project.find()


def run(ref: str) -> tuple[Project, Run]:
    """Return the run that a reference means, with its project: `12`, `run:12`, `last`, or a run's directory.

    Raises:
        ConfigError: E230 no project here, E232 no such run.
    """
    from metier.core.project import Project
    from metier.core.run import Run

    folder = Path(ref)
    project = Project.find(folder) if (folder / "status.json").is_file() else Project.find()
    return project, Run(project.run_dir(ref))


def _named(word: str) -> Path:
    path = Path(word)
    if path.exists():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path  # reading it gives the coded error
    folder = project_around(Path.cwd() / "here").root / "recipes"
    return next((p for p in (folder / f"{word}.yaml", folder / f"{word}.yml") if p.exists()), path)


def _only() -> Path:
    folder = project_around(Path.cwd() / "here").root / "recipes"
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        250,
        "The project has several recipes: name one" if found else "The project has no recipe yet",
        place=str(folder),
        expected=", ".join(p.stem for p in found),
        fix="metier train RECIPE" if found else "metier init --data FILE",
    )
