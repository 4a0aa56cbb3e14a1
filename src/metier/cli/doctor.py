"""What `metier doctor` looks at. Nothing here changes anything or uses the network."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from metier import __version__
from metier.cli.show import size
from metier.core import jobs
from metier.core.errors import MetierError
from metier.core.extras import ENVIRONMENT, extras, installed, user_dir
from metier.core.project import Project

CORE_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "scikit-learn", "matplotlib")
LOW_DISK_BYTES = 2e9


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report. `info` is neither good nor bad."""

    level: Literal["ok", "missing", "info"]
    name: str
    text: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as JSON data."""
        return asdict(self)


def findings() -> list[Finding]:
    """Return everything the doctor sees on this machine."""
    return [
        _python(),
        *_packages(),
        _device(),
        _machine(),
        _disk(),
        _base(),
        _slot(),
        _home(),
        _project(),
        *_variables(),
    ]


def _python() -> Finding:
    return Finding(
        "ok", "metier", f"{__version__} on Python {platform.python_version()}, {platform.platform(terse=True)}"
    )


def _packages() -> list[Finding]:
    found = []
    for name in CORE_PACKAGES:
        version = installed(name)
        fix = "pip install -c constraints.txt metier"
        found.append(Finding("ok" if version else "missing", name, version or "not installed", "" if version else fix))
    for extra, packages in extras().items():
        if extra != "dev":
            have = [f"{p} {installed(p)}" for p in packages if installed(p)]
            found.append(
                Finding("info", f"extra {extra}", ", ".join(have) or f"not installed: pip install 'metier[{extra}]'")
            )
    return found


def _device() -> Finding:
    if installed("torch") is None:
        return Finding("missing", "device", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("ok", "device", f"cuda: {names}")
    if torch.backends.mps.is_available():
        return Finding("ok", "device", "mps")
    return Finding(
        "ok", "device", f"cpu, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"
    )


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("ok", "machine", f"{os.cpu_count()} cores, {size(memory)} of memory")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free < LOW_DISK_BYTES:
        return Finding("missing", "disk", f"only {size(free)} free here", "free space, or work on another disk")
    return Finding("ok", "disk", f"{size(free)} free here")


def _base() -> Finding:
    from importlib.resources import files

    place = files("metier") / "models" / "assets" / "nano" / "config.json"
    if place.is_file():
        return Finding("ok", "metier/nano", "the small base model that ships with Metier")
    return Finding("missing", "metier/nano", "the shipped base model is not in this installation", "reinstall metier")


def _slot() -> Finding:
    try:
        holder = jobs.slot_holder()
    except (MetierError, OSError):
        return Finding("missing", "compute slot", "its file cannot be read", "set METIER_STATE_DIR")
    if holder is None:
        return Finding("ok", "compute slot", "free")
    return Finding(
        "info", "compute slot", f"taken by {holder.get('run', 'another run')} (process {holder.get('pid', '?')})"
    )


def _home() -> Finding:
    try:
        folders = [user_dir("config"), user_dir("state")]
    except MetierError as error:
        return Finding(
            "missing", "own folders", f"{error.what}: {error.place}", "set METIER_CONFIG_DIR and METIER_STATE_DIR"
        )
    closed = [str(f) for f in folders if not os.access(f, os.W_OK)]
    if closed:
        return Finding("missing", "own folders", f"not writable: {', '.join(closed)}", "set METIER_STATE_DIR")
    return Finding("ok", "own folders", ", ".join(map(str, folders)))


def _project() -> Finding:
    try:
        project = Project.find()
    except MetierError as error:
        return Finding("info", "project", f"none here ({error.code})", "metier init")
    return Finding("ok", "project", f"{project.name} in {project.root}, {len(project.run_dirs())} runs")


def _variables() -> list[Finding]:
    return [Finding("info", name, f"= {os.environ[name]}") for name in ENVIRONMENT if name in os.environ]
