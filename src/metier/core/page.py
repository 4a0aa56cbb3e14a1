"""What every report shares: numbers in words, text made safe to show, the templates, the style sheet and its lock.

The data room and the evaluation room never import each other, and their pages look alike because of this file.
Text of a row or of a model is only ever shown as text: `visible` makes control and direction characters visible,
the page's policy (`policy`) allows one style sheet, by its digest, and no script, image, font or network at all.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Literal

MISSING = "–"
THIN = "\u00a0"
"""No-break space between a number and its unit."""

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_PICTURES = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {127: "\u2421"}
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_BLANKS = re.compile(r"[^\S\u00a0]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~$])")


# ───────────────────────────────────────────────────────────────────────────── text


def visible(text: str) -> str:
    """Return the text with invisible troublemakers made visible.

    C0 controls become their pictures (`␀`), C1 controls, direction overrides, lone surrogates and noncharacters
    become `⟨U+202E⟩`. Tabs, line ends and joiners (emoji, Arabic) stay. CRLF and CR become line feeds.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    code = ord(char)
    if code in _PICTURES:
        return _PICTURES[code]
    if 0x80 <= code < 0xA0 or code in _DIRECTION or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE:
        return f"⟨U+{code:04X}⟩"
    return char


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` characters, with how many were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit].rstrip()} … (+{len(text) - limit:,} characters)"


def label(text: object, columns: int = 28) -> str:
    """Return a one-line name that is at most `columns` wide; East Asian wide characters count two."""
    line = " ".join(visible(str(text)).split())
    width = 0
    kept: list[str] = []
    for char in line:
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width > columns:
            return "".join(kept).rstrip() + "…"
        kept.append(char)
    return line


def markdown(text: str) -> str:
    """Return one line of text escaped for Markdown, table cells included."""
    return _MARKDOWN.sub(r"\\\1", _BLANKS.sub(" ", visible(text)).strip()).replace("\\<", "&lt;").replace("\\>", "&gt;")


def fence(text: str, limit: int = 1200) -> str:
    """Return text as a fenced block whose fence is longer than any in the text."""
    body = shorten(visible(text), limit)
    ticks = "`" * max(3, _longest_ticks(body) + 1)
    return f"{ticks}text\n{body}\n{ticks}"


def code(text: str, limit: int = 400) -> str:
    """Return one line of text as a Markdown code span, backticks inside included."""
    body = " ".join(shorten(visible(text), limit).split())
    ticks = "`" * (_longest_ticks(body) + 1)
    return f"{ticks} {body} {ticks}" if "`" in body else f"`{body}`"


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


# ───────────────────────────────────────────────────────────────────────────── numbers


def number(value: float | None, unit: str = "", *, sign: bool = False) -> str:
    """Return a figure for a reader: shares as percent with one decimal, others with four digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return MISSING
    plus = "+" if sign and value > 0 else ""
    if unit == "share":
        text = f"{100 * value:.1f}{THIN}" + ("points" if sign else "%")
    else:
        text = _digits(value) + (THIN + unit if unit else "")
    return (plus + text).replace("-", "−", 1) if value < 0 else plus + text


def apart(value: float, limit: float, digits: int = 3) -> str:
    """Return a figure with as many significant digits as it takes to see on which side of a limit it lies.

    0.9196 beside a limit of 0.92 is not `0.92`; beside 0.9 it is.
    """
    for size in range(digits, 17):
        text = f"{value:.{size}g}"
        if (float(text) < limit, float(text) > limit) == (value < limit, value > limit):
            return text
    return repr(value)


def _digits(value: float) -> str:
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{value:.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 0.001:
        return f"{value:.{2 if size >= 10 else 3}f}"
    return f"{value:.2g}"


def interval(low: float | None, high: float | None, unit: str = "", *, sign: bool = False) -> str:
    """Return `92.1–94.0 %`; with `sign`, `+1.2 to +3.4 points`; empty without bounds."""
    if low is None or high is None:
        return ""
    first, last = number(low, unit, sign=sign), number(high, unit, sign=sign)
    tail = last[last.index(THIN) :] if THIN in last else ""
    return first.removesuffix(tail) + (" to " if sign or low < 0 else "–") + last


def duration(seconds: float | None) -> str:
    """Return a time as a person says it: `12 s`, `4 min 20 s`, `3 h 5 min`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    named = [f"{value}{THIN}{unit}" for value, unit in parts if value]
    return " ".join(named[:2])


