"""Telephone and fax numbers: by a format that is strong enough alone, else by a cue.

Strong are: a country code with + or 00; the forms of the North American plan with separators, also 1-800-555-0199 and
letters; an area code in brackets; a leading zero with groups; other groups of digits in the middle of a sentence, where
they do not look like thousands of something. Digits that stand in a row of numbers (a table) are none
without a cue: of random groups far too many look like somebody's national form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.data.privacy.detectors.cue import cue_of, num_digits
from metier.data.privacy.spans import Span

FEWEST_DIGITS = 6
_CANDIDATE = re.compile(
    r"(?<![\w/+$€£#-])(?<!\d[ .,])(?<![$€£]\.)(?:\+\s?|\()?\d(?:[\d]|[ .()/–-]{1,2}(?=[\d(])|\)\s{0,2}(?=\d)|\)[-./]"
    r"(?=\d)){4,24}(?!\w(?<!x)|x(?!\d))"
)
_EXTENSION = re.compile(r"\s?(?:x|ext\.?|extension|#|durchwahl|poste)\s?\.?\d{1,6}(?!\w)", re.IGNORECASE)
_NORTH_AMERICA = re.compile(
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\)\s?[ .-]?|[2-9]\d{2}[.-]|[2-9]\d{2} )[2-9]\d{2}[ .-]\d{4}$"
    r"|1[ .-][2-9]\d{2}[ .-]\d{3}[ .-]\d{4}$"
)
_LOOSE_NORTH_AMERICA = re.compile(r"(?:\+?0{0,2}1[ .-]?)?(?:\(\d{3}\)\s?[ .-]?|\d{3}[.-])\d{3}[.-]\d{4}$")
_VANITY = re.compile(
    r"(?<![\w-])(?:\+?1[ .-])?\(?8(?:00|33|44|55|66|77|88)\)?[ .-](?=[\dA-Z-]{0,9}[A-Z])[A-Z0-9]{3,10}"
    r"(?:-[A-Z0-9]{2,7}){0,2}(?![\w-])"
)
_INTERNATIONAL = re.compile(r"(?:\+|00(?=[1-9]))\s?\(?[1-9]")
_BRACKETED = re.compile(r"(?:\d{1,3}[ -]?)?\(0?\d{1,5}\)[ -]?\d{2,4}(?:([ -]?)\d{2,5}(?:\1\d{2,5})?)?$")
_TRUNK = re.compile(
    r"0[1-9]\d{0,4}(?:[ /–-]|\)\s?)\d{2,8}(?:[ .–-]\d{2,5}){0,4}$|0[1-9](?:[ .]\d{2}){4}$|0\d{2}[ -]\d{3,4}[ -]\d{3,5}$"
)
_DATE_LIKE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?: \d{1,2})?$|(?:19|20)\d{2}[-–/ ](?:19|20)?\d{2}$")
_AMOUNT_BEHIND = re.compile(r"[,.]\d|\s?(?:%|€|\$|£|kg|mg|km|usd|eur)(?![^\W_])", re.IGNORECASE)
_AMOUNT_BEFORE = re.compile(r"[$€£]\s?$|(?:usd|eur)\s?$", re.IGNORECASE)


def find(text: str) -> Iterator[Span]:
    """Yield telephone and fax numbers with their extensions."""
    for found in _CANDIDATE.finditer(text) if num_digits(text) >= FEWEST_DIGITS else ():
        start, value = found.start(), found[0]
        end = found.end()
        if value.count("(") > value.count(")"):  # an open bracket belongs to the sentence
            if value.count("(") == 1 and value.startswith("("):
                start, value = start + 1, value[1:]
            else:
                value = value[: value.rindex("(")].rstrip(" .-/")
                end = start + len(value)
        kind = _kind(text, start, end, value)
        if kind:
            extension = _EXTENSION.match(text, end)
            yield Span(start, extension.end() if extension else end, kind)
    if "8" in text:
        for found in _VANITY.finditer(text):
            yield Span(*found.span(), "PHONE")


def _kind(text: str, start: int, end: int, value: str) -> str:
    digits = sum(map(str.isdigit, value))
    if (
        not FEWEST_DIGITS <= digits <= 16
        or _AMOUNT_BEHIND.match(text, end)
        or _AMOUNT_BEFORE.search(text, max(0, start - 5), start)
    ):
        return ""
    alone = not _in_a_row(text, start, end)
    strong = (
        (bool(_INTERNATIONAL.match(value)) and digits >= (8 if value[0] == "+" else 10) and (value[0] == "+" or alone))
        or (alone and bool(_NORTH_AMERICA.match(value) or _LOOSE_NORTH_AMERICA.match(value)))
        or (alone and digits >= 7 and bool(_BRACKETED.match(value)) and not _in_table(text, start, end))
        or (alone and 7 <= digits <= 12 and _grouped(text, start, end, value))
        or (alone and 8 <= digits <= 12 and bool(_TRUNK.match(value)) and not _DATE_LIKE.match(value))
    )
    cue = cue_of(text, start)
    extension = _EXTENSION.match(text, end)
    if behind := _CUE_BEHIND.match(text, extension.end() if extension else end):
        cue = "FAX" if "fax" in behind[0].lower() else "PHONE"
    if cue == "FAX":
        return "FAX"
    if cue == "PHONE":
        return "" if _DATE_LIKE.match(value) and digits < 9 else "PHONE"
    return "PHONE" if strong and (not cue or value[0] in "+(") else ""


_GROUPS = re.compile(r"\d{1,5}(?:([ -])\d{2,4})(?:\1\d{2,5}){0,3}$|\d{2,3}(?:\.\d{2,4}){2,4}$|0[1-9]\d{7,9}$")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?: \d{3})+$")
_CUE_BEHIND = re.compile(
    r"\s{0,3}[-–(\[]?\s?(?:office|cell|mobile|home|work|fax|phone|tel|direct|main|voice|pager)(?![^\W_])(?!\s[a-z])",
    re.IGNORECASE,
)
_WORDS_BEFORE = re.compile(r"[^\W\d_]{2,}[,:]?\s[^\W\d_]{2,}\W{1,3}$")
_WORD_BEHIND = re.compile(r"\s(?!or\b|and\b|if\b|for\b|to\b|is\b|but\b|at\b|when\b|so\b|again\b|instead\b)[a-z]")
_NUMERIC_LINE = re.compile(r"[\s\d,.;|+()/-]*\d[\s\d,.;|+()/-]*\Z")
_PAIR = re.compile(r"\d\)?[ \t,;|]{1,9}[-+(]?\d")
_QUANTITY = re.compile(
    r"\b(?:of|about|approximately|nearly|over|than|total|sum|population|costs?|between|from|pages?|rows?|apt"
    r"|apartment|suite|ste|unit|flat|floor|room|box|no|nr)\W{1,2}$",
    re.I,
)


def _grouped(text: str, start: int, end: int, value: str) -> bool:
    """Return whether groups of digits in a sentence are a telephone number: no date, no thousands, no table."""
    if not _GROUPS.match(value) or _DATE_LIKE.match(value):
        return False
    above, below, before, behind = _lines_around(text, start, end)
    alone = not text[above + 1 : start].strip(" \t>*•-") and not text[end : below if below >= 0 else None][:200].strip()
    if not alone and not _WORDS_BEFORE.search(text, max(0, start - 40), start):
        return False
    if alone and (_NUMERIC_LINE.match(before) or _NUMERIC_LINE.match(behind) or not (before or behind)):
        return False
    if _QUANTITY.search(text, max(0, start - 16), start) or (_THOUSANDS.match(value) and _WORD_BEHIND.match(text, end)):
        return False
    return not _in_table(text, start, end)


def _in_table(text: str, start: int, end: int) -> bool:
    """Return whether the line above or below holds numbers side by side."""
    _, _, before, behind = _lines_around(text, start, end)
    return bool(_PAIR.search(before) or _PAIR.search(behind))


def _lines_around(text: str, start: int, end: int) -> tuple[int, int, str, str]:
    """Return where the line begins (its newline) and ends (or −1), and up to 200 characters of the ones around it."""
    above, below = text.rfind("\n", 0, start), text.find("\n", end)
    before = text[max(text.rfind("\n", 0, max(0, above)) + 1, above - 200) : max(0, above)]
    return above, below, before, text[below + 1 : below + 200].partition("\n")[0] if below >= 0 else ""


_NEIGHBOUR_BEFORE = re.compile(r"\d[ \t,;|]{1,6}$")
_NEIGHBOUR_BEHIND = re.compile(r"[ \t,;|]{1,6}[-+(]?\d")


def _in_a_row(text: str, start: int, end: int) -> bool:
    """Return whether other numbers stand right before or behind on the line."""
    return bool(_NEIGHBOUR_BEHIND.match(text, end) or _NEIGHBOUR_BEFORE.search(text, max(0, start - 7), start))
