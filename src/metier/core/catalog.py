"""A catalog: a folder of plug-in files as a registry.

`kind:` in a recipe is the file's name. Listing a catalog imports nothing of it; `get` imports the one file asked for.
Plug-in files keep heavy imports (torch, transformers) inside their functions, so that `options()` and the docs stay
fast.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from metier.core.errors import ConfigError

PACKAGES: dict[str, str] = {
    "formats": "metier.data.formats",
    "steps": "metier.data.steps",
    "adapters": "metier.models.adapters",
    "metrics": "metier.metrics",
    "methods": "metier.training.methods",
}
"""Every catalog and the folder that is it. A new catalog is one more line here; a new plug-in is none."""


class Options(BaseModel):
    """Base of every plug-in's `Options`: typed, frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Catalog:
    """One folder of plug-ins.

    Args:
        name: a key of PACKAGES.
        package: the dotted package; tests pass their own.
    """

    def __init__(self, name: str, package: str) -> None:
        self.name = name
        self.package = package

    def names(self) -> list[str]:
        """Return the kinds in alphabetical order, importing none of them."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.submodule_search_locations is None:
            return []
        found = pkgutil.iter_modules([str(Path(p)) for p in spec.submodule_search_locations])
        return sorted(m.name for m in found if not m.name.startswith("_"))

    def get(self, kind: str, *, place: str = "") -> ModuleType:
        """Import and return the plug-in.

        Raises:
            ConfigError: E210, no such kind; names the nearest.
        """
        if not kind.startswith("_") and (loaded := sys.modules.get(f"{self.package}.{kind}")):
            return loaded  # looked up for every row of a file: the folder is not listed again
        if kind not in self.names():
            near = difflib.get_close_matches(kind, self.names(), n=1)
            raise ConfigError(
                210,
                f"There is no {self.name.removesuffix('s')} `{kind}`",
                place=place,
                expected=", ".join(self.names()),
                fix=f"Did you mean `{near[0]}`?" if near else f"metier catalog ls {self.name}",
            )
        return importlib.import_module(f"{self.package}.{kind}")

    def options(self, kind: str, values: dict[str, Any], *, place: str = "") -> Any:
        """Return the plug-in's `Options`, filled from a recipe section without its `kind`.

        Raises:
            ConfigError: E211, an unknown key or a value out of range, with the nearest key.
        """
        schema: type[Options] = self.get(kind, place=place).Options
        try:
            return schema(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or kind
            near = difflib.get_close_matches(key, list(schema.model_fields), n=1)
            raise ConfigError(
                211,
                f"`{key}` does not fit the {self.name.removesuffix('s')} `{kind}`: {first['msg']}",
                place=place,
                received=_short(first.get("input")),
                expected=", ".join(sorted(schema.model_fields)) or "no options",
                fix=f"Did you mean `{near[0]}`?"
                if near and near[0] != key
                else f"metier catalog show {self.name} {kind}",
            ) from None

    def summary(self, kind: str) -> str:
        """Return the one line that says what the plug-in is."""
        return str(self.get(kind).summary)


@cache
def catalog(name: str) -> Catalog:
    """Return the catalog of that name.

    Raises:
        ConfigError: E210, no such catalog.
    """
    if name not in PACKAGES:
        near = difflib.get_close_matches(name, PACKAGES, n=1)
        raise ConfigError(
            210,
            f"There is no catalog `{name}`",
            expected=", ".join(PACKAGES),
            fix=f"Did you mean `{near[0]}`?" if near else "metier catalog ls",
        )
    return Catalog(name, PACKAGES[name])


def type_of(info: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> str:
    """Return the type of a JSON schema property in words, with its limits: `int ≥ 1`, `last | mean`, `list of text`."""
    definitions = definitions or info.get("$defs", {})
    if "$ref" in info:
        return type_of(definitions[str(info["$ref"]).rpartition("/")[2]], definitions)
    if "enum" in info:
        return " | ".join(map(str, info["enum"]))
    if "const" in info:
        return str(info["const"])
    if "anyOf" in info:
        return " | ".join(dict.fromkeys(type_of(part, definitions) for part in info["anyOf"]))
    if info.get("type") == "array":
        items = info.get("items")
        return f"list of {type_of(items, definitions)}" if items else "list"
    if info.get("type") == "object" and "kind" in info.get("properties", {}):
        return "kind with its options"
    limits = ", ".join(f"{sign} {info[name]:g}" for name, sign in _SIGNS.items() if name in info)
    return f"{_WORDS.get(str(info.get('type')), 'any')} {limits}".strip()


_WORDS = {"integer": "int", "number": "float", "boolean": "true | false", "string": "text", "null": "null"}
_WORDS["object"] = "mapping"
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
