"""Look at what the model will see: tokens coloured by their loss mask.

Text of rows is shown as text: control characters are made visible, so that a row cannot drive a terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from metier.data.encoded import Encoded
    from metier.data.template import Encoder

SUPERVISED, PROMPT, SPECIAL, RESET = "\x1b[32m", "\x1b[2m", "\x1b[7m", "\x1b[0m"


class Piece(NamedTuple):
    """A token as it is shown; several tokens in one where only together they make a character."""

    text: str
    supervised: bool
    special: bool


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
