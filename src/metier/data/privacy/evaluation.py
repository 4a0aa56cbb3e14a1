"""Measure detection on a labelled set: what share of every labelled span is covered, and how many documents leak.

Exact spans mean little for privacy: `12 Main St` of `12 Main St, Apt 4` is no success and `Dr. Jane Doe` for `Jane Doe`
no failure. So a span counts as found when enough of its letters and digits are covered by any find, whatever kind that
find has; the share whose kind fits is a figure of its own, with all sorts of place as one kind. Two thresholds are
reported: 80 % and everything.

What is done about the quirks of public sets, all of it before counting:
- a text that stands in the set several times is counted once;
- a person who is nothing but a title (`Mr.`) is no identifier: not counted as missed, nor as wrong when found;
- pieces of one address that only blanks and punctuation part are one span; a city or country beside stays its own;
- `nan` inside a place is a hole in the table it was made from: its letters do not count;
- organisations, job titles and forms of address are not identifiers of the rules: they count for precision alone, like
  every label whose name is not known; how many there are of each is reported.
Not corrected, since only a reader could: real names that the set does not label count as false finds.

A set with templates must be divided by template, never by document (`halves`): documents of one template are one case.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metier.core.errors import DataError
from metier.data.privacy import lexicon as lex
from metier.data.privacy.kinds import KINDS
from metier.data.privacy.spans import Span, checked
from metier.data.rows import shown_column

ENOUGH = 0.8
SHOWN = 12
"""Names of labels that an error lists."""
_Z = 1.959964
_CONTENT = re.compile(r"[^\W_]")
_EMPTY = re.compile(r"[\s,.;:/#'\"()>?*|-]*\Z")
_NAN = re.compile(r"(?<![^\W_])nan(?![^\W_])", re.IGNORECASE)

ROWS: dict[str, tuple[str, str]] = {
    "PERSON": ("name", "name"), "NAME": ("name", "name"), "PER": ("name", "name"), "PATIENT": ("name", "name"),
    "DOCTOR": ("name", "name"), "USERNAME": ("name", "other identifier"),
    "ADDRESS": ("place", "street or address"), "STREET_ADDRESS": ("place", "street or address"),
    "STREET": ("place", "street or address"), "LOCATION": ("place", "city"), "CITY": ("place", "city"),
    "GPE": ("place", "city"), "LOC": ("place", "city"), "STATE": ("place", "state"), "COUNTRY": ("place", "country"),
    "ZIP": ("place", "postal code"), "ZIPCODE": ("place", "postal code"), "ZIP_CODE": ("place", "postal code"),
    "DATE": ("date", "date"), "DATE_TIME": ("date", "date"), "AGE": ("date", "age"),
    "PHONE": ("contact", "phone"), "PHONE_NUMBER": ("contact", "phone"), "FAX": ("contact", "fax"),
    "EMAIL": ("contact", "e-mail"), "EMAIL_ADDRESS": ("contact", "e-mail"), "URL": ("contact", "URL"),
    "DOMAIN_NAME": ("contact", "URL"), "IP": ("contact", "IP"), "IP_ADDRESS": ("contact", "IP"),
    "SSN": ("number", "SSN"), "US_SSN": ("number", "SSN"), "CARD": ("number", "card"),
    "CREDIT_CARD": ("number", "card"), "IBAN": ("number", "IBAN"), "IBAN_CODE": ("number", "IBAN"),
    "US_DRIVER_LICENSE": ("number", "license"), "LICENSE": ("number", "license"), "MRN": ("number", "MRN"),
    "PASSPORT": ("number", "passport"), "US_PASSPORT": ("number", "passport"), "ACCOUNT": ("number", "account"),
    "NATIONAL_ID": ("number", "national id"), "VEHICLE": ("number", "vehicle"), "DEVICE": ("number", "device"),
    "HEALTH_PLAN": ("number", "health plan"), "OTHER_ID": ("number", "other identifier"),
    "ID": ("number", "other identifier"),
}  # fmt: skip
"""Name of a label → (its group, the line it is counted in). Case and the signs between words do not matter.
A label that is neither here nor in ALIASES is counted for precision alone, and reported as such."""

ALIASES: dict[str, str] = {
    **dict.fromkeys(("FIRST_NAME", "LAST_NAME", "MIDDLE_NAME", "GIVEN_NAME", "FAMILY_NAME", "FULL_NAME"), "PERSON"),
    **dict.fromkeys(("FIRSTNAME", "LASTNAME", "MIDDLENAME", "GIVENNAME", "SURNAME", "FULLNAME"), "PERSON"),
    **dict.fromkeys(("PERSON_NAME", "PATIENT_NAME", "DOCTOR_NAME"), "PERSON"),
    **dict.fromkeys(("STREETADDRESS", "STREET_NAME", "BUILDING_NUMBER", "HOME_ADDRESS", "POSTAL_ADDRESS"), "ADDRESS"),
    **dict.fromkeys(("POSTCODE", "POST_CODE", "POSTALCODE", "POSTAL_CODE"), "ZIP"),
    **dict.fromkeys(("DOB", "DATE_OF_BIRTH", "DATEOFBIRTH", "BIRTH_DATE", "BIRTHDATE", "BIRTHDAY"), "DATE"),
    **dict.fromkeys(("TELEPHONE", "TELEPHONE_NUMBER", "TEL", "PHONENUMBER", "MOBILE", "MOBILE_NUMBER"), "PHONE"),
    **dict.fromkeys(("FAX_NUMBER", "FAXNUMBER"), "FAX"),
    **dict.fromkeys(("E_MAIL", "E_MAIL_ADDRESS", "EMAILADDRESS"), "EMAIL"),
    **dict.fromkeys(("IPV4", "IPV6", "IPADDRESS"), "IP"),
    **dict.fromkeys(("SOCIAL_SECURITY_NUMBER", "SOCIALSECURITYNUMBER"), "SSN"),
    **dict.fromkeys(("CREDITCARD", "CREDIT_CARD_NUMBER", "CREDITCARDNUMBER", "CARD_NUMBER"), "CARD"),
    **dict.fromkeys(("ACCOUNT_NUMBER", "BANK_ACCOUNT", "BANK_ACCOUNT_NUMBER"), "ACCOUNT"),
    **dict.fromkeys(("PASSPORT_NUMBER", "PASSPORTNUMBER"), "PASSPORT"),
    **dict.fromkeys(("DRIVER_LICENSE", "DRIVERS_LICENSE", "DRIVING_LICENSE", "LICENSE_NUMBER"), "LICENSE"),
    **dict.fromkeys(("MEDICAL_RECORD", "MEDICALRECORD", "MEDICAL_RECORD_NUMBER"), "MRN"),
    **dict.fromkeys(("HEALTHPLAN", "HEALTH_PLAN_NUMBER"), "HEALTH_PLAN"),
    **dict.fromkeys(("LICENSE_PLATE", "VIN", "VEHICLE_ID"), "VEHICLE"),
    **dict.fromkeys(("DEVICE_ID", "IMEI", "MAC_ADDRESS"), "DEVICE"),
}
"""Other names of labels that can mean one thing alone → the name in ROWS."""


@dataclass(frozen=True, slots=True)
class Document:
    """A labelled text; `template` is what it was made from, or its own text where nothing says so."""

    text: str
    labels: tuple[Span, ...]
    template: str


@dataclass(frozen=True, slots=True)
class Figure:
    """`hits` of `total` with the bounds of the 95 % interval (Wilson; 3/n beside a figure of 0 or 1)."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        """The figure itself; nan where there was nothing to count."""
        return self.hits / self.total if self.total else math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95 % interval."""
        n = self.total
        if not n:
            return (0.0, 1.0)
        p = self.share
        middle, half = p + _Z**2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        low, high = (middle - half) / (1 + _Z**2 / n), (middle + half) / (1 + _Z**2 / n)
        if self.hits == 0:
            return (0.0, min(1.0, 3 / n))
        return (max(0.0, 1 - 3 / n), 1.0) if self.hits == n else (low, high)

    def to_json(self) -> dict[str, float | int | None]:
        """Return the figure as data; a share of nothing is null."""
        low, high = self.bounds
        return {
            "hits": self.hits,
            "total": self.total,
            "share": self.share if self.total else None,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, slots=True)
