"""What a project's recipes say of their sources now: a recipe in `recipes/` is where a consent is withdrawn or renewed.

A file is read as far as that goes: another key that is wrong in it must not hide a withdrawal.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.sections import Permission
from metier.core.yamlmarks import load_marked
from metier.data.source import HUB


@dataclass(frozen=True, slots=True)
class Statement:
    """What a recipe states of a source, and the line where it does."""

    path: str
    permission: Permission
    place: str


def statements(project: Project) -> list[Statement]:
    """Return what the files in `recipes/` state of their sources; sources of which nothing is stated are left out.

    Raises:
        ConfigError: E204, E205, a file with a permission in it that is no YAML.
    """
    return [found for file in sorted((project.root / "recipes").glob("*.y*ml")) for found in _of(file)]


def located(project: Project, written: str) -> Path | str:
    """Return where a source lies that a recipe names; a hub id, and a path with a variable that is not set, as is."""
    if written.startswith(HUB):
        return written
    try:
        return project.path(written)
    except ConfigError:
        return written


def overlap(one: Path | str, other: Path | str) -> bool:
    """Whether two located sources may have rows in common: one file, or a folder or glob with it."""
    if one == other or isinstance(one, str) or isinstance(other, str):
        return one == other
    if one.is_relative_to(other) or other.is_relative_to(one):
        return True
    return fnmatch.fnmatch(str(one), str(other)) or fnmatch.fnmatch(str(other), str(one))


def _of(file: Path) -> Iterator[Statement]:
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return
    try:
        marked = load_marked(text, f"recipes/{file.name}")
    except ConfigError:
        if "permission" in text:  # who may be withdrawing a consent must be heard
            raise
        return
    data = marked.value.get("data") if isinstance(marked.value, dict) else None
    sources = data.get("sources") if isinstance(data, dict) else None
    for index, entry in enumerate(sources if isinstance(sources, list) else ()):
        stated = entry.get("permission") if isinstance(entry, dict) else None
        if isinstance(stated, dict) and isinstance(entry.get("path"), str):
            line = marked.lines.get(f"data.sources.{index}.permission", 1)
            yield Statement(entry["path"], _permission(stated), f"recipes/{file.name}:{line}")


def _permission(stated: dict[str, Any]) -> Permission:
    """Return what can be read of a permission: no key hides another."""
    try:
        return Permission.model_validate(stated)
    except ValidationError as error:
        wrong = {str(part["loc"][0]) for part in error.errors()}
        return Permission.model_validate({name: value for name, value in stated.items() if name not in wrong})
