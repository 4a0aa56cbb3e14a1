"""Find what identifies people in a text: all detectors, one list of spans without overlaps.

The rules are ours and need nothing but the standard library and the word list that ships. They are made for English
text and for the names and addresses of any country in it; text in another language is over-redacted rather than missed,
since its words are not in the list. Another detector (a model, Presidio) joins by the `Detector` protocol.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from typing import Protocol

from metier.data.privacy import presidio
from metier.data.privacy.detectors import contact, cues, dates, names, national, numbers, phones, places
from metier.data.privacy.kinds import KINDS, PRIORITY, kinds_of
from metier.data.privacy.spans import Span, checked, merge
from metier.data.privacy.tokens import class_at_start, class_inside, masked, tokenise, usual_capitals

NUMERIC = (numbers, national, phones, cues)
_DIGIT = re.compile(r"\d")
_ADDRESSES = re.compile(r"@|\.\w|:[:/\dA-Fa-f]|[\[({<]\s?[Aa][Tt]|\s[Dd][Oo][Tt]\s|-[0-9A-Fa-f]{2}-")
"""What an e-mail, web, IP or MAC address cannot be without."""
PIECE_CHARACTERS = 2000
"""How much of a text is read at once; an address or a number is seldom cut, and then both of its halves are found."""
SHORT = 24
"""A line so short may be a part of an address, whatever its words are."""
_SENTENCE = re.compile(r"\W*([^\W\d_]*)[^.!?\n]*[.!?\n]*")
_TELLING = re.compile(r"[A-Z]{2}|[^\x00-\x7f“”‘’—–…]|\d")
_CAPITALISED = re.compile(r"[A-Z][\w']*")
_SMALL = re.compile(r"[a-z]{3,}")
_CUE = re.compile(r"[Nn]ame|[Cc]alled|call (?:me|him|her|them)|known as|goes by")
_IN_ADDRESSES = ("ZIP", "OTHER_ID", "ACCOUNT", "LICENSE", "MRN", "HEALTH_PLAN", "VEHICLE", "DEVICE")
"""Finds that may be a part of an address: a postal code, or a number that a far cue explained wrongly."""
_NO_CAPITALS = {ord(letter): None for letter in string.ascii_uppercase}
_NO_SMALL = {ord(letter): None for letter in string.ascii_lowercase}
_CAPITALS_SHARE, _ALL_CAPITALS = 0.01, 0.85


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
        KeyError: no such profile; ValueError: a span of an `extra` detector holds nothing of the text.
    """
    wanted = kinds_of(profile)
    found = [*rules(text)]
    for detector in extra:
        found += [checked(span, text) for span in detector.find(text) if span.kind in KINDS]
    return [
        span for span in merge(found, PRIORITY) if span.kind in wanted and not text[span.start : span.end].isspace()
    ]


def further(names: Iterable[str]) -> list[Detector]:
    """Return additional detectors by their names, of which there is one: `presidio`.

    Raises:
        MachineError: E450, its package is not installed.
    """
    return [presidio.detector() for name in names if name == "presidio"]


def rules(text: str) -> list[Span]:
    """Return what our own rules find, of every kind; spans may overlap."""
    if len(text) <= PIECE_CHARACTERS:
        return _in_piece(text)
    found: list[Span] = []
    for start, end in _pieces(text):
        found += [Span(s.start + start, s.end + start, s.kind) for s in _in_piece(text[start:end])]
    return found


def _in_piece(text: str) -> list[Span]:
    found = list(structured(text))
    certain = merge(found, PRIORITY)
    folded = _caseless(text)
    ranges = [(0, len(text))] if folded else _worth_reading(text)
    for start, end in ranges:
        tokens = tokenise(text, start, end, folded=folded)
        here = certain if len(ranges) == 1 else [span for span in certain if span.start < end and span.end > start]
        located = [*places.find(tokens, masked(tokens, [s for s in here if s.kind not in _IN_ADDRESSES]))]
        found += located
        found += names.find(tokens, masked(tokens, merge([*located, *here], PRIORITY) if located else here))
    return found


def structured(text: str) -> Iterator[Span]:
    """Yield what formats, checksums and cues give away."""
    if _ADDRESSES.search(text):
        yield from contact.find(text)
    digits = _DIGIT.search(text) is not None
    yield from dates.find(text, digits=digits)
    if digits:
        for detector in NUMERIC:
            yield from detector.find(text)
        yield from places.find_codes(text)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of parts of a long text, cut at an empty line, else where a sentence or a line ends.

    Nothing is read across a cut, so that the time for a text grows with its length and no faster.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        for sign in ("\n\n", ". ", "\n", " "):
            at = text.rfind(sign, start + PIECE_CHARACTERS // 4, end)
            if at > 0:
                end = at + len(sign)
                break
        yield start, end
        start = end
    yield start, len(text)


def _worth_reading(text: str) -> list[tuple[int, int]]:
    """Return the ranges of a text whose sentences may hold a name or a place, neighbours joined.

    A sentence whose capitals are ordinary words, or words that name nobody, holds none; much of prose is of that kind.
    """
    rare = usual_capitals()
    told = not rare.isdisjoint(_SMALL.findall(text))
    ranges: list[tuple[int, int]] = []
    for sentence in _SENTENCE.finditer(text):
        start, end = sentence.span()
        if (
            end - start > SHORT
            and _TELLING.search(text, start, end) is None
            and class_at_start(sentence[1]) in "xXICE&"
            and not (told and not rare.isdisjoint(_SMALL.findall(text, start, end)))
            and _CUE.search(text, start, end) is None
            and all(class_inside(word) in "XCE" for word in _CAPITALISED.findall(text, sentence.end(1), end))
        ):
            continue
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


def _caseless(text: str) -> bool:
    """Return whether letters carry no case here: hardly a capital, or hardly anything else."""
    if text.isascii():
        small = text.translate(_NO_CAPITALS)
        capitals = len(text) - len(small)
        letters = capitals + len(small) - len(small.translate(_NO_SMALL))
    else:
        capitals = sum(map(str.isupper, text))
        letters = sum(map(str.isalpha, text))
    return capitals <= letters * _CAPITALS_SHARE or capitals >= letters * _ALL_CAPITALS
