"""Numbers that only the words before them explain: of records, insurance, accounts, licences, devices, passports.

The value is a token with a digit; its cue says which kind it is. Formats that speak for themselves need no cue: UUIDs,
vehicle identification numbers with a right check character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.data.privacy.detectors.checksums import vin
from metier.data.privacy.detectors.cue import cue_of, starts_of_numbers
from metier.data.privacy.spans import Span

_VALUE = re.compile(
    r"(?<![\w@.$€£%-])(?=[A-Za-z]{0,8}-?[A-Za-z]{0,3}-?\d)[A-Za-z0-9]{1,24}(?:[-/._][A-Za-z0-9]{1,16}){0,6}"
    r"(?: \d{2,6}(?![\w.]))?(?: \d{2,6}(?![\w.]))?(?: \d{2,6}(?![\w.]))?(?![\w@])"
)
_UUID = re.compile(r"(?<![\w-])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![\w-])", re.IGNORECASE)
_VIN = re.compile(r"(?<![A-Za-z0-9])(?=[A-Z]*\d)[A-HJ-NPR-Z0-9]{17}(?![A-Za-z0-9])")
_PLATE = re.compile(r"(?<![\w-])[A-ZÄÖÜ0-9]{1,4}(?:[ -][A-ZÄÖÜ0-9]{1,4}){1,2}(?![\w-])")
_AMOUNT = re.compile(
    r"\s?(?:%|mg|ml|kg|km|cm|mm|g|lbs?|oz|miles?|hours?|minutes?|days?|weeks?|months?|years?|times|dollars?|usd|eur"
    r"|euros?"
    r"|€|\$|£|people|percent|st|nd|rd|th)(?![^\W_])",
    re.IGNORECASE,
)
_KINDS = frozenset(
    ("MRN", "HEALTH_PLAN", "ACCOUNT", "LICENSE", "VEHICLE", "DEVICE", "PASSPORT", "OTHER_ID", "NATIONAL_ID", "CARD")
)
_YEAR = re.compile(r"(?:19|20)\d{2}(?:-(?:19|20)?\d{2})?$")


def find(text: str) -> Iterator[Span]:
    """Yield numbers named by a cue, UUIDs, vehicle numbers."""
    for found in _UUID.finditer(text) if text.count("-") >= 4 else ():
        yield Span(*found.span(), "OTHER_ID")
    for found in _VIN.finditer(text):
        if vin(found[0]):
            yield Span(*found.span(), "VEHICLE")
    done = 0
    for start in starts_of_numbers(text):
        match = _VALUE.match(text, start) if start >= done else None
        if match is None:
            continue
        done, value = match.end(), match[0]
        if len(value) < 4 or _YEAR.match(value) or not _number_like(value) or _AMOUNT.match(text, match.end()):
            continue
        kind = cue_of(text, match.start())
        if kind in _KINDS:
            yield Span(*match.span(), "ACCOUNT" if kind == "CARD" else kind)
    if "late" in text or "registr" in text or "ennzeichen" in text:
        for found in _PLATE.finditer(text):
            if any(map(str.isdigit, found[0])) and cue_of(text, found.start()) in ("VEHICLE", "LICENSE"):
                yield Span(*found.span(), "VEHICLE")


def _number_like(value: str) -> bool:
    """At least four characters of which two are digits, and no word with a single digit behind it."""
    num_digits = sum(map(str.isdigit, value))
    return num_digits >= 4 or (num_digits >= 2 and len(value) >= 5 and not value.islower())
