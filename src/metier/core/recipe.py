"""The recipe: one YAML file with the sections of the journey, in its order.

    version · name · objective · data · model · adapter · method · training · evaluation · gates

The command line wins over the file, the file over the default; the environment is read only where a path names it
(`${NAME}`). Each key is *semantic* (it changes the result) or *execution* (only how it is computed); a resume accepts
changes of the latter. The sections with their keys stand in core/sections.py.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, PrivateAttr, ValidationError

from metier.core.catalog import type_of
from metier.core.errors import ConfigError
from metier.core.foreign_keys import FOREIGN_KEYS
from metier.core.sections import (
    Data,
    Evaluation,
    Gates,
    Kind,
    KindSection,
    ModelSection,
    Objective,
    Section,
    Training,
    key,
)
from metier.core.yamlmarks import NOT_YAML, load_marked, load_value

SCHEMA_VERSION = 1


class Recipe(Section):
    """The complete settings of a run. `Recipe.read` is the way in."""

    version: int = key(SCHEMA_VERSION, "Version of the recipe's schema.")
    name: str = key(
        ..., "Short name; part of the run's and the dataset's directory.", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"
    )
    objective: Objective = key(Objective, "What the specialist is for.")
    data: Data = key(Data, "Where the rows come from.")
    model: ModelSection = key(ModelSection, "The base model.")
    adapter: KindSection = key(lambda: Kind(kind="lora"), "Which weights train: `metier catalog ls adapters`.")
    method: KindSection = key(lambda: Kind(kind="sft"), "How they train: `metier catalog ls methods`.")
    training: Training = key(Training, "The optimiser steps.")
    evaluation: Evaluation = key(Evaluation, "What is measured.")
    gates: Gates = key(Gates, "What stops promotion.")

    _marks: dict[str, int] = PrivateAttr(default_factory=dict)
    _file: str = PrivateAttr(default="")

    @classmethod
    def read(
        cls,
        path: Path,
        overrides: Iterable[str] = (),
        *,
        origin: tuple[str, Mapping[str, int]] | None = None,
    ) -> Recipe:
        """Read a recipe file and apply `section.key=value` overrides.

        Args:
            origin: as in `parse`.

        Raises:
            ConfigError: E201 unknown key, E202 wrong value, E203 no such file, E204 not YAML, E205 a key given twice,
                E206 a version this Metier does not know, E207 an override that is not `key=value`.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(203, "There is no such recipe", place=str(path), fix="metier init") from None
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise ConfigError(
                204,
                "The recipe is not a UTF-8 text file",
                place=str(path),
                received=str(error),
                fix="save it as UTF-8 text, or name another file",
            ) from None
        except OSError as error:
            raise ConfigError(
                204,
                f"The recipe cannot be read: {error.strerror}",
                place=str(path),
                fix="change its permissions, or name another file",
            ) from None
        return cls.parse(text, file=path.name, overrides=overrides, origin=origin)

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        file: str = "recipe.yaml",
        overrides: Iterable[str] = (),
        origin: tuple[str, Mapping[str, int]] | None = None,
    ) -> Recipe:
        """Read a recipe from text; `read` documents the errors.

        Args:
            file: what errors call the text.
            origin: the `file` and `lines` of the recipe that this text was written from, where it is a copy: errors
                about its keys then name those, since that is the file which somebody can correct.
        """
        marked = load_marked(text, file)
        values = _unshared(_migrate(marked.value, file))
        file, lines = origin or (file, marked.lines)
        marks = dict(lines)
        for override in overrides:
            _override(values, marks, override)
        return cls.build(values, marks=marks, file=file)

    @classmethod
    def build(cls, values: Mapping[str, Any], *, marks: Mapping[str, int] | None = None, file: str = "") -> Recipe:
        """Return a recipe from plain data, with line marks for its errors."""
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            raise _explain(error, marks or {}, file) from None
        recipe._marks.update(marks or {})
        recipe._file = file
        return recipe

    @property
    def file(self) -> str:
        """Name of the file it was read from; empty when it was made from plain data."""
        return self._file

    @property
    def lines(self) -> dict[str, int]:
        """The line of every dotted key that was written in that file."""
        return dict(self._marks)

    def place(self, dotted: str) -> str:
        """Return `recipe.yaml:14` for a key, or the file's name when the key was not written there."""
        line = self._marks.get(dotted)
        return f"{self._file}:{line}" if line else self._file

    def with_values(self, changes: Mapping[str, Any]) -> Recipe:
        """Return a copy with dotted keys set, validated like the original."""
        values = self.to_data()
        for dotted, value in changes.items():
            _assign(values, dotted, value)
        return Recipe.build(values, marks=self._marks, file=self._file)

    def to_data(self) -> dict[str, Any]:
        """Return every key with its value, defaults included, as plain data."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True, width=110)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs between two recipes."""

    key: str
    old: Any
    new: Any
    semantic: bool


