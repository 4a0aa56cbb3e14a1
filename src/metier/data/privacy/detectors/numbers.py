"""Payment cards (Luhn), IBANs (mod 97) and social security numbers of the USA.

A number that its cue names is taken although its check digit fails: a mistyped card number identifies its holder to
whoever can try ten digits. Left out: bare nine digits without a cue, which are too often something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.data.privacy.detectors.checksums import luhn, mod97
from metier.data.privacy.detectors.cue import cue_of, each, num_digits, runs_of_digits
from metier.data.privacy.spans import Span

_CARD = re.compile(
    r"(?<![\w.])(?<!\d[ -])(?:\d{4}([ -]{1,2}|[.])\d{4}\1\d{4}\1\d{1,7}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5}"
    r"|\d{12,19})(?!\w)(?![ -]\d)"
)
CARD_DIGITS, SSN_DIGITS, IBAN_DIGITS = 12, 9, 6
"""A text with fewer digits than that holds none."""
_IBAN_HEAD = re.compile(r"\d{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_NEXT = re.compile(r"[ -]?([A-Za-z0-9])")
_SSN = re.compile(r"(?<![\w.-])(?<!\d )\d{3}([- .–])\d{2}\1\d{4}(?![\w-])(?! \d)")
_NINE = re.compile(r"(?<![\w.-])\d{9}(?![\w-]|\.\d)")

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
"""Country → characters of its IBAN (ISO 13616 registry)."""


def find(text: str) -> Iterator[Span]:
    """Yield cards, IBANs and social security numbers."""
    digits = num_digits(text)
    if digits >= IBAN_DIGITS:
        yield from _ibans(text)
    if digits < SSN_DIGITS:
        return
    for found in each(_CARD, text) if digits >= CARD_DIGITS else ():
        number = re.sub(r"\D", "", found[0])
        valid = number[0] != "0" and luhn(number)
        cue = cue_of(text, found.start())
        if cue == "CARD" or (valid and cue != "DEVICE" and (len(number) >= 15 or number[0] == "4")):
            yield Span(*found.span(), "CARD")
    for found in each(_SSN, text):
        if not (found[0][0] == "9" and found[1] == "-" and found[0][4] >= "5"):  # else an ITIN (national.py)
            yield Span(*found.span(), "SSN")
    for found in each(_NINE, text):
        if cue_of(text, found.start()) == "SSN":
            yield Span(*found.span(), "SSN")


def _ibans(text: str) -> Iterator[Span]:
    for at in runs_of_digits(text):
        start = at - (3 if text[at - 1 : at] in (" ", "-") else 2)
        if start < 0 or not text[start : start + 2].isalpha() or text[max(0, start - 1) : start].isalnum():
            continue
        digits = _IBAN_HEAD.match(text, at)
        if digits is None:
            continue
        country = text[start : start + 2].upper()
        length = IBAN_LENGTHS.get(country)
        characters, end = country + digits[0], digits.end()
        while len(characters) < (length or 34) and (more := _IBAN_NEXT.match(text, end)):
            characters += more[1].upper()
            end = more.end()
        if not characters.isascii() or sum(map(str.isdigit, characters)) < 6:
            continue
        whole = length is not None and len(characters) == length and not text[end : end + 1].isalnum()
        if (whole and mod97(characters)) or (len(characters) >= 15 and cue_of(text, start) == "IBAN"):
            yield Span(start, end, "IBAN")
