"""Clean text: Unicode form, control characters, line ends, white space around; on request markup and broken encodings.

Unicode Standard Annex 15 (normalization forms); ftfy (Speer, 2019) for text that was decoded with the wrong encoding,
of which only the encoding is repaired: quotes, ligatures and widths stay. Both guess, and so neither is on by itself.
Left out: spelling. Labels, tool calls, names of speakers and meta are not text and stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any, Literal

from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.extras import need
from metier.core.types import Conversation, Example, Labelled, Message, Problem, Text
from metier.data.formats._messages import says_something
from metier.data.markup import plain_text
from metier.data.spool import Examples, Rewritten
from metier.data.steps import ALONE, Around, Sign, StepResult, map_text

summary = "Normalise Unicode, control characters and white space; on request strip HTML and repair encodings"
SIGN = Sign("E338", "rows with control characters, loose white space or another Unicode form")
FILTERS = False

_WHY = "repair encodings (clean.repair_encoding)"
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
    html: Literal["keep", "strip", "main"] = Field(
        "keep",
        description="`strip`: tags, scripts and styles go, block elements become line breaks, entities characters;"
        " `main`: menus, headers, footers and forms go too. Markdown code and what only looks like a tag stay.",
    )
    repair_encoding: bool = Field(
        False, description="Repair text that was decoded with the wrong encoding (`cafÃ©`); needs `metier[curate]`."
    )


SAMPLE: dict[str, Any] = {
    "options": {},
    "examples": [Text(text="Cafe\u0301 \r\nopen\x07 ")],
    "result": [Text(text="Café\nopen")],
}


def packages(options: Options) -> list[tuple[str, str]]:
    """Return the optional packages that these options use, and why."""
    return [("ftfy", _WHY)] if options.repair_encoding else []


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples with clean text; one whose text is gone is dropped.

    Raises:
        MachineError: E450, `repair_encoding` without ftfy.
    """
    made = Rewritten(examples)
    dropped: list[tuple[str, str]] = []
    num_changed = 0
    if options.repair_encoding:
        _repairs()  # said before the first row, not at the first row that is not ASCII
    for index, example in enumerate(examples):
        cleaned = map_text(example, lambda text: clean(text, options), around)
        changed = cleaned is not example
        if changed and _empty(cleaned):
            dropped.append((example.id, "nothing left after cleaning"))
            continue
        num_changed += changed
        if changed:
            made.add(index, cleaned)
        else:
            made.keep(index, example)
    return StepResult(made.examples, made.origins, f"{num_changed:,} of {len(examples):,} rows changed", dropped)


def clean(text: str, options: Options) -> str:
    """Return the text in its clean form; cleaning twice changes nothing more.

    But for `html`: `&amp;lt;` is `&lt;` after once and `<` after twice.
    """
    if options.html != "keep":
        text = plain_text(text, main=options.html == "main")
    if options.repair_encoding and not text.isascii():
        text = _repaired(text)
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


@cache
def _repairs() -> Any:
    """Return ftfy, and its settings with everything off that is not about encodings."""
    ftfy = need("ftfy", _WHY)
    off = {"unescape_html", "remove_terminal_escapes", "fix_latin_ligatures", "fix_character_width", "uncurl_quotes"}
    off |= {"fix_line_breaks", "fix_surrogates", "remove_control_chars", "explain"}
    return ftfy, ftfy.TextFixerConfig(normalization=None, **dict.fromkeys(off, False))


def _repaired(text: str) -> str:
    ftfy, settings = _repairs()
    return str(ftfy.fix_text(text, settings))


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