class Recall:
    """One line: spans covered to 80 %, covered wholly, and covered to 80 % by a find of the fitting group."""

    kind: str
    enough: Figure
    full: Figure
    named: Figure


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured. `precision` counts finds, `character_precision` letters and digits of finds; `uncounted` are
    the labels that recall and leaks do not know, by their name."""

    num_documents: int
    num_repeated: int
    num_templates: int
    recalls: tuple[Recall, ...]
    leaks: Figure
    leaks_full: Figure
    precision: Figure
    character_precision: Figure
    uncounted: dict[str, int] = field(default_factory=dict)

    def recall(self, kind: str) -> Recall:
        """Return the line of a kind.

        Raises:
            KeyError: the set has no such label.
        """
        for line in self.recalls:
            if line.kind == kind:
                return line
        raise KeyError(kind)

    def to_json(self) -> dict[str, Any]:
        """Return all figures as data."""
        return {
            "documents": self.num_documents,
            "repeated": self.num_repeated,
            "templates": self.num_templates,
            "recall": {
                line.kind: {
                    "at_80": line.enough.to_json(),
                    "full": line.full.to_json(),
                    "kind_fits": line.named.to_json(),
                }
                for line in self.recalls
            },
            "document_leaks": {"at_80": self.leaks.to_json(), "full": self.leaks_full.to_json()},
            "precision": {"finds": self.precision.to_json(), "characters": self.character_precision.to_json()},
            "uncounted": self.uncounted,
        }


def read(path: Path) -> list[Document]:
    """Read a labelled set: a JSON list, or JSON Lines.

    A document is `full_text` or `text`, with `spans` (or `labels`, `entities`) of `entity_type` (`label`, `kind`),
    `start_position` (`start`), `end_position` (`end`), and perhaps `template_id` (`template`).

    Raises:
        DataError: E364, the file is no such set; names the first line or item that does not fit, never its content.
    """
    try:
        text = path.read_text(encoding="utf-8")
        items = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(s) for s in text.splitlines() if s.strip()]
        )
    except (OSError, ValueError) as error:
        raise _no_set(path, f"it cannot be read as JSON ({type(error).__name__})") from None
    documents = []
    for number, item in enumerate(items, start=1):
        try:
            documents.append(_document(item))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _no_set(path, f"item {number} does not fit ({type(error).__name__})") from None
    if not documents:
        raise _no_set(path, "it holds no document")
    check_labels(documents, path)
    return documents


def check_labels(documents: Sequence[Document], path: Path) -> None:
    """Refuse documents of which recall would count no label: no leak among none is no good news.

    Raises:
        DataError: E364, with the names of the labels and how many there are.
    """
    names = Counter(label.kind for document in documents for label in document.labels)
    if not any(known_label(name) in ROWS for name in names):
        shown = ", ".join(f"{shown_column(name)} {count:,}" for name, count in names.most_common(SHOWN))
        raise _no_set(path, f"none of its labels is of a kind that is measured ({shown or 'it has none'})")


def halves(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Divide by a hash of the template, so that no template stands on both sides."""
    sides: tuple[list[Document], list[Document]] = ([], [])
    for document in documents:
        sides[hashlib.sha256(document.template.encode()).digest()[-1] % 2].append(document)
    return sides


