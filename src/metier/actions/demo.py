"""The demo: a project with data and a recipe that ship with Metier."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from metier.core.project import Project, write_bytes

FILES = {"messages.csv": "data/messages.csv", "recipe.yaml": "recipes/demo.yaml"}


def create(folder: Path) -> tuple[Project, Path]:
    """Make the demo project; files that the user has changed are left as they are.

    Returns:
        The project and the path of its recipe.

    Raises:
        MachineError: E420–E422, the folder cannot be written.
    """
    project = Project.create(folder, "metier-demo")
    assets = importlib.resources.files("metier.actions").joinpath("assets/demo")
    for name, place in FILES.items():
        if not (folder / place).exists():
            write_bytes(folder / place, assets.joinpath(name).read_bytes())
    return project, folder / FILES["recipe.yaml"]
