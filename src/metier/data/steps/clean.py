"""Clean text: Unicode form, control characters, line ends, white space around.

Unicode Standard Annex 15 (normalization forms). Left out: HTML, mojibake repair, spelling; each of them guesses.
Labels, tool calls and meta are not text and stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Conversation, Example, Labelled, Message, Problem, Text, content_of
from metier.data.formats._messages import says_something
from metier.data.steps import StepResult, map_text

summary = "Normalise Unicode, remove control characters, unify line ends and white space"
FILTERS = False

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufff9-\ufffb]")
_BLANKS = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n{3,}")


class Options(BaseOptions):
    """What is cleaned."""

    unicode: Literal["NFC", "NFKC", "keep"] = Field(
        "NFC", description="Unicode form; NFKC also folds ligatures, widths and superscripts."
    )
    whitespace: Literal["trim", "collapse", "keep"] = Field(
        "trim",
        description="`trim`: at both ends, and at line ends; `collapse`: also runs of blanks and of empty lines.",
    )
    control_characters: bool = Field(
        True, description="Remove control and zero-width characters (tab and line feed stay; joiners stay)."
    )


SAMPLE: dict[str, Any] = {
    "options": {},
    "examples": [Text(text="Cafe\u0301 \r\nopen\x07 ")],
    "result": [Text(text="Café\nopen")],
}


def run(examples: list[Example], options: Options) -> StepResult:
    """Return the examples with clean text; one whose text is gone is dropped."""
    kept: list[Example] = []
    origins: list[int] = []
    dropped: list[tuple[str, str]] = []
    num_changed = 0
    for index, example in enumerate(examples):
        cleaned = map_text(example, lambda text: clean(text, options))
        changed = content_of(cleaned) != content_of(example)
        if changed and _empty(cleaned):
            dropped.append((example.id, "nothing left after cleaning"))
            continue
        num_changed += changed
        kept.append(cleaned if changed else example)
        origins.append(index)
    return StepResult(kept, origins, f"{num_changed:,} of {len(examples):,} rows changed", dropped)


def clean(text: str, options: Options) -> str:
    """Return the text in its clean form; cleaning twice changes nothing more."""
    if options.whitespace != "keep":
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if options.control_characters:
        text = _CONTROLS.sub("", text)
    if options.unicode != "keep":
        text = unicodedata.normalize(options.unicode, text)
    if options.whitespace == "collapse":
        text = _EMPTY_LINES.sub("\n\n", _BLANKS.sub(" ", text))
    if options.whitespace != "keep":
        text = "\n".join(line.rstrip() for line in text.split("\n")).strip()
    if options.whitespace == "collapse":
        text = _EMPTY_LINES.sub("\n\n", text)
    return text


def _empty(example: Example) -> bool:
    if isinstance(example, Text | Labelled):
        return not example.text.strip()
    if isinstance(example, Conversation):
        return any(m.role == "assistant" and not says_something(m) for m in example.messages)
    if isinstance(example, Problem):
        return not any(map(says_something, example.prompt))
    names = ("completion",) if hasattr(example, "completion") else ("chosen", "rejected")
    replies: list[tuple[Message, ...]] = [getattr(example, name) for name in names]
    return not all(any(map(says_something, reply)) for reply in replies)
