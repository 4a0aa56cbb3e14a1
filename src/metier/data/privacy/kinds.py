"""What is looked for: every kind of identifier, and the two profiles as tables. Plain data, which the docs print.

Sources: 45 CFR 164.514(b)(2)(i) for the eighteen identifiers of Safe Harbor; articles 4, 9 and 10, 87 GDPR.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

Group = Literal["name", "place", "date", "contact", "number"]
Profile = Literal["hipaa-safe-harbor", "gdpr"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of identifier: its group, the file under `detectors/` that finds it, its rank where finds overlap."""

    group: Group
    detector: str
    rank: int
    what: str


@dataclass(frozen=True, slots=True)
class Identifier:
    """One line of a profile: what the rule names, the kinds that stand for it, and what a reader must know of it."""

    name: str
    kinds: tuple[str, ...]
    note: str = ""


KINDS: dict[str, Kind] = {
    "PERSON": Kind("name", "names", 1, "a name of a person, with the title before it"),
    "ORGANIZATION": Kind("name", "names", 1, "a name of a firm or an institution, by its ending (Ltd, GmbH, Hospital)"),
    "ADDRESS": Kind("place", "places", 3, "a street address, whole or in part, across lines"),
    "LOCATION": Kind("place", "places", 1, "a place below the state: city, village, district"),
    "STATE": Kind("place", "places", 2, "a state of the USA, standing alone"),
    "COUNTRY": Kind("place", "places", 2, "a country, standing alone"),
    "ZIP": Kind("place", "places", 4, "a postal code, by its format or a cue"),
    "DATE": Kind("date", "dates", 5, "a date with more than its year, and its time of day"),
    "AGE": Kind("date", "dates", 5, "an age over 89"),
    "PHONE": Kind("contact", "phones", 6, "a telephone number, international or national, with its extension"),
    "FAX": Kind("contact", "phones", 6, "a fax number, by its cue"),
    "EMAIL": Kind("contact", "contact", 9, "an e-mail address, also `name (at) host`"),
    "URL": Kind("contact", "contact", 8, "a web address, with or without a scheme"),
    "IP": Kind("contact", "contact", 8, "an IPv4 or IPv6 address"),
    "SSN": Kind(
        "number", "numbers", 7, "a social security number of the USA: dashed, spaced, or nine digits with a cue"
    ),
    "CARD": Kind("number", "numbers", 7, "a payment card number: Luhn, or a cue"),
    "IBAN": Kind("number", "numbers", 8, "an international bank account number: mod 97, or a cue"),
    "NATIONAL_ID": Kind("number", "national", 7, "a national identity or tax number with its checksum"),
    "PASSPORT": Kind("number", "cues", 5, "a passport number, by its cue"),
    "MRN": Kind("number", "cues", 5, "a medical record or patient number, by its cue"),
    "HEALTH_PLAN": Kind("number", "cues", 5, "a number of an insured person or a health plan, by its cue"),
    "ACCOUNT": Kind("number", "cues", 5, "an account or customer number, by its cue"),
    "LICENSE": Kind("number", "cues", 5, "a licence or certificate number, by its cue"),
    "VEHICLE": Kind("number", "cues", 5, "a vehicle identification number (checksum) or a plate (cue)"),
    "DEVICE": Kind("number", "cues", 5, "a serial number (cue), IMEI (Luhn and cue) or MAC address"),
    "OTHER_ID": Kind("number", "cues", 4, "any other number that a cue calls an identifier, and UUIDs"),
}
"""Kind → what it is. A rank decides which of two overlapping finds keeps the characters (spans.merge)."""

PRIORITY = {name: kind.rank for name, kind in KINDS.items()}

SAFE_HARBOR: tuple[Identifier, ...] = (
    Identifier("(A) Names", ("PERSON", "ORGANIZATION"), "also of relatives, employers and household members"),
    Identifier(
        "(B) Geography smaller than a state",
        ("ADDRESS", "LOCATION", "ZIP"),
        "the first three digits of a ZIP code may stay where more than 20,000 people live; here the whole code goes",
    ),
    Identifier("(C) Dates, ages over 89", ("DATE", "AGE"), "the year may stay"),
    Identifier("(D) Telephone numbers", ("PHONE",)),
    Identifier("(E) Fax numbers", ("FAX",)),
    Identifier("(F) E-mail addresses", ("EMAIL",)),
    Identifier("(G) Social security numbers", ("SSN",)),
    Identifier("(H) Medical record numbers", ("MRN",)),
    Identifier("(I) Health plan beneficiary numbers", ("HEALTH_PLAN",)),
    Identifier("(J) Account numbers", ("ACCOUNT", "CARD", "IBAN")),
    Identifier("(K) Certificate and license numbers", ("LICENSE",)),
    Identifier("(L) Vehicle identifiers, license plates", ("VEHICLE",)),
    Identifier("(M) Device identifiers and serial numbers", ("DEVICE",)),
    Identifier("(N) Web addresses", ("URL",)),
    Identifier("(O) IP addresses", ("IP",)),
    Identifier("(P) Biometric identifiers", (), "no text holds them; a column that does must be dropped"),
    Identifier("(Q) Full-face photographs", (), "pictures are not read; a column that holds them must be dropped"),
    Identifier("(R) Any other unique number or code", ("OTHER_ID", "NATIONAL_ID", "PASSPORT")),
)

GDPR: tuple[Identifier, ...] = (
    Identifier("Name (art. 4(1))", ("PERSON", "ORGANIZATION")),
    Identifier("Location data (art. 4(1))", ("ADDRESS", "LOCATION", "STATE", "COUNTRY", "ZIP")),
    Identifier("Dates of a person's life", ("DATE", "AGE")),
    Identifier("Telephone, fax, e-mail", ("PHONE", "FAX", "EMAIL")),
    Identifier("Online identifiers (art. 4(1))", ("URL", "IP", "DEVICE")),
    Identifier("National identification numbers (art. 87)", ("NATIONAL_ID", "SSN", "PASSPORT")),
    Identifier("Other identification numbers", ("MRN", "HEALTH_PLAN", "LICENSE", "VEHICLE", "OTHER_ID")),
    Identifier("Payment and bank details", ("CARD", "IBAN", "ACCOUNT")),
    Identifier(
        "Special categories (art. 9), criminal convictions (art. 10)",
        (),
        "what a text says of health, belief or crime is its subject, not an identifier: the source's permission must"
        " name a legal basis for it",
    ),
)

PROFILES: dict[str, tuple[Identifier, ...]] = {"hipaa-safe-harbor": SAFE_HARBOR, "gdpr": GDPR}


@cache
def kinds_of(profile: str) -> frozenset[str]:
    """Return the kinds that a profile removes.

    Raises:
        KeyError: there is no such profile; the options of a step and a command refuse it before.
    """
    return frozenset(kind for identifier in PROFILES[profile] for kind in identifier.kinds)
