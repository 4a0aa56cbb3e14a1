"""Look at what the model will see: tokens coloured by their loss mask, and the shape of the lengths.

Text of rows is shown as text: control characters are made visible, so that a row can neither drive a terminal nor a
browser.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from metier.data.encoded import Encoded
    from metier.data.template import Encoder

SUPERVISED, PROMPT, SPECIAL, RESET = "\x1b[32m", "\x1b[2m", "\x1b[7m", "\x1b[0m"


class Piece(NamedTuple):
    """A token as it is shown; several tokens in one where only together they make a character."""

    text: str
    supervised: bool
    special: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: lengths low ≤ length < high."""

    low: int
    high: int
    count: int


def pieces(encoded: Encoded, encoder: Encoder) -> list[Piece]:
    """Return an example token by token; the texts joined are the text that the model reads."""
    found: list[Piece] = []
    ids: list[int] = encoded.token_ids.tolist()
    waiting: list[int] = []
    shown = 0
    for position, token in enumerate(ids):
        waiting.append(token)
        text = encoder.decode_span(ids, shown, position + 1)
        last = position + 1 == len(ids)
        if text.endswith("\ufffd") and not last and len(waiting) < 4:
            continue  # part of a character: UTF-8 has at most four bytes
        special = len(waiting) == 1 and encoder.is_special(token)
        found.append(Piece(text, bool(encoded.loss_mask[position] > 0), special))
        waiting, shown = [], position + 1
    return found


def terminal(shown: Sequence[Piece], *, color: bool = True) -> str:
    """Return pieces for a terminal: supervised green, special tokens inverted; without color, supervised in ⟦ ⟧."""
    parts: list[str] = []
    for number, piece in enumerate(shown):
        text = visible(piece.text)
        if color:
            parts.append(f"{SUPERVISED if piece.supervised else PROMPT}{SPECIAL if piece.special else ''}{text}{RESET}")
            continue
        before = shown[number - 1].supervised if number else False
        after = shown[number + 1].supervised if number + 1 < len(shown) else False
        opening = "⟦" if piece.supervised and not before else ""
        closing = "⟧" if piece.supervised and not after else ""
        parts.append(f"{opening}{text}{closing}")
    return "".join(parts)


def spans(shown: Sequence[Piece]) -> str:
    """Return pieces as escaped HTML: one `<span class="token supervised special">` per token."""
    parts = []
    for piece in shown:
        names = " ".join(
            name for name, on in (("token", True), ("supervised", piece.supervised), ("special", piece.special)) if on
        )
        parts.append(f'<span class="{names}">{html.escape(visible(piece.text))}</span>')
    return "".join(parts)


def visible(text: str) -> str:
    """Return text with control and direction characters made visible; a line feed is kept behind a `⏎`."""
    return "".join(
        "⏎\n"
        if c == "\n"
        else c
        if c == "\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
        else f"\\x{ord(c):02x}"
        for c in text
    )


def histogram(
    lengths: Sequence[int] | np.ndarray[tuple[int, ...], np.dtype[np.integer]], *, bars: int = 20
) -> list[Bar]:
    """Return the histogram of lengths in at most `bars` equal bars of whole tokens; empty for no lengths."""
    values = np.asarray(lengths, dtype=np.int64)
    if not values.size:
        return []
    low, high = int(values.min()), int(values.max()) + 1
    width = max(-(-(high - low) // bars), 1)
    edges = np.arange(low, high + width, width)
    counts, _ = np.histogram(values, bins=edges)
    return [Bar(int(a), int(b), int(c)) for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)]
