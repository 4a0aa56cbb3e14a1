"""Names of people, organisations and places: runs of suspects.

A suspect is a word that ordinary text does not know, or writes with a capital nearly always (words.py). What stands
with it belongs to it: initials, particles (`van der`), further capitals, what `and` joins it to. Titles and cues (`my
name is`) make a name of any word. Left out, after trials by others and here: lists of first names, the verb behind a
name.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

from metier.data.privacy import lexicon as lex
from metier.data.privacy.spans import Span
from metier.data.privacy.tokens import MAYBE, Tokens
from metier.data.privacy.words import share

_RUN = re.compile(
    r"(?:T\.?){0,4}(?:(?<=[T.])x(?=[SM]))?[SMmCcIiAOrRu](?:(?:[.'-]|\.?P{1,3}-?|'P|)[SMmCciAOIrRu])*(?:-P)?"
)
_CERTAIN = re.compile(r"[SMm]")
_JOINED = re.compile(r",?&|,")
_STRONG_CUE = re.compile(
    r"(?:[Nn](?:ame|AME)(?:'s|\s{1,3}(?:is|was|of)\b|\s{0,3}[:=])|(?<=[Cc]all)\s{1,3}(?:me|him|her|them)\b"
    r"|[Nn]amed\b|[Cc]alled\b"
    r"|\bknown\s{1,3}as\b|\bgoes\s{1,3}by\b|\bnée\b|(?<=\n)(?:[Ff]rom|[Tt]o|[Cc][Cc]|[Aa]ttn|[Dd]ear|[Pp]atient"
    r"|[Pp]rovider)\s?:)"
    r"\s{0,8}[\"']?(?=[^\W\d_])"
)
_SPEAKER = re.compile(r"(?:[Pp]atient|[Pp]rovider)\s?:")
_NEXT_NAME = re.compile(r",?[ \t]{1,3}(?!I\b)[A-ZÀ-ÖØ-Þ]")
_CUE_GATE = re.compile(r"[Nn]ame|NAME|[Cc]all|known as|goes by|née|\n[A-Za-z]{2,8}\s?:")
_SUFFIX = re.compile(
    r"(?:,?\s{1,2}(?:Jr|Sr|II|III|IV|MD|PhD|DDS|DVM|Esq|RN|DO|MPH|MBA|CPA|M\.D|Ph\.D)\b\.?)+", re.IGNORECASE
)
_WORDS_BEHIND = 3


def find(tokens: Tokens, classes: str) -> Iterator[Span]:
    """Yield names.

    Args:
        tokens: the text.
        classes: its classes, with `;` where a find of another detector lies.
    """
    runs = [_Run(tokens, classes, m.start(), m.end()) for m in _RUN.finditer(classes)]
    cued = _cued(tokens)
    for run in runs:
        run.judge(cued)
    _spread(runs, classes)
    for run in runs:
        if run.certain:
            yield run.span()
    if cued:
        yield from _small_names(tokens, classes, cued)


class _Run:
    """Neighbouring tokens that may be one name."""

    __slots__ = ("certain", "classes", "first", "last", "organization", "title", "titled", "tokens")

    def __init__(self, tokens: Tokens, classes: str, first: int, last: int) -> None:
        self.tokens, self.classes, self.first, self.last = tokens, classes, first, last
        self.certain = self.titled = self.organization = False
        self.title = -1

    def judge(self, cued: set[int]) -> None:
        """Say whether it is a name by itself, and trim what is not part of it."""
        found = self.classes[self.first : self.last]
        while found and found[0] == "T":
            skip = 2 if found[1:2] == "." else 1
            self.titled |= self.tokens.word(self.first).lower() in lex.SPOKEN_TITLES
            if len(found) == skip:
                break
            self.title = (
                self.first
                if self.title < 0 and self.tokens.word(self.first).lower() in lex.SPOKEN_TITLES
                else self.title
            )
            self.first += skip
            found = found[skip:]
        if found.endswith("O") and len(found) > 1:
            self.organization = True
        cue = self.first in cued
        self.certain = bool(_CERTAIN.search(found)) or self.titled or self.organization
        if cue and not self.certain and not self.tokens.folded:
            self.certain = any(c in "CcIMmiO" for c in found[:1])
        if not self.certain and not self.tokens.folded:
            self.certain = self._lonely(found)
        if self.certain and not self.titled and not cue:
            self._trim()

    def _lonely(self, found: str) -> bool:
        """Return whether a capital that stands alone among small words looks like a name or, in capitals, a place."""
        before = self.tokens.word(self.first - 1).lower() if self.first else ""
        if found in ("A", "A-A"):
            return before in lex.PLACE_CUES or before in lex.PLACE_WORDS
        if (
            found != "c"
            or before in lex.DETERMINERS
            or self.classes[self.first - 1 : self.first] not in ("x", ",", "&", ":")
        ):
            return False
        return self.classes[self.last : self.last + 1] not in ("-", "A", "n", "E", "X", "T")

    def _trim(self) -> None:
        """Leave out a word that only opens the sentence, and street or unit words without a street."""
        while self.last - self.first > 1 and self.classes[self.first] in "Iru":
            word = self.tokens.word(self.first).lower()
            if self.tokens.word(self.first) in ("St", "ST"):
                break
            if self.classes[self.first] == "I" and (share(word) or 0) >= 0.02:
                break
            self.first += 1
        while (
            self.last - self.first > 1
            and self.classes[self.last - 1] in "ru"
            and self.tokens.word(self.last - 1).islower()
        ):
            self.last -= 1
        while self.last - self.first > 1 and self.classes[self.first] in ".'-":
            self.first += 1

    def span(self) -> Span:
        first = self.title if self.title >= 0 else self.first
        start, end = self.tokens.starts[first], self.tokens.ends[self.last - 1]
        text = self.tokens.text
        if behind := _SUFFIX.match(text, end):
            return Span(start, behind.end(), "PERSON")
        if end - start > 3 and text[end - 2] in "'’" and text[end - 1] in "sS":
            end -= 2
        if self.organization:
            return Span(start, end, "ORGANIZATION")
        before = self.tokens.word(first - 1).lower() if first else ""
        return Span(start, end, "LOCATION" if before in lex.PLACE_CUES and not self.titled else "PERSON")


def _spread(runs: list[_Run], classes: str) -> None:
    """Make names of the capitals that a list joins to a name: `Sousa and Ball`, `Kovalev, Lee and Phillips`."""
    for ordered in (runs, runs[::-1]):
        for here, there in pairwise(ordered):
            if not here.certain or there.certain:
                continue
            left, right = (here, there) if here.first < there.first else (there, here)
            between = classes[left.last : right.first]
            own = classes[there.first : there.last]
            if not _JOINED.fullmatch(between) or not set(own) <= set("CcMmIi.") or len(own) > 3:
                continue
            if "&" in between or own[0] != "I":
                there.certain = True


def _cued(tokens: Tokens) -> set[int]:
    """Return the indexes of the tokens right behind a strong cue."""
    if not tokens.starts or not _CUE_GATE.search(tokens.text, tokens.starts[0]):
        return set()
    found = set()
    for match in _STRONG_CUE.finditer(tokens.text, tokens.starts[0], tokens.ends[-1]):
        index = bisect_left(tokens.starts, match.end())
        if index < len(tokens.starts) and tokens.starts[index] == match.end() and not _says(tokens, match[0], index):
            found.add(index)
    return found


def _says(tokens: Tokens, cue: str, index: int) -> bool:
    """Return whether a cue is who speaks, not a field of a form: it comes again, and an ordinary word stands behind it.

    `Patient: Sure.` in a conversation, against `Patient: Young, Grace` at the head of a letter.
    """
    speaker = _SPEAKER.match(cue)
    if speaker is None or len(re.findall(rf"^{speaker[0]}", tokens.text, re.MULTILINE)) < 2:
        return False
    known = share(tokens.word(index).lower())
    return known is not None and known < MAYBE and _NEXT_NAME.match(tokens.text, tokens.ends[index]) is None


def _small_names(tokens: Tokens, classes: str, cued: set[int]) -> Iterator[Span]:
    """Yield words behind a cue that are written small and that ordinary text does not know."""
    for index in sorted(cued):
        last = index
        while last < min(index + _WORDS_BEHIND, len(classes)) and classes[last] in "xCcP":
            word = tokens.word(last).lower()
            known = share(word)
            if (
                word in lex.FUNCTION
                or word in lex.LOWER_NEVER
                or (known is not None and known < MAYBE)
                or len(word) < 3
            ):
                break
            last += 1
        if last > index:
            yield Span(tokens.starts[index], tokens.ends[last - 1], "PERSON")
