"""References: one grammar for naming what a project made, in recipes and on the command line.

data:support            the latest version of a dataset           data:support@v3      one version
run:12 · run:last       a run, its best checkpoint                run:12@step-200      one checkpoint

A run's directory stands for the run wherever only a run can be meant (`run_and_checkpoint`).
Sources and base models are named by a path or a hub id; those who read them know how.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metier.core.errors import ConfigError
from metier.core.project import Project

Kind = Literal["data", "run"]
_CHECKPOINT = r"best|last|step-\d+"
_GRAMMAR: dict[Kind, tuple[str, str]] = {
    "data": (r"[a-z0-9][a-z0-9._-]{0,63}", r"v\d+"),
    # A directory's name: beside the recipe's, which may be 64 characters long, it holds a number, a hex and the method.
    "run": (r"\d+|last|\d{4,}-[a-z0-9][a-z0-9._-]*", _CHECKPOINT),
}


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference. `version` is None where none was written: the latest, or the best."""

    kind: Kind
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"@{self.version}" if self.version else "")


def parse(text: str, *, default: Kind | None = None) -> Ref:
    """Read a reference.

    Args:
        text: such as `run:12@best`.
        default: the kind of a reference without one: `12` is a run where a run is asked for.

    Raises:
        ConfigError: E251, not a reference.
    """
    prefix, colon, rest = text.partition(":")
    kind = next((k for k in _GRAMMAR if colon and k == prefix), None)
    if kind is None:
        kind, rest = default, text
    if kind is None:
        raise _unreadable(text)
    name_pattern, version_pattern = _GRAMMAR[kind]
    match = re.fullmatch(f"(?P<name>{name_pattern})(?:@(?P<version>{version_pattern}))?", rest)
    if match is None:
        raise _unreadable(text)
    return Ref(kind, match["name"], match["version"])


def run_and_checkpoint(text: str) -> tuple[str, str]:
    """Return what names a run and what names its checkpoint, which is empty where none is named.

    Args:
        text: `12`, `run:12@best`, or the directory of a run with or without `@best`; whether there is such a run is
            not looked at.

    Raises:
        ConfigError: E251, what stands behind the `@` is no checkpoint.
    """
    named, at, checkpoint = text.rpartition("@")
    if not at or "/" in checkpoint:  # none, or one in the path of a directory
        return text, ""
    if not named or re.fullmatch(_CHECKPOINT, checkpoint) is None:
        raise _unreadable(text)
    return named, checkpoint


def dataset_dir(project: Project, text: str) -> Path:
    """Return the directory of a dataset version: `data:support`, `support@v3`.

    Raises:
        ConfigError: E251 not a reference, E252 no such dataset or version.
    """
    ref = parse(text, default="data")
    found: dict[int, Path] = {}
    folder = project.datasets_dir / ref.name
    if ref.kind == "data" and folder.is_dir():
        for child in folder.iterdir():
            match = re.fullmatch(r"v(\d+)-[0-9a-f]+", child.name)
            if match and (child / "manifest.json").is_file():
                found[int(match[1])] = child
    wanted = ref.version or f"v{max(found, default=0)}"
    number = int(wanted[1:]) if ref.kind == "data" else 0
    if number not in found:
        raise ConfigError(
            252,
            f"There is no dataset `{text}`",
            place=str(project.datasets_dir),
            expected=", ".join(f"data:{ref.name}@v{n}" for n in sorted(found))
            or ", ".join(_names(project))
            or "none exists",
            fix="metier data prepare RECIPE",
        )
    return found[number]


def _names(project: Project) -> list[str]:
    if not project.datasets_dir.is_dir():
        return []
    return sorted(f"data:{p.name}" for p in project.datasets_dir.iterdir() if p.is_dir())


def _unreadable(text: str) -> ConfigError:
    return ConfigError(
        251,
        "This is not a reference",
        received=text if len(text) <= 80 else text[:79] + "…",
        expected="data:NAME, data:NAME@v3, run:12 or run:12@best",
        fix="metier runs ls lists the runs; datasets/ holds the datasets",
    )