def lowered(document: Document) -> Document | None:
    """Return the document with its text written small, or None where that changes the length (İ becomes two)."""
    text = document.text.lower()
    return replace(document, text=text) if len(text) == len(document.text) else None


def evaluate(documents: Iterable[Document], find: Callable[[str], Sequence[Span]]) -> Evaluation:
    """Measure a detector on labelled documents.

    Args:
        documents: the set; texts that repeat are counted once.
        find: text → finds, such as `engine.detect`.
    """
    hits: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    leaks, full_leaks = [], []
    uncounted: Counter[str] = Counter()
    finds, right, found_characters, right_characters = 0, 0, 0, 0
    seen: set[str] = set()
    templates: set[str] = set()
    num_repeated = 0
    for document in documents:
        if document.text in seen:
            num_repeated += 1
            continue
        seen.add(document.text)
        templates.add(document.template)
        spans = find(document.text)
        covered = _painted(len(document.text), spans)
        leak = full_leak = False
        for line, group, places in _counted(document):
            share = sum(covered[i] for i in places) / len(places)
            fits = _painted(len(document.text), [s for s in spans if KINDS[s.kind].group == group])
            named = sum(fits[i] for i in places) / len(places) >= ENOUGH
            hits[line].append((share >= ENOUGH, share == 1.0, named))
            leak |= share < ENOUGH
            full_leak |= share < 1.0
        leaks.append(leak)
        full_leaks.append(full_leak)
        uncounted.update(shown_column(label.kind) for label in document.labels if known_label(label.kind) not in ROWS)
        labelled = _painted(len(document.text), document.labels)
        for span in spans:
            content = [m.start() for m in _CONTENT.finditer(document.text, span.start, span.end)]
            inside = sum(labelled[i] for i in content)
            finds += 1
            right += inside * 2 >= len(content) and inside > 0
            found_characters += len(content)
            right_characters += inside
    return Evaluation(
        num_documents=len(seen),
        num_repeated=num_repeated,
        num_templates=len(templates),
        recalls=tuple(
            Recall(kind, *(Figure(sum(one[i] for one in found), len(found)) for i in range(3)))
            for kind, found in sorted(hits.items())
        ),
        leaks=Figure(sum(leaks), len(leaks)),
        leaks_full=Figure(sum(full_leaks), len(full_leaks)),
        precision=Figure(right, finds),
        character_precision=Figure(right_characters, found_characters),
        uncounted=dict(uncounted.most_common()),
    )


