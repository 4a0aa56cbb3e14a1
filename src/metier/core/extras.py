"""Optional packages and environment variables: the one place that imports the first and lists the second."""

from __future__ import annotations

import importlib
import os
import re
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal

from metier.core.errors import MachineError
from metier.core.project import disk_errors

_DISTRIBUTIONS = {"lingua": "lingua-language-detector"}
"""Import name → the name by which a package is installed, where that is another one."""

ENVIRONMENT: dict[str, str] = {
    "METIER_CONFIG_DIR": "Where the audit key lies; default `$XDG_CONFIG_HOME/metier` or `~/.config/metier`.",
    "METIER_STATE_DIR": "Where the compute slot and the audit anchors lie; default `$XDG_STATE_HOME/metier`"
    " or `~/.local/state/metier`.",
    "METIER_DATA": "Tests and benchmarks only: the folder with the public data sets.",
    "XDG_CACHE_HOME": "Where measurements of this machine and compiled code lie, in `metier/`; default `~/.cache`."
    " Safe to delete.",
    "NO_COLOR": "Any value: no color and no live block on a terminal.",
    "HF_HOME": "Where Hugging Face keeps downloaded models; Metier reads it and never downloads by itself.",
    "HF_HUB_OFFLINE": "`1`: the Hugging Face libraries use no network.",
    "CXX": "The C++ compiler of the attention kernel and of `training.torch_compile`; default: `g++`, `clang++` or"
    " `c++`, whichever is there.",
    "ONEDNN_MAX_CPU_ISA": "oneDNN's own limit of the instructions it uses; under another one the attention kernel is"
    " proved anew.",
    "OMP_NUM_THREADS": "Upper bound of the CPU threads where `training.num_threads` is `auto`.",
}
"""Every environment variable that Metier reads, and what it does. `${NAME}` in a recipe's paths may name any other."""


def need(module: str, why: str) -> ModuleType:
    """Import and return an optional package.

    Args:
        module: the module's import name, such as `peft`.
        why: what cannot be done without it, as the end of "… is needed to …".

    Raises:
        MachineError: E450, the package is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise  # the package is there and broken: hiding which of its imports failed would help nobody
        raise MachineError(
            450,
            f"The package `{root}` is needed to {why}",
            place="this Python environment",
            fix=f"pip install {_what(root)}",
        ) from None


def installed(module: str) -> str | None:
    """Return the version of an installed package, by its import name, without importing it, or None."""
    try:
        return metadata.version(_DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """Return extra → its packages, as `pyproject.toml` declares them."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires("metier") or ():
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?[^;]*;.*extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if match:
            found.setdefault(match[2], []).append(match[1].lower())
    return found


def user_dir(kind: Literal["config", "state"]) -> Path:
    """Return the user's own directory for Metier, made with mode 0700 where it does not exist.

    Raises:
        MachineError: E420–E422, it cannot be made.
    """
    base = {"config": "~/.config", "state": "~/.local/state"}[kind]
    variable = f"METIER_{kind.upper()}_DIR"
    chosen = os.environ.get(variable)
    folder = Path(chosen) if chosen else Path(os.environ.get(f"XDG_{kind.upper()}_HOME") or base) / "metier"
    try:
        folder = folder.expanduser()
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Something else than a folder is in the way; `~` of a user that there is not.
    except (FileExistsError, NotADirectoryError, FileNotFoundError, RuntimeError):
        raise MachineError(
            421,
            "This place cannot be written",
            place=str(folder),
            received=f"{variable}={chosen}" if chosen else "",
            expected="a folder, or the name of one to be made",
            fix=f"set {variable} to such a folder",
        ) from None
    return folder


def cache_dir() -> Path:
    """Return where measurements of this machine and compiled code lie: per user, safe to delete; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metier"


def _what(module: str) -> str:
    package = _DISTRIBUTIONS.get(module, module)
    for extra, packages in extras().items():
        if package.lower().replace("_", "-") in packages and extra != "dev":
            return f"'metier[{extra}]'"
    return package
