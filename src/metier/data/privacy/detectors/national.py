"""National identity and tax numbers with a checksum, as one table: country, format, check, and what else is needed.

`alone`: format and checksum together are rare enough to be taken without a cue. The others (bare digits, of which one
in ten or eleven passes by chance) need a cue, or the separators they are written with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from metier.data.privacy.detectors import checksums
from metier.data.privacy.detectors.cue import cue_of, starts_of_numbers
from metier.data.privacy.spans import Span


@dataclass(frozen=True, slots=True)
class Number:
    """One national number. `needs`: `alone` nothing, `cue` a cue word, `form` a cue or its separators."""

    country: str
    name: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    needs: Literal["alone", "form", "cue"]


def _number(
    country: str, name: str, pattern: str, check: Callable[[str], bool], needs: Literal["alone", "form", "cue"]
) -> Number:
    return Number(country, name, re.compile(rf"(?<![\w.-]){pattern}(?![\w-])"), check, needs)


def _always(_: str) -> bool:
    return True


NUMBERS: tuple[Number, ...] = (
    _number("GB", "NHS number", r"\d{3}( ?)\d{3}\1\d{4}", checksums.nhs, "form"),
    _number(
        "GB", "National Insurance number", r"[A-CEGHJ-PR-TW-Za-ceghj-pr-tw-z][A-CEGHJ-NPR-TW-Za-ceghj-npr-tw-z]"
        r" ?\d{2} ?\d{2} ?\d{2} ?[A-Da-d]", _always, "alone",
    ),
    _number("ES", "DNI, NIE", r"(?:\d{8}|[XYZxyz]-?\d{7})[ -]?[A-Za-z]", checksums.dni, "alone"),
    _number("FR", "NIR", r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3} ?\d{2}", checksums.nir, "alone"),
    _number("DE", "Steuer-ID", r"\d{2}( ?)\d{3}\1\d{3}\1\d{3}", checksums.steuer_id, "form"),
    _number(
        "IT", "codice fiscale", r"[A-Za-z]{6} ?\d{2} ?[A-EHLMPR-Ta-ehlmpr-t]\d{2} ?[A-Za-z]\d{3} ?[A-Za-z]",
        checksums.codice_fiscale, "alone",
    ),
    _number("PL", "PESEL", r"\d{11}", checksums.pesel, "cue"),
    _number("NL", "BSN", r"\d{4}([. ]?)\d{2}\1\d{3}", checksums.bsn, "cue"),
    _number("BE", "rijksregisternummer", r"\d{2}([. ]?)\d{2}\1\d{2}[- ]?\d{3}[. ]?\d{2}", checksums.belgian, "form"),
    _number("SE", "personnummer", r"(?:19|20)?\d{6}[-+]\d{4}", lambda d: checksums.luhn(d[-10:]), "alone"),
    _number("FI", "henkilötunnus", r"\d{6}[-+A-Fa-fU-Yu-y]\d{3}[0-9A-Ya-y]", checksums.hetu, "alone"),
    _number("NO", "fødselsnummer", r"\d{6} ?\d{5}", checksums.norwegian, "form"),
    _number("DK", "CPR-nummer", r"(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])\d{2}-\d{4}", _always, "alone"),
    _number("PT", "NIF", r"\d{3}( ?)\d{3}\1\d{3}", checksums.nif, "cue"),
    _number("BR", "CPF", r"\d{3}(\.?)\d{3}\1\d{3}-?\d{2}", checksums.cpf, "form"),
    _number("CA", "SIN", r"\d{3}([ -]?)\d{3}\1\d{3}", checksums.luhn, "cue"),
    _number("AU", "TFN", r"\d{3} ?\d{3} ?\d{3}", checksums.tfn, "cue"),
    _number("IN", "Aadhaar", r"[2-9]\d{3}([ -]?)\d{4}\1\d{4}", checksums.verhoeff, "form"),
    _number("IN", "PAN", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", _always, "alone"),
    _number("CN", "resident identity number", r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", checksums.chinese, "alone"),
    _number("ZA", "identity number", r"\d{6} ?\d{4} ?\d{3}", checksums.luhn, "cue"),
    _number("US", "ITIN", r"9\d{2}-[5-9]\d-\d{4}", _always, "alone"),
    _number("US", "EIN", r"\d{2}-\d{7}", _always, "cue"),
)  # fmt: skip

_CANDIDATE = re.compile(r"(?<![\w.-])(?=[^\W_]{0,6} ?\d)[A-Za-z0-9]{1,18}(?:[ .+-][A-Za-z0-9]{1,6}){0,7}")
_PLAIN = re.compile(r"[ .+-]")


def find(text: str) -> Iterator[Span]:
    """Yield national numbers whose checksum fits."""
    reached = 0
    for start in starts_of_numbers(text):
        if start < reached or (candidate := _CANDIDATE.match(text, start)) is None:
            continue
        reached = candidate.end()
        if sum(map(str.isdigit, candidate[0])) < 6 and not _PAN_LIKE.match(candidate[0]):
            continue
        spaced = _PREFIX.match(text, max(0, start - 3), start) is not None  # `QQ 12 34 56 C`
        found = _first(text, start - 3) if spaced else None
        if found := found or _first(text, start):
            reached = max(found.end, start + 1)
            yield found


def _first(text: str, start: int) -> Span | None:
    """Return the first number of the table that fits at a place."""
    for number in NUMBERS:
        found = number.pattern.match(text, start)
        if found is not None and _fits(number, text, found):
            return Span(*found.span(), "NATIONAL_ID")
    return None


_PREFIX = re.compile(r"(?<![^\W_])[A-Za-z]{2} $")
_PAN_LIKE = re.compile(r"[A-Z]{5}\d{4}[A-Z]")


def _fits(number: Number, text: str, found: re.Match[str]) -> bool:
    value = found[0].upper()
    plain = value if number.country == "FI" else _PLAIN.sub("", value)
    if not number.check(plain):
        return False
    if number.needs == "alone":
        return True
    if number.needs == "form" and plain != value and not _among_numbers(text, *found.span()):
        return True
    cues = ("NATIONAL_ID", "OTHER_ID", "SSN", *(("HEALTH_PLAN", "MRN") if number.name == "NHS number" else ()))
    return cue_of(text, found.start()) in cues


def _among_numbers(text: str, start: int, end: int) -> bool:
    """Return whether other numbers stand right beside, as in a table."""
    return text[max(0, start - 2) : start].strip(" \t|,;").isdigit() or text[end : end + 2].strip(" \t|,;").isdigit()
