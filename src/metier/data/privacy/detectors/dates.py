"""Dates with more than a year, with their time of day, in the forms that people write; ages over 89.

Left out: seasons, quarters, years alone (Safe Harbor lets the year stay).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.data.privacy.detectors.cue import each
from metier.data.privacy.spans import Span

_MONTHS = (
    "january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul|aug"
    "|sept|sep|oct|nov|dec|januar|februar|märz|mai|juni|juli|oktober|dezember|janvier|février|fevrier|mars|avril|juin"
    "|juillet|août|aout|septembre|octobre|novembre|décembre|decembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto"
    "|septiembre|octubre|noviembre|diciembre|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre"
    "|januari|februari|maart|mei|augustus|janeiro|fevereiro|março|maio|junho|julho|setembro|outubro|novembro|dezembro"
)
_DAYS = (
    r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|montag|dienstag|mittwoch|donnerstag|freitag"
    r"|samstag"
    r"|sonntag|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche"
)
_TIME = (
    r"(?:(?:,|\s+at|\s*[-–]|\s+um|T|t)?\s*\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?\s?(?:[ap]\.?m\b\.?)?"
    r"(?:\s?(?:Z\b|UTC|GMT|[A-Z]{3,4}\b|[+-]\d{2}:?\d{2}))?)?"
)
_YEAR = r"(?:1[5-9]|20|21)\d{2}"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_ORDINAL = rf"{_DAY}(?:st|nd|rd|th|er|\.|º)?"

_NUMERIC = re.compile(
    rf"(?<![\w.,/$€£-])(?=\d)(?:{_YEAR}([-/.])(?:{_MONTH}\1{_DAY}|{_DAY}\1{_MONTH})"  # 2020-03-05, 2020/03/05
    rf"|(?:{_MONTH}([-/.])\s?{_DAY}|{_DAY}([-/.])\s?{_MONTH})(?:\2|\3)\s?(?:{_YEAR}|'?\d{{2}})"  # 03/05/2020, 5.3.20
    rf"|{_YEAR}年\s?{_MONTH}月\s?{_DAY}日|{_MONTH}月{_DAY}日"
    rf"|{_YEAR}-W\d{{2}}(?:-\d)?|{_YEAR}-[0-3]\d{{2}}(?!\d)"
    rf"|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:T\d{{4,6}}Z?)?)"
    rf"(?![\d/-]|\.\d){_TIME}(?!\w)"
)
_NAMED = re.compile(
    rf"(?<![\w.])(?=[\dJFMASONDEGIjfmasondegi])(?:{_DAY}[- ]?(?:{_MONTHS})[- ]?(?:{_YEAR}|\d{{2}})(?!\d)"
    rf"|{_ORDINAL}\s?(?:of\s+|de\s+|day of\s+)?(?:{_MONTHS})\.?(?:(?:,|\s+de|\s+del|\s+of)?\s*(?:{_YEAR}|'\d{{2}}))?"
    rf"|(?:{_MONTHS})\.?[- ](?:the\s+)?{_ORDINAL}(?:[-–]{_ORDINAL})?(?!\d|[.,]?\d|:)(?:,?[-\s]+(?:{_YEAR}|'\d{{2}})"
    rf"(?!\d))?"
    rf"|{_YEAR}[- ](?:{_MONTHS})[- ]{_ORDINAL}"  # 2020-Mar-05
    rf"|(?:{_MONTHS})\.?,?(?:\s+of)?[\s-]+(?:{_YEAR}|'\d{{2}})(?!\d)"  # March 2020
    rf")(?![^\W\d_]){_TIME}",
    re.IGNORECASE,
)
_WEEKDAY_ALONE = re.compile(r"(?<![^\W\d_])(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day(?![^\W\d_])", re.IGNORECASE)
_WEEKDAY_BEFORE = re.compile(rf"(?<![^\W\d_])(?:{_DAYS})\.?,?\s+(?:the\s+|den\s+|le\s+)?$", re.IGNORECASE)
_ORDINAL_WORDS = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth"
    "|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_DAY_IN_WORDS = rf"(?:(?:twenty|thirty)[- ])?(?:{_ORDINAL_WORDS})"
_SPELT = re.compile(
    rf"(?<![^\W\d_])(?:(?:{_MONTHS})\s+(?:the\s+)?{_DAY_IN_WORDS}"
    rf"|(?:the\s+)?{_DAY_IN_WORDS}\s+(?:day\s+)?of\s+(?:{_MONTHS}))(?![^\W\d_])(?:,?\s+{_YEAR})?",
    re.IGNORECASE,
)
_SHORT = re.compile(
    rf"(?<![\w./$-])(?=\d)(?:{_MONTH}/{_DAY}|{_DAY}/{_MONTH}|{_MONTH}/{_YEAR}|{_YEAR}[-/]{_MONTH})(?![\w/]|[.-]\d)"
)
_SHORT_CUE = re.compile(
    r"(?:\b(?:on|since|until|till|by|from|before|after|born|dob|date|due|expir\w*|exp|dated|admitted|discharged|seen"
    r"|visit|of birth)\W{1,3}(?:is\W{1,2}|was\W{1,2})?)$",
    re.I,
)
_TENS = r"(?:ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?|(?:one|a)\s+hundred(?:\s+and\s+\w{3,12})?)"
_AGE = re.compile(
    rf"(?<![\w.])(?P<a>9\d|1[0-2]\d|{_TENS})(?=[- ]?(?:years?|yrs?)[- ]?(?:old|of age)|\s?(?:y/o|yo\b|y\.o\.)"
    rf"|-year-old)"
    rf"|(?:\bage[ds]?|\bturn(?:ed|s|ing)|\bat the age of)\W{{1,3}}(?:of\s+|is\s+)?(?P<b>9\d|1[0-2]\d|{_TENS})"
    rf"(?![\w/-]|[.,]\d)",
    re.IGNORECASE,
)


def find(text: str, *, digits: bool = True) -> Iterator[Span]:
    """Yield dates and high ages; `digits` says whether the text has a digit at all."""
    words = set(_WORD.findall(text.lower())) if digits or any(map(text.__contains__, _TELLING)) else frozenset()
    months = not words.isdisjoint(_MONTH_NAMES)
    if digits:
        for found in each(_NUMERIC, text):
            yield Span(_with_weekday(text, found.start()), found.end(), "DATE")
        for found in each(_SHORT, text) if "/" in text or "-" in text else ():
            if _SHORT_CUE.search(text, max(0, found.start() - 24), found.start()):
                yield Span(*found.span(), "DATE")
        if months:
            for found in _NAMED.finditer(text):
                yield Span(_with_weekday(text, found.start()), _end(text, found), "DATE")
    if not words.isdisjoint(_WEEKDAYS):
        for found in _WEEKDAY_ALONE.finditer(text):
            yield Span(*found.span(), "DATE")
    if months and not words.isdisjoint(_ORDINALS):
        for found in _SPELT.finditer(text):
            yield Span(*found.span(), "DATE")
    if (digits or "hundred" in words or any(word.startswith("ninety") for word in words)) and not words.isdisjoint(
        _AGE_WORDS
    ):
        for found in _AGE.finditer(text):
            yield Span(*found.span("a" if found["a"] else "b"), "AGE")


_TELLING = (
    "day",
    "DAY",
    "inety",
    "undred",
    *(f"{two} {word}" for two in ("th", "st", "nd", "rd") for word in ("of", "day")),
)
_TELLING += (
    "TH OF",
    "ST OF",
    "ND OF",
    "RD OF",
    "Janu",
    "Febr",
    "March",
    "April",
    "May",
    "June",
    "July",
    "Augu",
    "Sept",
)
_TELLING += ("Octo", "Nove", "Dece")
"""What a date or a high age in words cannot be without; without capitals, only a day `of` a month counts."""
_WORD = re.compile(r"[^\W\d_]+")
_MONTH_NAMES = frozenset(_MONTHS.split("|"))
_WEEKDAYS = frozenset(f"{day}day" for day in ("mon", "tues", "wednes", "thurs", "fri", "satur", "sun"))
_ORDINALS = frozenset(_ORDINAL_WORDS.split("|"))
_AGE_WORDS = frozenset(
    ("age", "aged", "ages", "year", "years", "yr", "yrs", "yo", "y", "turned", "turns", "turning", "turn", "old")
)


def _with_weekday(text: str, start: int) -> int:
    before = _WEEKDAY_BEFORE.search(text, max(0, start - 18), start)
    return before.start() if before else start


def _end(text: str, found: re.Match[str]) -> int:
    """A full stop that ends the sentence is not the date's."""
    end = found.end()
    return end - 1 if text[end - 1 : end] == "." and not text[end - 2 : end - 1].isalpha() else end
