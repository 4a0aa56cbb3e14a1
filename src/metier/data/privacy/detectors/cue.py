"""Cue words: what the words just before a number call it. `MRN: 12345678`, `my account number is 4021`.

A number seldom says what it is. `cue_of` gives the kind that the nearest cue in front of it names; the detectors of
numbers ask it where a format alone does not decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

WINDOW_CHARACTERS = 48
"""How far before a number a cue is looked for."""

CUES: tuple[tuple[str, str], ...] = (
    ("FAX", r"fax(?:es|ed)?|telefax"),
    (
        "PHONE",
        r"(?:tele)?phones?|tel|telephone|mobile|cell(?:phone)?|call(?:ed|ing)?(?: (?:me|us|him|her|them))?|dial"
        r"|whats ?app|sms|landline|hotline|helpline|voicemail|pager|beeper|ring|reach(?:ed)?|contact(?:ed)?|text(?:"
        r" me)?"
        r"|answering|handy|téléphone|portable|teléfono|móvil|telefon|mobil|cel(?:ular)?|telefoon",
    ),
    ("SSN", r"ssn|ss ?#|ss no|social(?: security)?(?: (?:number|no|num))?|soc(?:ial)? sec"),
    (
        "CARD",
        r"(?:credit|debit|bank|payment|gift|master)? ?cards?|visa|mastercard|amex|american express|discover|cc"
        r"|maestro|pan",
    ),
    ("IBAN", r"iban"),
    (
        "MRN",
        r"mrn|mr ?#|m\.r\.n|medical[- ]record|hospital (?:number|no|id)|chart|patient(?: (?:id|identifier|number|no))"
        r"|record (?:number|no)|pt id|unit (?:number|no)|encounter|specimen|accession|case (?:number|no)",
    ),
    (
        "HEALTH_PLAN",
        r"medicare|medicaid|health[- ]plan|beneficiary|insurance|insured|member(?:ship)?|subscriber|policy"
        r"|group (?:number|no|id)|mbi|hicn|versichertennummer",
    ),
    (
        "ACCOUNT",
        r"accounts?|acct|a/c|routing|sort[- ]code|bic|swift|customer|client|kunden(?:nummer|nr)|konto(?:nummer)?"
        r"|invoice|order|transaction|reference|ref|confirmation|booking|loan|mortgage|aba",
    ),
    ("LICENSE", r"licen[cs]e|dl|driver'?s|drivers|certificate|cert|registration|dea|npi|permit|führerschein|upin"),
    ("VEHICLE", r"vin|chassis|vehicle|license plate|licence plate|number plate|plate|kennzeichen|tag (?:number|no)"),
    ("DEVICE", r"serial|s/n|sn|imei|imsi|iccid|udi|device|model (?:number|no)|lot|mac|pacemaker|implant|lead"),
    ("PASSPORT", r"passports?|reisepass|passeport|pasaporte"),
    (
        "NATIONAL_ID",
        r"national (?:id|identity|insurance)|identity (?:card|number)|nhs|nino|aadhaar|aadhar|cpf|dni|nie"
        r"|nif|bsn|pesel|sin|tfn|tin|itin|ein|tax(?:payer)?|steuer(?:nummer|[- ]?id)?|codice fiscale|personnummer"
        r"|cpr|nir"
        r"|id[- ]?card|ni number|vat|ustid",
    ),
    ("ZIP", r"zip(?:[- ]?codes?)?|post(?:al)?[- ]?codes?|plz|code postal"),
    (
        "OTHER_ID",
        r"id|identifier|identification|employee|student|badge|ticket|user|username|login|pin|passcode|token"
        r"|claim|file|study|subject|participant",
    ),
)
"""Kind → its cues, the more telling ones first among words of one length."""

_PATTERN = re.compile(
    r"(?<![^\W\d_])(?:" + "|".join(f"(?P<{kind}>{words})" for kind, words in CUES) + r")(?![^\W\d_])"
    r"(?=[\s.:#=\-–/()'’s\"*]{0,6}"
    r"(?:(?:number|numbers|num|no|nr|nummer|id|code|is|are|was|of|the|my|our|his|her|it|at|on|to|as|for|ending|in|with"
    r"|me|us|them|following|new|old|called|reads|card|account|plate|and|or|please|current|this|that|by"
    r"|home|work|cell|office|line|be|can|you|s|ext|directly|toll|free|back)"
    r"(?![^\W\d_])[\s.:#=\-–/()'’\"*]{0,6}){0,6}$)",
    re.IGNORECASE,
)
_RUN = re.compile(r"\d+")
_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"\d[A-Za-z0-9]*")
_HEAD_CHARACTERS = 12


@lru_cache(maxsize=4)  # several detectors ask for the same text
def starts_of_numbers(text: str) -> tuple[int, ...]:
    """Return where each word with a digit starts, letters and hyphens in front of the digit included."""
    starts = []
    for found in _DIGITS.finditer(text):
        start = found.start()
        first = max(0, start - _HEAD_CHARACTERS)
        while start > first and (text[start - 1].isalnum() or text[start - 1] == "-"):
            start -= 1
        starts.append(start)
    return tuple(starts)


def each(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield what `finditer` would of a pattern that begins with a digit behind no word character, tried there alone."""
    reached = 0
    for start in runs_of_digits(text):
        if start >= reached and (found := pattern.match(text, start)):
            reached = found.end()
            yield found


@lru_cache(maxsize=4)
def runs_of_digits(text: str) -> tuple[int, ...]:
    """Return where runs of digits start."""
    return tuple([found.start() for found in _RUN.finditer(text)])


@lru_cache(maxsize=4)
def num_digits(text: str) -> int:
    """Return how many digits a text has: most kinds of numbers need more than most texts hold."""
    return len(_DIGIT.findall(text))


_LETTERS = re.compile(r"[^\W\d_]/?[^\W\d_]|#")


@lru_cache(maxsize=4096)
def _named(before: str) -> str:
    found = ""
    for match in _PATTERN.finditer(before):
        if match.lastgroup != "OTHER_ID" or not found:  # `account id`: the account says more than the id
            found = match.lastgroup or found
    return found


def cue_of(text: str, start: int) -> str:
    """Return the kind that the words before `start` name, or the empty string.

    Between the cue and the number only connecting words may stand (number, is, of, the …), no sentence end.
    """
    before = text[max(0, start - WINDOW_CHARACTERS) : start]
    return _named(before) if _LETTERS.search(before) else ""
