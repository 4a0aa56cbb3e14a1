"""What every table of benchmarks/ says about where and when it was made, and the figures' way of being written."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "numpy")


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gb() -> float:
    """Return the machine's memory in GB."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def commit() -> str:
    """Return the short commit of the checkout, `+` when it has changes, or `none`."""
    run = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=+", "--abbrev=10"]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "none"


def data_dir() -> Path:
    """Return the folder with the public data sets: METIER_DATA, else `shared/data` beside the checkout."""
    return Path(os.environ.get("METIER_DATA") or REPOSITORY.parent / "shared" / "data")


def need(path: Path) -> Path:
    """Return a file or folder of the public data sets as it is; end with a word on where it comes from if it lacks."""
    if not path.exists():
        raise SystemExit(f"{path} is not here: METIER_DATA names the data sets' folder (see benchmarks/README.md)")
    return path


def nano_dir() -> Path:
    """Return the folder of metier/nano as the installed package ships it."""
    from metier.models.files import NANO, find

    return find(NANO, revision=None, resolve=Path)


def command_line() -> str:
    """Return the command that runs this script, as it is written under its table."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def provenance(command: str, *, extra: Sequence[str] = ()) -> str:
    """Return the lines under a table: command, date, commit, machine, load, versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    lines = [
        f"Command: `{command}`",
        f"Date: {today} · commit {commit()}",
        f"Machine: {cpu_model()}, {os.cpu_count()} cores, {memory_gb():.0f} GB, {platform.system()}, "
        f"load average at the end {os.getloadavg()[0]:.1f}",
        f"Versions: Python {platform.python_version()}, {versions}",
        *extra,
    ]
    return "\n".join(f"- {line}" for line in lines)


def spread(values: Sequence[float], *, digits: int = 3, scale: float = 1.0, unit: str = "") -> str:
    """Return `median (min–max)`; a single value stands alone."""
    numbers = [v * scale for v in values]
    if not numbers:
        return "–"
    middle = f"{statistics.median(numbers):.{digits}f}{unit}"
    if len(numbers) == 1:
        return middle
    return f"{middle} ({min(numbers):.{digits}f}–{max(numbers):.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def publish(out: str, title: str, *parts: str, command: str = "", extra: Sequence[str] = ()) -> None:
    """Write a page: title, the parts that are not empty, provenance.

    Args:
        out: the file, or - for the terminal.
        command: what made it, where that is not this process's own command line.
        extra: more lines of provenance.
    """
    whole = (f"# {title}", *parts, provenance(command or command_line(), extra=extra))
    page = "\n\n".join(part for part in whole if part)
    if out == "-":
        print(page)
    else:
        Path(out).write_text(page + "\n", encoding="utf-8")


def publish_part(page: str, name: str, *parts: str) -> None:
    """Write one part of a page that several scripts share, between two marks, and print it; the others' parts stay.

    Args:
        page: the file beside the scripts.
        name: of the part.
    """
    script = Path(sys.argv[0]).name
    begin, end = f"<!-- {name}: begin (benchmarks/{script} writes this part) -->", f"<!-- {name}: end -->"
    part = "\n\n".join([begin, *parts, provenance(command_line()), end])
    file = REPOSITORY / "benchmarks" / page
    before = file.read_text(encoding="utf-8") if file.exists() else "# Data\n"
    head, _, rest = before.partition(begin)
    file.write_text(head.rstrip() + "\n\n" + part + "\n" + rest.partition(end)[2].lstrip("\n"), encoding="utf-8")
    print(part)