def size(num_bytes: float | None) -> str:
    """Return bytes in decimal units, `1.3 GB`."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return MISSING
    value = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f}{THIN}{unit}" if unit == "bytes" else f"{value:.3g}{THIN}{unit}"
        value /= 1000
    return f"{value:.3g}{THIN}TB"


def moment(created: str) -> str:
    """Return an RFC 3339 time in UTC as a reader says it, `1 August 2026, 09:30 UTC`; other text as it is."""
    try:
        time = datetime.fromisoformat(created).astimezone(UTC)
    except ValueError:
        return created
    return f"{time.day} {_MONTHS[time.month - 1]} {time:%Y, %H:%M} UTC"


# ───────────────────────────────────────────────────────────────────────────── the page


@cache
def style() -> str:
    """Return the style sheet of every report."""
    return files("metier.core").joinpath("page.css").read_text(encoding="utf-8")


@cache
def templates(package: str, form: Literal["html", "md"], longest: int) -> Any:
    """Return the jinja environment over a package's `templates` and the parts that all pages share.

    Whatever an expression yields is cut to `longest` characters, made visible and escaped (for HTML or Markdown)
    unless it is markup already: a template cannot forget to.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        text = shorten(visible(value), longest)
        return text if form == "html" else markdown(text)

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("metier.core", "templates")]),
        autoescape=form == "html",
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "number": number,
            "count_of": lambda n: f"{n:,}",
            "file_name": lambda path: str(path).replace("\\", "/").rsplit("/", 1)[-1],
            "markup": Markup,
            "fence": lambda text: Markup(fence(text)),
            "code": lambda text: Markup(code(str(text))),
        }
    )
    environment.globals.update(interval=interval, moment=moment, css=style(), policy=policy(style()))
    return environment


def squeezed(text: str) -> str:
    """Return Markdown with at most one empty line in a row, and one line end at the end."""
    lines: list[str] = []
    for line in (line.rstrip() for line in text.split("\n")):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).rstrip() + "\n"


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested plain data as (`name: inner name`, text): booleans in words with a symbol, numbers short."""
    if isinstance(value, Mapping):
        start = f"{prefix}: " if prefix else ""
        return [pair for key, item in value.items() for pair in flat(item, start + str(key).replace("_", " "))]
    if isinstance(value, bool):
        return [(prefix, "yes" if value else "no")]
    if isinstance(value, float):
        return [(prefix, number(value))]
    if isinstance(value, int):
        return [(prefix, f"{value:,}")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [(prefix, ", ".join(str(item) for item in value) or MISSING)]
    return [(prefix, MISSING if value is None or value == "" else str(value))]


def cell(value: Any) -> str:
    """Return a table cell's text; what is not stated is said so, since for a license that is a finding."""
    if value is None or value in ("", [], (), {}):
        return "not stated"
    return "; ".join(f"{name} {text}" if name else text for name, text in flat(value))


SOURCE_HEADER = ("Source", "Split", "Rows", "Format", "License", "Legal basis", "Purpose", "Personal data")


def source_row(source: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one line about a source under SOURCE_HEADER; its permission may stand inside or beside the other keys."""
    permission = {**source, **(source.get("permission") or {})}
    keys = ("path", "split", "rows", "format", "license", "basis", "purpose", "personal_data")
    return tuple(cell(permission.get(key)) for key in keys)


def policy(css: str) -> str:
    """Return the page's Content-Security-Policy: this style sheet, known by its SHA-256, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
