"""Reverse surrogates: what a vault replaced, put back into a text.

A name or a place goes back word by word, in the case in which it stands; a phone or an account number as a whole.
Invented words are in no word list (surrogates.py), so that they mean a surrogate wherever they stand; a number is
taken for one only where the rules find an identifier, since other numbers may look like it, or where it is the whole
value of a column that was replaced.

Left out, because the vault does not hold it: days and months of dates, ages over 89, and the blanks inside a value,
which come back as they stood the first time.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metier.data.privacy.engine import detect
from metier.data.privacy.kinds import KINDS
from metier.data.privacy.spans import Span
from metier.data.privacy.surrogates import Vault

_TOKEN = re.compile(r"[^\W_]+")
_CERTAIN = 8
"""Digits from which a number is a surrogate wherever it stands."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A text with its identifiers, how many were put back, and how many stand for several values and were left."""

    text: str
    num_restored: int = 0
    num_open: int = 0


class Reversal:
    """A vault read backwards; made once, used for many texts."""

    def __init__(self, vault: Vault) -> None:
        self.words = dict(vault.entries.get("WORD", {}).values())
        self.parts: defaultdict[str, set[str]] = defaultdict(set)
        for made, value in vault.entries.get("PART", {}).values():
            self.parts[made].add(value)
        self.values: dict[str, str] = {}
        self.shapes: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        """First word or number of a surrogate → (what stands before it, length) of those that begin so."""
        for kind, known in vault.entries.items():
            for made, value in known.values() if kind not in ("WORD", "PART") else ():
                if first := _TOKEN.search(made):
                    self.values[made] = value
                    self.shapes[first[0]].add((first.start(), len(made)))

    def restore(self, text: str) -> Restored:
        """Return the text with what its surrogates stand for."""
        spans: list[Span] | None = None
        pieces, end, num_open, num_restored = [], 0, 0, 0
        for token in _TOKEN.finditer(text):
            if token.start() < end:
                continue
            start, stop, values = self._found(text, token)
            if not values or start < end:
                continue
            made = text[start:stop]
            short = not any(map(str.isalpha, made)) and sum(map(str.isdigit, made)) < _CERTAIN
            if short or made in self.parts:
                spans = detect(text) if spans is None else spans
                if not any(span.start <= start and stop <= span.end for span in spans):
                    continue
            if len(values) > 1:
                num_open += 1
                continue
            pieces += [text[end:start], next(iter(values))]
            end = stop
            num_restored += 1
        return Restored("".join([*pieces, text[end:]]), num_restored, num_open)

    def whole(self, text: str) -> Restored:
        """Return what a value stands for that is a surrogate as a whole, of any length; else as `restore`."""
        value = self.values.get(text)
        return self.restore(text) if value is None else Restored(value, 1)

    def _found(self, text: str, token: re.Match[str]) -> tuple[int, int, set[str]]:
        """Return the place of the surrogate that begins with this word or number, and what it may stand for."""
        for before, length in sorted(self.shapes.get(token[0], ()), key=lambda shape: -shape[1]):
            start = token.start() - before
            stop = start + length
            value = self.values.get(text[max(start, 0) : stop])
            goes_on = stop < len(text) and text[stop - 1 : stop + 1].isalnum()
            if value is not None and not goes_on:
                return start, stop, {value}
        low = token[0].lower()
        if low in self.words:
            return *token.span(), {_in_case(self.words[low], token[0])}
        return *token.span(), self.parts.get(token[0], set())


def replaced_columns(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the columns of a version whose whole values surrogates replaced → the kinds that they were taken for."""
    found: dict[str, list[str]] = {}
    for step in manifest["steps"]:
        options = step["options"]
        if step["name"] == "deidentify" and options.get("strategy") == "surrogate":
            for column, action in options.get("columns", {}).items():
                if action in KINDS:
                    found.setdefault(column, []).append(action)
    return found


def _in_case(value: str, like: str) -> str:
    """Return a value in the case of its surrogate; `McDonald` stays as it is where that begins with a capital."""
    if like.isupper():
        return value.upper()
    if like[0].isupper():
        return value.capitalize() if value.isupper() or value.islower() else value
    return value.lower()
