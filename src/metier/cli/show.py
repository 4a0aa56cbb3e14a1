"""What the command line prints: data on stdout, talk on stderr, color only where someone looks at it."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import typer

from metier.core.errors import ConfigError

READER_GONE = 141
_IN_PROJECT = "runs|report|evaluate|compare|predict|chat|models|data card"
"""Commands whose arguments are looked up in the project around the working directory."""
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Show:
    """The way out of a command. `json`: data is printed as one JSON value, whatever its text would be."""

    json: bool = False
    printed: ClassVar[bool] = False
    """Whether this command line has put data on stdout: an error that follows must not add a second JSON document."""
    elsewhere: ClassVar[Path | None] = None
    """Root of the project that this command line is about, where it is not the one around the working directory."""

    def result(self, value: Any, text: str | None = None) -> None:
        """Print what the command was asked for on stdout: the value with `--json`, otherwise the text."""
        _print(_json(value, indent=2) if self.json else (text or "").rstrip("\n"))

    def line(self, value: Any) -> None:
        """Print one value of a stream on stdout, as one line (JSON Lines)."""
        _print(_json(value))

    def say(self, text: str = "") -> None:
        """Print talk on stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def next(self, *commands: str) -> None:
        """Say which commands come next."""
        for index, command in enumerate(commands):
            self.say(f"{'next' if index == 0 else '':<6}{style(typed(command), 'cyan')}")


def typed(text: str) -> str:
    """Return commands as they can be typed here: `metier …`, by its path where a shell would not find this `metier`.

    Those that name a run or a dataset version begin with a `cd` where the project is another one than around here.
    """
    home = f"cd {shlex.quote(str(Show.elsewhere))} && " if Show.elsewhere else ""

    def name(found: re.Match[str]) -> str:
        return found[1] + (home if found[2] and found[1] != "&& " else "") + _name()

    return re.sub(rf"(^|&& |; |: )metier(?= (?:({_IN_PROJECT})\b)?)", name, text)


def confirm(question: str) -> None:
    """Ask before something is deleted for good.

    Raises:
        typer.Abort: the answer is not yes; ConfigError: E258, stdin ended without one.
    """
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        sys.stderr.write("\n")
        raise ConfigError(258, "Nobody is here to answer", received="the end of stdin", fix="repeat it with --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Abort


def colored(stream: IO[str] | None = None) -> bool:
    """Return whether a stream (default: stderr) is a terminal that wants color (NO_COLOR and TERM=dumb do not)."""
    chosen = stream or sys.stderr
    return chosen.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def style(text: str, *names: str, stream: IO[str] | None = None) -> str:
    """Return the text with terminal styles (bold, dim, red, green, yellow, cyan); as it is where there is no color."""
    if not names or not colored(stream):
        return text
    return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns; a column whose every cell is a number (or empty) is aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    columns = list(zip(*([list(header), *cells]), strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_numeric(cell) for cell in column[1:]) for column in columns]
    lines = []
    for line in [list(header), *cells]:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def pairs(values: dict[str, object]) -> str:
    """Return `name  value` lines, names aligned; empty values are left out."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {_cell(value)}" for name, value in values.items() if value not in (None, ""))


def duration(seconds: float) -> str:
    """Return seconds as people say them: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: float) -> str:
    """Return bytes as `512 B`, `3.4 MB`, `24.0 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"


def figure(value: float | None) -> str:
    """Return a figure with four significant digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def _name() -> str:
    """What to type for the command that is running."""
    import shutil

    own = Path(sys.argv[0])
    if own.name != "metier":  # `python -m metier.cli`, or called from Python
        own = Path(sys.executable).with_name("metier")
    if not own.is_file():
        return f"{shlex.quote(sys.executable)} -m metier.cli"
    found = shutil.which("metier")
    return "metier" if found and Path(found).samefile(own) else shlex.quote(str(own.absolute()))


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)


def _print(text: str) -> None:
    if not text:
        return
    Show.printed = True
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # `metier runs logs | head`: nobody reads any more. Python's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(READER_GONE) from None


def _cell(value: object) -> str:
    if value is None:
        return ""
    return figure(value) if isinstance(value, float) else str(value)


def _numeric(text: str) -> bool:
    return text in ("", "–") or text.lstrip("+-−").replace(",", "").replace(".", "", 1).replace("e-", "", 1).isdigit()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON data")
