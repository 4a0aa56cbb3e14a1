"""Addresses as runs of numbers, capitals, street words and units, across line ends; countries, states, postal codes.

The rules read the classes of the tokens (tokens.py). A run is an address when enough of it points to one: a street word
or a unit beside a number, the code of a state before a number, numbers beside unknown words, words such as `lives at`
before it. Places without a number are found among the names (names.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.data.privacy import lexicon as lex
from metier.data.privacy.detectors.cue import each
from metier.data.privacy.spans import Span
from metier.data.privacy.tokens import Tokens

_RUN = re.compile(
    r"[nSMmCcIRrUuZzKkaiAO]"
    r"(?:(?:[,.#/'()-]{1,3}|[,.]{0,2}\|{1,2}[\";!]{0,4},?|[xP]{1,3}\.?(?=[Rr])|P{1,3}\.?|\.?&(?=[SMCcKkn]{1,4}[Rrn])"
    r"|,?T\.?|E{1,2}(?=[Rr])"
    r"|)[nSMmCcIRrUuZzKkaiAO])*"
)
_FOLDED_RUN = re.compile(
    _RUN.pattern.replace("|)[nSM", r"|[,|]{0,2}[\";!]{0,4}x{1,2},?\|{0,2}[\";!]{0,4}(?=[Kkz])|)[nSM")
)
"""Without capitals an ordinary word may be a town: it belongs to the run when a country or a state follows."""
_EVIDENCE = (
    (re.compile(r"R"), 3),
    (re.compile(r"r"), 2),
    (re.compile(r"U[.#,]*[nai]"), 3),
    (re.compile(r"u[.#]*[na]"), 2),
    (re.compile(r"[Zz][,|-]{0,2}n"), 2),
    (re.compile(r"n[.,-]?[SMmCcI]"), 1),
    (re.compile(r"[SMCcRrO][,.]?n"), 1),
    (re.compile(r"[Kk]"), 1),
    (re.compile(r"n[^n]+n"), 1),
    (re.compile(r"^[^n]*n[^|]*\|[^SMKkZ]*[SMKkZ]"), 1),
    (re.compile(r"\|[,.]?[Zz]"), 1),
)
_STREET = re.compile(r"[SM][.'-]?[Rr]|R[P.]{0,3}[SM]|[Cc]R")
_CUE = re.compile(
    r"(?:\baddress(?:es)?|\bliv(?:es?|ed|ing)|\breside[sd]?|\blocated|\bsen[dt]|\bship(?:ped)?|\bdeliver"
    r"(?:ed)?|\bmove[d]?"
    r"|\bmeet|\breturn(?:ed)?|\bmail(?:ed)?|\bcorner|\bstreet|\boffice|\barrive[sd]?|\bhome|\bstay(?:s|ing)?|\bhouse"
    r"|\bwhere)\b[^.!?]{0,30}$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[SMmCcRUKkZ]")
_CORNER = re.compile(r"\b(?:the )?(?:corner|intersection) of (?:the )?$", re.IGNORECASE)
_ZIP_PLUS = re.compile(r"(?<![\w.,$€£/-])\d{5}-\d{4}(?![\w-])")
_POSTCODE = re.compile(
    r"(?<!\w)(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[ABD-HJLNP-UW-Z]{2}|[ABCEGHJ-NPRSTVXY]\d[A-Z] ?\d[A-Z]\d)(?!\w)"
)
_ZIP_CUED = re.compile(
    r"\b(?:zip|post(?:al)?|area)[ -]?(?:codes?)?\W{0,3}(?:(?:is|was|number|of)\W{1,3}){0,3}"
    r"([A-Z\d][A-Z\d -]{1,8}[A-Z\d])(?!\w)",
    re.IGNORECASE,
)
_NEED = 3


def find(tokens: Tokens, classes: str) -> Iterator[Span]:
    """Yield addresses, and countries and states that stand outside them.

    Args:
        tokens: the text.
        classes: its classes, with `;` where a find of another detector lies.
    """
    done = 0
    if "n" in classes or "R" in classes or "r" in classes or "a" in classes:
        for found in (_FOLDED_RUN if tokens.folded else _RUN).finditer(classes):
            first, last = found.start(), found.end()
            if not _is_address(tokens, first, last):
                continue
            first, last = _bounds(tokens, first, last)
            if first < last:
                yield from _named(tokens, done, first)
                yield Span(tokens.starts[first], tokens.ends[last - 1], "ADDRESS")
                done = last
    yield from _named(tokens, done, len(classes))


def find_codes(text: str) -> Iterator[Span]:
    """Yield postal codes that their form or a cue gives away."""
    for found in each(_ZIP_PLUS, text):
        yield Span(*found.span(), "ZIP")
    for found in _POSTCODE.finditer(text):
        yield Span(*found.span(), "ZIP")
    if "zip" in text or "ost" in text or "Zip" in text or "ZIP" in text or "OST" in text:
        for found in _ZIP_CUED.finditer(text):
            if any(map(str.isdigit, found[1])):
                yield Span(*found.span(1), "ZIP")


def _is_address(tokens: Tokens, first: int, last: int) -> bool:
    run = tokens.classes[first:last]
    if last - first < 2 or ("n" not in run and "R" not in run and "r" not in run and "a" not in run):
        return False
    if not _WORD.search(run):
        return False
    if not ("n" in run or "a" in run):
        if tokens.folded:
            return bool(re.search(r"[SM][.'-]?R|R[P.]{0,3}S", run))
        return bool(_STREET.search(run)) or bool(
            re.search(r"[Cc]r", run)
            and any(_capital(tokens, first + m.end() - 1) for m in re.finditer(r"[Cc][.'-]?r", run))
        )
    score = sum(worth for pattern, worth in _EVIDENCE if pattern.search(run))
    if "n" in run and any(_endings(tokens, first, last)):
        score += 3
    if score < _NEED and _CUE.search(tokens.text, max(0, tokens.starts[first] - 60), tokens.starts[first]):
        score += 2
    if score == 3 and "r" in run and not tokens.folded and "R" not in run and "U" not in run:
        return any(_capital(tokens, first + i) for i, c in enumerate(run) if c == "r") or "|" in run
    return score >= _NEED


def _endings(tokens: Tokens, first: int, last: int) -> Iterator[bool]:
    """Yield True for each one-word street (Hauptstraße, Laugarvegur): its ending, a capital, a number beside it."""
    for index in range(first, last):
        if tokens.classes[index] in "SMCcI" and tokens.ends[index] - tokens.starts[index] > 6:
            beside = tokens.classes[max(first, index - 1) : index + 2]
            yield "n" in beside and tokens.word(index).lower().endswith(lex.STREET_ENDINGS)


def _capital(tokens: Tokens, index: int) -> bool:
    return tokens.text[tokens.starts[index]].isupper()


def _bounds(tokens: Tokens, first: int, last: int) -> tuple[int, int]:
    """Return the run without the lines of other things around it: names above, the next sentence below."""
    run = tokens.classes[first:last]
    lines = run.split("|")
    while len(lines) > 1 and not any(c in "nRrUuZzKka" for c in lines[0]):
        first += len(lines[0]) + 1
        lines = lines[1:]
    while (
        len(lines) > 1
        and tokens.classes[last : last + 1] in _GOING_ON
        and lines[-1].strip('";!,') in ("C", "c", "I", "M")
    ):
        last -= len(lines[-1]) + 1
        lines = lines[:-1]
    run = tokens.classes[first:last]
    if tokens.classes[first - 1 : first] == "T" or tokens.classes[max(0, first - 2) : first] == "T.":
        cut = re.search(r"[nU]", run)
        first += cut.start() if cut else 0
    elif "O" in run and (cut := re.match(r"[^n|]*O[,.|]*(?=[nU])", run)):
        first += cut.end()
    while first < last and tokens.classes[first] in ",.#/'()-|\";!":
        first += 1
    if (corner := _CORNER.search(tokens.text, max(0, tokens.starts[first] - 16), tokens.starts[first])) is not None:
        while first > 0 and tokens.starts[first - 1] >= corner.start():
            first -= 1
    while first < last and tokens.classes[last - 1] in ",.#/'(-|\";!":
        last -= 1
    return first, last


_GOING_ON = ("x", ":", "P", "'")
"""What behind a line says that its last word opens a sentence."""
_PLACES = re.compile(r"K+|k+")


def _named(tokens: Tokens, first: int, last: int) -> Iterator[Span]:
    for found in _PLACES.finditer(tokens.classes, first, last):
        kind = "COUNTRY" if found[0][0] == "K" else "STATE"
        yield Span(tokens.starts[found.start()], _without_genitive(tokens, found.end() - 1), kind)


def _without_genitive(tokens: Tokens, index: int) -> int:
    start, end = tokens.starts[index], tokens.ends[index]
    return end - 2 if end - start > 3 and tokens.text[end - 2] in "'’" and tokens.text[end - 1] in "sS" else end
