"""Find what identifies people in a text: all detectors, one list of spans without overlaps.

The rules are ours and need nothing but the standard library and the word list that ships. They are made for English
text and for the names and addresses of any country in it; text in another language is over-redacted rather than missed,
since its words are not in the list. Another detector (a model, Presidio) joins by the `Detector` protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from metier.data.privacy.detectors import contact, cues, dates, names, national, numbers, phones, places
from metier.data.privacy.kinds import KINDS, PRIORITY, kinds_of
from metier.data.privacy.spans import Span, merge
from metier.data.privacy.tokens import masked, tokenise

STRUCTURED = (contact, numbers, national, phones, dates, cues)
_BLOCK = re.compile(r"(?:[^\n]|\n(?![^\S\n]*\n))+")
_IN_ADDRESSES = ("ZIP", "OTHER_ID", "ACCOUNT", "LICENSE", "MRN", "HEALTH_PLAN", "VEHICLE", "DEVICE")
"""Finds that may be a part of an address: a postal code, or a number that a far cue explained wrongly."""
_CAPITALS_SHARE = 0.01


class Detector(Protocol):
    """What an additional detector provides."""

    def find(self, text: str) -> Iterable[Span]:
        """Return spans whose kinds are keys of `kinds.KINDS`; they may overlap."""
        ...


def detect(text: str, profile: str = "gdpr", *, extra: Iterable[Detector] = ()) -> list[Span]:
    """Return the spans that a profile removes, in order, none overlapping.

    Args:
        text: any string; offsets are in characters.
        profile: `hipaa-safe-harbor` or `gdpr`.
        extra: further detectors, whose finds join ours.

    Raises:
        KeyError: no such profile.
    """
    wanted = kinds_of(profile)
    found = [*rules(text)]
    for detector in extra:
        found += [span for span in detector.find(text) if span.kind in KINDS]
    return [span for span in merge(found, PRIORITY) if span.kind in wanted and not text[span.start : span.end].isspace()]


def rules(text: str) -> list[Span]:
    """Return what our own rules find, of every kind; spans may overlap."""
    found = list(structured(text))
    certain = merge(found, PRIORITY)
    for start, end, folded in _blocks(text):
        tokens = tokenise(text, start, end, folded=folded)
        here = [span for span in certain if span.start < end and span.end > start]
        located = [*places.find(tokens, masked(tokens, [s for s in here if s.kind not in _IN_ADDRESSES]))]
        found += located
        found += names.find(tokens, masked(tokens, merge([*located, *here], PRIORITY)))
    return found


def structured(text: str) -> Iterator[Span]:
    """Yield what formats, checksums and cues give away."""
    for detector in STRUCTURED:
        yield from detector.find(text)
    yield from places.find_codes(text)


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, folded) of the parts of a text that are written in one manner."""
    yield 0, len(text), _caseless(text)


def _caseless(text: str) -> bool:
    """Return whether letters carry no case here: hardly a capital, or hardly anything else."""
    capitals = sum(map(str.isupper, text))
    letters = sum(map(str.isalpha, text))
    return capitals <= letters * _CAPITALS_SHARE or capitals >= letters * 0.85