def differences(old: Recipe, new: Recipe) -> list[Change]:
    """Return the keys in which two recipes differ; plug-in keys are always semantic."""
    before, after = _leaves(old.to_data()), _leaves(new.to_data())
    execution = {path for path, info in describe().items() if not info["semantic"]}
    return [
        Change(path, before.get(path), after.get(path), path not in execution)
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def semantic_values(recipe: Recipe) -> dict[str, Any]:
    """Return the name and the semantic keys that are not at their default: what all starts of a run must share.

    A default is left out so that a key which a later Metier adds does not make the runs of an older one look changed.
    """
    changes = differences(Recipe.build({"name": recipe.name}), recipe)
    return {"name": recipe.name, **{c.key: c.new for c in changes if c.semantic}}


def describe() -> dict[str, dict[str, Any]]:
    """Return every dotted key with description, default, unit, `semantic` and type: for docs, forms and tests."""
    found: dict[str, dict[str, Any]] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            inner = _section_type(field.annotation)
            path = f"{prefix}{name}"
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if inner is not None:
                walk(inner, f"{path}[]." if "tuple" in str(field.annotation) else f"{path}.")
            else:
                found[path] = {
                    "description": field.description or "",
                    "default": None if field.is_required() else field.get_default(call_default_factory=True),
                    "required": field.is_required(),
                    "type": _types(model)[name],
                    "semantic": bool(extra.get("semantic", True)),
                    "unit": str(extra.get("unit", "")),
                }

    walk(Recipe, "")
    return found


# ───────────────────────────────────────────────────────────────────────────── reading


def _migrate(value: Any, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            204,
            "The recipe is not a mapping of sections",
            place=file,
            received=type(value).__name__,
            fix="write it as `section:` lines; docs/recipe.md shows every section",
        )
    version = value.get("version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(
            206,
            f"The recipe has version {version!r}",
            place=file,
            expected=f"version: {SCHEMA_VERSION}",
            fix="use the Metier release that wrote it, or set the version after reading CHANGELOG.md",
        )
    return value


def _unshared(value: Any) -> Any:
    """Return plain data without YAML's anchors: an override of one place must not change what shares one with it."""
    if isinstance(value, dict):
        return {key: _unshared(child) for key, child in value.items()}
    return [_unshared(child) for child in value] if isinstance(value, list) else value


def _override(values: dict[str, Any], marks: dict[str, int], override: str) -> None:
    dotted, equals, raw = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            207,
            "An override must be `section.key=value`",
            received=override,
            fix="such as training.num_train_epochs=2; quote it where the value holds spaces",
        )
    name = dotted.strip()
    _assign(values, name, _written(name, raw))
    # What the command line says is not what stands in the file, nor is anything below it.
    for mark in [k for k in marks if k == name or k.startswith(f"{name}.")]:
        del marks[mark]


def _written(dotted: str, raw: str) -> Any:
    """Return the value that an override writes: YAML, but where the key is text, the text as it stands or in quotes."""
    *parents, _ = _parts(dotted)
    kind = "text" if _type(".".join(parents)) == "mapping" else _type(dotted)
    try:
        value = load_value(raw) if raw else None
    except NOT_YAML:
        return raw
    if kind not in ("text", "text | null"):
        return value
    text = raw.strip()
    if kind == "text | null" and text in ("", "null", "~"):
        return None
    return value if text.startswith(("'", '"')) and isinstance(value, str) else text


def _type(dotted: str) -> str:
    """The type of a key in words; empty where there is no such key, or a plug-in has it."""
    return str(describe().get(re.sub(r"\.\d+(?=\.|$)", "[]", dotted), {}).get("type", ""))


