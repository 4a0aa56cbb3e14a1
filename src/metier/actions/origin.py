"""Carry another tool's settings over into a recipe: `metier init --from TOOL FILE`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metier.actions.origins._rules import Translation
from metier.actions.recipes import NANO, model_within, scalar, within
from metier.core.catalog import Catalog, catalog
from metier.core.errors import ConfigError
from metier.core.project import Project, write_text
from metier.core.recipe import Recipe, describe
from metier.core.yamlmarks import NOT_YAML, load_value

ORIGINS = Catalog("origins", "metier.actions.origins")
KINDS = {"adapter": "adapters", "method": "methods"}


@dataclass(frozen=True, slots=True)
class Carried:
    """A recipe that was written, and what of the other tool's settings is not in it.

    Attributes:
        project: where.
        path: the recipe.
        tool: whose settings they were, as its users write it.
        left: what was not carried over → why.
        needless: keys that have no counterpart and need none.
    """

    project: Project
    path: Path
    tool: str
    left: dict[str, str]
    needless: tuple[str, ...]


def carry_over(root: Path, tool: str, file: Path, *, name: str | None = None, model: str | None = None) -> Carried:
    """Write a recipe that trains as another tool's settings say; what it cannot say stands in its head, and why.

    Args:
        root: of the project; it is made where there is none, once the recipe is known to be right.
        tool: a file of `actions/origins`.
        file: the tool's settings, YAML or JSON.
        name: the recipe's, and a new project's; default: the file's, the folder's.
        model: a base to start from in place of the file's; a directory is found from the working directory.

    Raises:
        ConfigError: E210, no such tool; E280, settings that are not there, cannot be read or hold an impossible value;
            E281, a method or adapter that is not here; E264, the recipe exists already.
        MachineError: E420–E422, the folder cannot be written.
    """
    if tool not in ORIGINS.names():
        raise ConfigError(
            210,
            f"Settings of `{tool}` cannot be carried over",
            expected=", ".join(ORIGINS.names()),
            fix="metier init --data FILE writes a recipe from the rows",
        )
    settings = _read(file)
    found: Translation = ORIGINS.get(tool).translate(settings, file.resolve().parent)
    slug = re.sub(r"[^a-z0-9._-]+", "-", (name or file.stem).lower()).strip("-._")[:64] or "specialist"
    path = root / "recipes" / f"{slug}.yaml"
    if path.exists():
        again = ["metier", "init", Project.shown(root), "--from", tool, str(file), "--name", "OTHER"]
        raise ConfigError(
            264,
            "There is such a recipe already",
            place=Project.shown(path),
            fix=shlex.join(again),
        )
    _settle(found, root, file)
    if model:
        found.values["model.name_or_path"] = model_within(root, model)
        found.own.pop("model.name_or_path", None)
        found.left.pop("model", None)
    text = _text(found, slug, file)
    _check(text, file)
    project = Project.create(root, name or root.name)
    write_text(path, text)
    return Carried(project, path, found.tool, found.left, tuple(found.needless))


def _read(file: Path) -> Mapping[str, Any]:
    """Return a file of settings.

    Raises:
        ConfigError: E280, there is none, or it holds no settings.
    """
    try:
        found = load_value(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(280, "There is no such file", place=str(file), fix="metier init --from TOOL FILE") from None
    except (OSError, *NOT_YAML) as error:
        raise ConfigError(
            280,
            "The settings cannot be read",
            place=str(file),
            received=str(error).splitlines()[0][:120],
            expected="the tool's settings as YAML or JSON",
            fix="metier init --data FILE, where the file holds rows",
        ) from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(
            280,
            "The settings are not a mapping of keys",
            place=str(file),
            received=type(found).__name__,
            expected="the tool's settings as YAML or JSON",
            fix="metier init --data FILE, where the file holds rows",
        )
    return found


def _settle(found: Translation, root: Path, file: Path) -> None:
    """Write paths as the project reads them, and say what is missing."""
    model = found.values.get("model.name_or_path")
    if model is None:
        found.values["model.name_or_path"] = NANO
        found.own["model.name_or_path"] = "ships with it; or a directory or hub id of your own"
    elif (file.resolve().parent / str(model)).exists():
        found.values["model.name_or_path"] = str((file.resolve().parent / str(model)).resolve())
    for source in found.sources:
        source["path"] = within(root, Path(source["path"])) if Path(source["path"]).is_absolute() else source["path"]
    if not found.sources:
        found.left["rows"] = "the file names no data set: add yours with metier data add"
    found.values["data.sources"] = found.sources


def _check(text: str, file: Path) -> None:
    """Read the recipe as a run would, the keys of its adapter and method included.

    Raises:
        ConfigError: E280, a value is out of range.
    """
    try:
        recipe = Recipe.parse(text, file=file.name)
        for section, kind in KINDS.items():
            chosen = getattr(recipe, section)
            catalog(kind).options(chosen.kind, chosen.options)
    except ConfigError as error:
        raise ConfigError(
            280,
            f"The settings say what no recipe can: {error.what}",
            place=str(file),
            received=error.received,
            expected=error.expected,
            fix="correct the value in the file, or take the key out of it",
        ) from None


# ───────────────────────────────────────────────────────────────────────────── the recipe's text


def _text(found: Translation, name: str, file: Path) -> str:
    values: dict[str, Any] = {"version": 1, "name": name}
    order = {key: place for place, key in enumerate(describe())}
    for key in found.values:
        order.setdefault(key, order.get(key.partition(".")[0], 0))  # of an adapter or a method
    for dotted in sorted(found.values, key=lambda key: (order[key], not key.endswith(".kind"))):
        *sections, leaf = dotted.split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = found.values[dotted]
    ordered = dict(sorted(values.items(), key=lambda item: list(Recipe.model_fields).index(item[0])))
    return "\n".join([*_head(found, name, file), *_lines(ordered, found)]) + "\n"


def _head(found: Translation, name: str, file: Path) -> Iterator[str]:
    yield f"# {name}: carried over from {found.tool}'s {_one_line(file.name)}. Every key: docs/recipe.md"
    if found.left:
        yield "#"
        yield "# Not carried over:"
        yield from (f"#   {_one_line(key)}: {_one_line(why)}" for key, why in found.left.items())
    if found.needless:
        yield "#"
        yield f"# Without a counterpart, and none is needed: {_one_line(', '.join(found.needless))}"


def _lines(values: Mapping[str, Any], found: Translation, prefix: str = "", indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, found, f"{dotted}.", f"{indent}  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{key}:"
            body = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
            yield from (f"{indent}  {line}" for line in body.splitlines())
        else:
            yield f"{indent}{key}: {scalar(value)}{_remark(dotted, found)}"


def _remark(dotted: str, found: Translation) -> str:
    if dotted in found.assumed:
        return f"  # {found.tool}'s default"
    return f"  # Metier's: {found.own[dotted]}" if dotted in found.own else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


__all__ = ["ORIGINS", "Carried", "carry_over"]
