"""Each family of rules: what it must find, and what only looks like it."""

from __future__ import annotations

import pytest

from metier.data.privacy.detectors import checksums
from metier.data.privacy.engine import detect, rules
from metier.data.privacy.kinds import GDPR, KINDS, PRIORITY, PROFILES, SAFE_HARBOR, kinds_of
from metier.data.privacy.spans import Span, merge


def found(text: str, profile: str = "gdpr") -> list[tuple[str, str]]:
    return [(s.kind, text[s.start : s.end]) for s in detect(text, profile)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.org.", [("EMAIL", "jane.doe+x@mail.example.org")]),
        ("write to jane (at) example.org today", [("EMAIL", "jane (at) example.org")]),
        ("write to jane at example dot org today", [("EMAIL", "jane at example dot org")]),
        ("see example.com/a?b=1, or www.example.org.", [("URL", "example.com/a?b=1"), ("URL", "www.example.org")]),
        ("see (https://example.com/a_(b))", [("URL", "https://example.com/a_(b)")]),
        ("from 192.168.3.4 and fe80::1:2", [("IP", "192.168.3.4"), ("IP", "fe80::1:2")]),
        ("it is 2001:db8::8a2e:370:7334!", [("IP", "2001:db8::8a2e:370:7334")]),
        ("card 4111-1111-1111-1111", [("CARD", "4111-1111-1111-1111")]),
        ("pay to DE89 3704 0044 0532 0130 00 now", [("IBAN", "DE89 3704 0044 0532 0130 00")]),
        ("his ssn is 219099999", [("SSN", "219099999")]),
        ("it is 219-09-9999", [("SSN", "219-09-9999")]),
        ("dial 1-800-555-0199 ext. 12", [("PHONE", "1-800-555-0199 ext. 12")]),
        ("fax: (212) 555-0134", [("FAX", "(212) 555-0134")]),
        ("seen on 5th of March, 2020 at 3:15 pm", [("DATE", "5th of March, 2020 at 3:15 pm")]),
        ("it was the third of may", [("DATE", "the third of may")]),
        ("a 93-year-old man", [("AGE", "93")]),
        ("she is ninety-two years old", [("AGE", "ninety-two")]),
        ("MRN: 00482913", [("MRN", "00482913")]),
        ("passport no. X1234567", [("PASSPORT", "X1234567")]),
        ("her DNI is 12345678Z", [("NATIONAL_ID", "12345678Z")]),
        ("VIN 1M8GDM9AXKP042788", [("VEHICLE", "1M8GDM9AXKP042788")]),
        ("MAC 00:1A:2B:3C:4D:5E", [("DEVICE", "00:1A:2B:3C:4D:5E")]),
        ("my zip code is 90210", [("ZIP", "90210")]),
    ],
)
def test_a_structured_identifier_is_found_whole(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "The ratio was 3.14159 and the count 1,234,567.",
        "It costs $1,200.50, or 80,000 a year.",
        "We ran it 3 times at 12:30 and again at 18:45:10.",
        "version 1.2.3 of the program",
        "It is no address, nor is a::b, nor 12::",
        "an end.In the next sentence a space is missing",
        "a 50 year old man",
        "it was 1999, then 2004-2006",
        "the sum of 4111 and 1112",
        "item 12345 was sold",
        "he ran 10 miles in 90 minutes",
        "the range 100-200 is fine",
        "may I ask what the march was about?",
        "the account was closed in 2019",
        "call me in 20 minutes",
        "The Company may end this Contract.",
        "What is the exchange rate between the euro and the dollar?",
        "please cancel my subscription and send me a refund",
        "CAN I SPEAK TO A REAL PERSON?!",
        "In English, the Bible and the Internet have capitals.",
    ],
)
def test_what_only_looks_like_an_identifier_stays(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Yesterday Zbigniew van der Velde met us.", ["Zbigniew van der Velde"]),
        ("I saw Dr. Brown and Mrs. Young.", ["Dr. Brown", "Mrs. Young"]),
        ("we saw ottokar and met wilhelmina", ["ottokar", "wilhelmina"]),
        ("Kovalenko and Ball were engineers.", ["Kovalenko", "Ball"]),
        ("my name is hermenegildo", ["hermenegildo"]),
        ("He was told that John would come.", ["John"]),
        ("Signed, J. R. Tolstaya MD", ["J. R. Tolstaya MD"]),
    ],
)
def test_names_are_found(text: str, values: list[str]) -> None:
    assert [value for kind, value in found(text) if kind == "PERSON"] == values


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("I live at 221B Baker Street, London NW1 6XE now.", "221B Baker Street, London NW1 6XE"),
        ("Send it to 12 Main St, Apt 4\nSpringfield, IL 62704", "12 Main St, Apt 4\nSpringfield, IL 62704"),
        ("ship to p.o. box 77, kulusuk", "p.o. box 77, kulusuk"),
        ("Meet me at Calle Mayor 5, Zaragoza", "Calle Mayor 5, Zaragoza"),
        ("wir wohnen: Lindenstraße 12, 10969 Berlin", "Lindenstraße 12, 10969 Berlin"),
    ],
)
def test_an_address_is_one_find_across_its_lines(text: str, address: str) -> None:
    covered = "".join(value for _, value in found(text))
    wanted = [c for c in address if c.isalnum()]
    assert [c for c in covered if c.isalnum()][: len(wanted)] == wanted or set(wanted) <= set(covered)
    assert sum(c.isalnum() for c in covered) >= len(wanted)