def _parts(dotted: str) -> list[str]:
    """The parts of a dotted key; below a mapping of names of its own (`objective.targets`) the rest is one name."""
    parts = dotted.split(".")
    for end in range(1, len(parts)):
        if _type(".".join(parts[:end])) == "mapping":
            return [*parts[:end], ".".join(parts[end:])]
    return parts


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    node: Any = values
    *parents, leaf = _parts(dotted)
    for depth, name in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, name, dotted)]
            continue
        child = node.setdefault(name, {})
        if child is None or isinstance(child, str):
            # `adapter: lora` plus adapter.r=8 means {kind: lora, r: 8}
            child = {"kind": child} if isinstance(child, str) and depth == 0 and name in ("adapter", "method") else {}
            node[name] = child
        node = child
    if isinstance(node, list):
        node[_index(node, leaf, dotted)] = copy.deepcopy(value)
    elif isinstance(node, dict):
        if dotted in ("adapter.kind", "method.kind") and node.get("kind") not in (None, value):
            node.clear()  # the old kind's own keys mean nothing to the new one
        node[leaf] = copy.deepcopy(value)  # a later key may write below it
    else:
        raise ConfigError(
            201,
            f"Unknown key `{dotted}`",
            received=f"`{leaf}` below a value of type {type(node).__name__}",
            fix="docs/recipe.md lists every key",
        )


def _index(node: list[Any], name: str, dotted: str) -> int:
    if not name.isdecimal() or int(name) >= len(node):
        raise ConfigError(
            201,
            f"Unknown key `{dotted}`",
            received=f"`{name}` in a list of {len(node)}",
            fix=f"a number from 0 to {len(node) - 1}" if node else "write the whole list, or put it into the recipe",
        )
    return int(name)


def _explain(error: ValidationError, marks: Mapping[str, int], file: str) -> ConfigError:
    first = error.errors()[0]
    parts = [str(p) for p in first["loc"]]
    # Unions add the name of the branch they tried (`constrained-float`, `literal['auto']`): not part of the key.
    # A key that is unknown is the last part, whatever its user wrote in it.
    unknown = first["type"] == "extra_forbidden"
    branches, last = (parts[:-1], parts[-1:]) if unknown else (parts, [])
    named = [p for p in branches if not re.search(r"[\[\]'-]", p) and p not in ("float", "int", "str")]
    dotted = ".".join([*named, *last])
    line = _nearest_mark(marks, dotted)
    place = f"{file}:{line}" if line else file
    if unknown:
        owner, leaf = ".".join(named), parts[-1]
        foreign = FOREIGN_KEYS.get(leaf)
        if foreign:
            tool, ours = foreign
            return ConfigError(201, f"Unknown key `{dotted}`: that is {tool}'s", place=place, fix=f"here: {ours}")
        near = difflib.get_close_matches(leaf.replace("-", "_"), _keys_of(owner), n=1) or _elsewhere(leaf)
        return ConfigError(
            201,
            f"Unknown key `{dotted}`",
            place=place,
            expected=", ".join(_keys_of(owner)),
            fix=f"Did you mean `{near[0]}`?" if near else "docs/recipe.md lists every key",
        )
    if first["type"] == "missing":
        return ConfigError(202, f"`{dotted}` is missing", place=place, fix=f"add `{dotted}` to the recipe")
    info = describe().get(re.sub(r"\.\d+\.", "[].", dotted), {})
    return ConfigError(
        202,
        f"`{dotted}` has a wrong value: {first['msg']}",
        place=place,
        received=_shown(first.get("input")),
        expected=str(info.get("type", "")),
        fix=str(info.get("description", "")),
    )


def _nearest_mark(marks: Mapping[str, int], dotted: str) -> int | None:
    path = dotted
    while path:
        if path in marks:
            return marks[path]
        path = path.rpartition(".")[0]
    return None


def _keys_of(owner: str) -> list[str]:
    prefix = re.sub(r"\.\d+(?=\.|$)", "[]", owner)
    prefix = f"{prefix}." if prefix else ""
    found = {k[len(prefix) :].split(".")[0].removesuffix("[]") for k in describe() if k.startswith(prefix)}
    return sorted(found)


def _elsewhere(leaf: str) -> list[str]:
    """A right key in the wrong section: its full path."""
    paths = [p for p in describe() if p.rpartition(".")[2] == leaf]
    if paths:
        return paths
    leaves = {p.rpartition(".")[2]: p for p in describe()}
    return [leaves[m] for m in difflib.get_close_matches(leaf, leaves, n=1)]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for name, child in value.items():
            found.update(_leaves(child, f"{prefix}.{name}" if prefix else str(name)))
        return found
    return {prefix: value}


def _section_type(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


@cache
def _types(model: type[BaseModel]) -> dict[str, str]:
    """The type of every key of a section, in words."""
    schema = model.model_json_schema()
    return {name: type_of(info, schema.get("$defs", {})) for name, info in schema["properties"].items()}


def _shown(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


__all__ = ["Change", "Recipe", "describe", "differences", "semantic_values"]