def _document(item: Mapping[str, Any]) -> Document:
    text = item.get("full_text", item.get("text"))
    if not isinstance(text, str):
        raise TypeError("no text")
    labels = []
    for one in item.get("spans", item.get("labels", item.get("entities"))) or []:
        kind = str(one.get("entity_type") or one.get("label") or one.get("kind"))
        start = int(one["start_position"] if "start_position" in one else one["start"])
        end = int(one["end_position"] if "end_position" in one else one["end"])
        if end > len(text):
            raise ValueError("a label ends behind the text")
        if end > start:
            labels.append(checked(Span(start, end, kind), text))
    template = item.get("template_id", item.get("template"))
    return Document(text, tuple(sorted(labels)), text if template is None else str(template))


def known_label(name: str) -> str:
    """Return a label's name as ROWS has it; one that is unknown as it is written."""
    plain = re.sub(r"[\s_./-]+", "_", name.strip()).upper()
    plain = ALIASES.get(plain, plain)
    return plain if plain in ROWS else name


def _counted(document: Document) -> list[tuple[str, str, list[int]]]:
    """Return (line, group, places of its letters and digits) of each label that recall counts."""
    text = document.text
    joined: list[Span] = []
    for label in (one._replace(kind=known_label(one.kind)) for one in document.labels):
        before = joined[-1] if joined else None
        if before and before.kind == label.kind == "ADDRESS" and _EMPTY.match(text[before.end : label.start]):
            joined[-1] = Span(before.start, label.end, "ADDRESS")
        else:
            joined.append(label)
    counted = []
    for label in joined:
        if label.kind not in ROWS:
            continue
        group, line = ROWS[label.kind]
        value = text[label.start : label.end]
        if group == "name" and value.lower().strip(" .") in lex.TITLES:
            continue
        if line == "city" and value.lower().strip() in lex.COUNTRIES:
            line = "country"
        holes = {i for m in _NAN.finditer(value) for i in range(*m.span())} if group == "place" else set()
        places = [label.start + m.start() for m in _CONTENT.finditer(value) if m.start() not in holes]
        if places:
            counted.append((line, group, places))
    return counted


def _painted(length: int, spans: Iterable[Span]) -> bytearray:
    painted = bytearray(length)
    for span in spans:
        painted[span.start : span.end] = b"\x01" * (span.end - span.start)
    return painted


def _no_set(path: Path, why: str) -> DataError:
    return DataError(
        364,
        f"The file is no labelled set: {why}",
        place=str(path),
        expected="a JSON list or JSON Lines of {text, spans: [{label, start, end}]}",
        fix="metier data pii-eval --help",
    )