def test_countries_and_states_are_left_by_safe_harbor_and_taken_by_gdpr() -> None:
    text = "I moved from Texas to the United Kingdom of Tonga, then to Hungary."
    assert {kind for kind, _ in found(text)} >= {"STATE", "COUNTRY"}
    assert [kind for kind, _ in found(text, "hipaa-safe-harbor")] == []


def test_a_country_that_is_also_a_first_name_is_a_name_unless_a_place_is_meant() -> None:
    assert ("PERSON", "Jordan") in found("Then Jordan laughed at us.", "hipaa-safe-harbor")
    assert found("He flew to Jordan.", "hipaa-safe-harbor") == []


def test_every_identifier_of_a_profile_has_known_kinds_and_every_kind_is_in_a_profile() -> None:
    assert len(SAFE_HARBOR) == 18
    listed = {kind for profile in PROFILES.values() for identifier in profile for kind in identifier.kinds}
    assert listed == set(KINDS)
    for profile in (SAFE_HARBOR, GDPR):
        assert all(identifier.kinds or identifier.note for identifier in profile)
    assert "COUNTRY" not in kinds_of("hipaa-safe-harbor")


def test_overlapping_finds_cover_what_they_covered_and_no_character_twice() -> None:
    spans = [Span(0, 10, "PERSON"), Span(4, 6, "EMAIL"), Span(8, 14, "ADDRESS"), Span(20, 22, "IP")]
    merged = merge(spans, PRIORITY)
    assert merged == [
        Span(0, 4, "PERSON"), Span(4, 6, "EMAIL"), Span(6, 8, "PERSON"), Span(8, 14, "ADDRESS"), Span(20, 22, "IP"),
    ]  # fmt: skip
    assert merge([], PRIORITY) == []


def test_another_detector_joins_by_the_protocol() -> None:
    class Gnomes:
        def find(self, text: str) -> list[Span]:
            start = text.index("gnome")
            return [Span(start, start + 5, "PERSON"), Span(0, 3, "NO_SUCH_KIND")]

    assert detect("the gnome", extra=[Gnomes()]) == [Span(4, 9, "PERSON")]


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 4), (5, 2), (4, 99)])
def test_a_span_of_another_detector_that_holds_nothing_is_refused(start: int, end: int) -> None:
    class Wrong:
        def find(self, text: str) -> list[Span]:
            return [Span(start, end, "PERSON")]

    with pytest.raises(ValueError, match=f"{start}:{end}"):
        detect("the gnome", extra=[Wrong()])


def test_a_long_text_is_read_in_pieces_with_the_same_finds() -> None:
    sentence = "We then asked Zbigniew Kowalczyk, of 12 Main Street, to call 212-555-0134.\n\n"
    text = sentence * 200
    kinds = [s.kind for s in detect(text)]
    assert kinds == [s.kind for s in detect(sentence)] * 200
    assert rules("") == []


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (checksums.luhn, "4111111111111111", "4111111111111112"),
        (checksums.mod97, "GB82WEST12345698765432", "GB82WEST12345698765433"),
        (checksums.verhoeff, "236", "237"),
        (checksums.nhs, "9434765919", "9434765918"),
        (checksums.dni, "12345678Z", "12345678A"),
        (checksums.pesel, "44051401359", "44051401358"),
        (checksums.bsn, "111222333", "111222334"),
        (checksums.cpf, "52998224725", "52998224724"),
        (checksums.codice_fiscale, "RSSMRA85T10A562S", "RSSMRA85T10A562T"),
        (checksums.hetu, "131052-308T", "131052-308U"),
        (checksums.chinese, "11010519491231002X", "110105194912310021"),
        (checksums.vin, "1M8GDM9AXKP042788", "1M8GDM9A1KP042788"),
        (checksums.steuer_id, "86095742719", "86095742718"),
    ],
)
def test_published_examples_pass_and_their_neighbours_fail(check: object, right: str, wrong: str) -> None:
    assert callable(check)
    assert check(right) is True
    assert check(wrong) is False


def test_spoken_english_and_medicines_are_no_names() -> None:
    said = "Patient: Yeah. Nope. Uh, alright. How're you, Mom? I take Tylenol and Lexapro, and Penicillin before."
    assert [said[s.start : s.end] for s in detect(said)] == []
    assert [(s.kind, "Patient: Kowalczyk. Yeah."[s.start : s.end]) for s in detect("Patient: Kowalczyk. Yeah.")] == [
        ("PERSON", "Kowalczyk")
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Doctor: Any pain?\nPatient: Sure.\nDoctor: The left knee?\nPatient: Right. Oh, well.", []),
        ("Doctor: Any pain?\nPatient: Kowalczyk told me so.\nDoctor: Who?\nPatient: Nothing.", ["Kowalczyk"]),
        ("Ward 3\nPatient: Young, Grace\nWard 4\nPatient: Brown, Mark", ["Young", "Grace", "Brown", "Mark"]),
        ("Ward 3\nPatient: Young\nseen today", ["Young"]),
    ],
    ids=["who speaks", "a name in speech", "fields of a list", "a field"],
)
def test_who_speaks_in_a_conversation_is_no_field_with_a_name(text: str, names: list[str]) -> None:
    assert [text[s.start : s.end] for s in detect(text) if s.kind == "PERSON"] == names
