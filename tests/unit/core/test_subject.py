"""How a person is recognised: in rows, in records that are no rows, in bytes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from metier.core.fragments import Matcher, fragments
from metier.core.scan import scan
from metier.core.subject import ERASED, Subject, says_enough
from metier.core.values import row_digest

TEXT = "the patient came with a terrible pain in her left elbow after a fall from the ladder"
ANNA = Subject(
    "P-00123",
    frozenset({"person"}),
    frozenset({"Anna Łukasz"}),
    ids=frozenset({"0123456789abcdef"}),
    fragments=frozenset(fragments([TEXT])),
)


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b'{"x": "P-00123"}', True),
        (b"see P-00123.", True),
        (b"P-001234", False),
        (b"XP-00123", False),
        (b"p-00123", False),  # a key is a key: its case counts
        ("ask ANNA  ŁUKASZ now".encode(), True),
        (rb'{"x": "anna\n\u0141ukasz"}', True),
        ("Annalena Łukasz".encode(), False),
        (TEXT[20:70].encode(), True),
        (TEXT[:20].encode(), False),
    ],
)
def test_bytes_are_recognised_by_key_name_and_fragment(data: bytes, seen: bool) -> None:
    assert ANNA.seen(data) is seen


def test_a_short_key_counts_as_the_value_of_its_column_alone() -> None:
    subject = Subject("17", frozenset({"person"}))
    assert subject.owns({"person": 17}) and subject.owns({"person": " 17 "})
    assert not subject.owns({"person": "170"}) and not subject.owns({"age": "17"})
    assert subject.seen(b'{"person": "17"}') and subject.seen(b'{"person":17}')
    assert not subject.seen(b'{"person": 170, "age": "17"}')
    assert not subject.named("he is 17")
    assert [says_enough(t) for t in ("abcdef", "abcde", "12345678", "123456789")] == [True, False, False, True]


def test_a_row_of_somebody_else_keeps_what_both_have_in_common() -> None:
    example = {"id": "0123456789abcdef", "text": "hello", "meta": {"person": "P-00999"}}
    assert not ANNA.in_example(example)
    assert ANNA.in_example({**example, "meta": {}})
    assert ANNA.in_example({**example, "text": "this is about Anna Łukasz"})


def test_a_surrogate_in_the_column_counts_for_its_example_alone() -> None:
    subject = Subject("17", frozenset({"person"}), pseudonyms=frozenset({"aa:83", "version:83"}))
    assert subject.in_example({"id": "aa", "text": "hello", "meta": {"person": "83"}})
    assert not subject.in_example({"id": "bb", "text": "hello", "meta": {"person": "83"}}), "somebody who is called so"
    assert not subject.in_example({"id": "aa", "text": "hello", "meta": {"person": "84"}}), "who said the same"
    assert not subject.in_row({"id": "aa", "person": "83"})
    assert Subject.from_json(json.loads(json.dumps(subject.to_json()))) == subject


def test_a_subject_column_with_a_common_name_is_no_field_of_an_example() -> None:
    subject = Subject("P-00123", frozenset({"id"}), ids=frozenset({"aa"}))
    assert subject.in_example({"id": "aa", "text": "x", "meta": {}})
    assert not subject.in_example({"id": "bb", "text": "x", "meta": {"id": "P-00999"}})


@pytest.mark.parametrize("raw", [b'{"person": "17", "text": ', b"17,only two", b"a;17", b'{"person": 17}'])
def test_a_bad_record_is_theirs_by_any_of_its_fields(raw: bytes) -> None:
    subject = Subject("17", frozenset({"person"}))
    assert subject.in_raw(raw)
    assert not subject.in_raw(raw.replace(b"17", b"18"))


def test_json_loses_the_texts_that_tell_of_them_and_says_how_many() -> None:
    value = {"a": ["about P-00123", "b"], "person": "P-00123", "n": 3, "P-00123": {"c": TEXT}}
    assert ANNA.without(value) == ({"a": [ERASED, "b"], "person": ERASED, "n": 3, ERASED: {"c": ERASED}}, 4)


def test_cutting_out_leaves_the_bytes_around() -> None:
    data, num = ANNA.cut_out(b"path: data/P-00123.csv\nnext: 1\n")
    assert (data, num) == (b"path: data/(erased).csv\nnext: 1\n", 1)


def test_fragments_lie_close_enough_that_half_a_text_is_found() -> None:
    pieces = fragments([TEXT, "żółta łódka płynie powoli po spokojnym jeziorze w słońcu"])
    assert all(24 <= len(p.encode()) <= 28 for p in pieces)
    assert fragments(["short", 'a "quoted" <b>bit</b> of it']) == set()
    matcher = Matcher(pieces)
    assert all(matcher.any(TEXT[i : i + 56].encode()) for i in range(len(TEXT) - 56))


def test_many_fragments_are_found_where_they_are_and_nowhere_else() -> None:
    pieces = {f"piece number {i:06d} of many" for i in range(3000)}
    matcher = Matcher(pieces)
    data = b"\n".join(f"piece number {i:06d} of many".encode() for i in range(2990, 3010))
    assert len(list(matcher.found(data))) == 10
    assert list(matcher.found(b"")) == [] and not matcher.any(b"piece number 003000 of many")


def test_an_interrupted_erasure_knows_what_both_know() -> None:
    other = Subject("P-00123", rows=frozenset({"r"}), ids=frozenset({"i"}))
    both = Subject.from_json(json.loads(json.dumps(ANNA.merged(other).to_json())))
    assert both.ids == {"i", "0123456789abcdef"} and both.rows == {"r"} and both.also == ANNA.also
    assert both.fragments == ANNA.fragments


def test_the_digest_of_a_row_is_that_of_its_texts() -> None:
    assert row_digest({"a": "x", "n": 1, "b": ["y"]}) == row_digest({"c": "x", "d": {"e": "y"}})
    assert row_digest({"a": "x y"}) != row_digest({"a": "x", "b": "y"})


def test_the_scan_reads_names_content_and_what_is_packed_but_not_git(tmp_path: Path) -> None:
    clean = ("a.txt", b"nothing"), ("b/c.bin", bytes(range(256)))
    theirs = (
        ("d/e.json", b'{"x": "P-00123"}'),
        ("f.gz", gzip.compress(TEXT.encode())),
        ("g.gz", b"no gzip, P-00123"),
        ("notes P-00123.txt", b"x"),
        ("far.bin", b"x" * (9 << 20) + b" P-00123 "),
        ("edge.bin", b"x" * ((8 << 20) - 4) + b" P-00123 "),
    )
    for name, data in (*clean, *theirs, (".git/objects/o", b"P-00123"), ("skipped/j.json", b"P-00123")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "d" / "e.json")
    hits, num_files, num_bytes, unread = scan(tmp_path, ANNA, skip=tmp_path / "skipped")
    assert sorted(hits) == sorted(name for name, _ in theirs)
    assert num_files == len(clean) + len(theirs)
    assert num_bytes > 17 << 20 and unread == []


# ───────────────────────────────────────────────────────────────────────────── numbers, forms, columns


@pytest.mark.parametrize("value", [123456789, 123456789.0, "123456789", ["x", {"y": 123456789}]])
def test_a_number_is_a_text(value: Any) -> None:
    subject = Subject("123456789", frozenset({"person"}))
    assert subject.in_row({"person": "P-2", "account": value})
    assert subject.in_example({"id": "aa", "text": "x", "meta": {"account": value}})
    assert subject.without({"account": value})[1] == 1


@pytest.mark.parametrize("value", [123456788, 0.123456789, 123456789.5, True, None, float("nan"), float("inf")])
def test_another_number_is_not(value: Any) -> None:
    subject = Subject("123456789", frozenset({"person"}))
    assert not subject.in_row({"person": "P-2", "account": value})
    assert subject.without({"account": value})[1] == 0


def test_a_column_with_gaps_writes_its_keys_as_fractions() -> None:
    subject = Subject("17", frozenset({"person"}))
    for value in (17, 17.0, "17", "17.0", " 17 ", ["17", "18"]):
        assert subject.owns({"person": value}), value
    for value in (17.5, "17.5", "170", "017", None, True):
        assert not subject.owns({"person": value}), value
    assert subject.others({"person": 18.0}) and not subject.others({"person": 17.0}) and not subject.others({})
    assert subject.seen(b'{"person": 17.0}') and not subject.seen(b'{"person": 17.5}')
    assert subject.in_raw(b"17.0,only two") and subject.in_raw(b"17")
    assert not subject.in_raw(b"17,only two", frozenset()), "its file has no such column"


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("there", ["NFC", "NFD"])
def test_a_key_and_a_name_are_compared_in_one_form(typed: str, there: str) -> None:
    key, name = normalize(typed, "Zoë"), normalize(typed, "Zoë Müller")
    subject = Subject(key, frozenset({"person"}), frozenset({name}))
    assert subject.owns({"person": normalize(there, "Zoë")})
    assert subject.named(normalize(there, "of Zoë Müller")) and subject.seen(normalize(there, "Zoë Müller.").encode())
    assert subject.seen(json.dumps({"person": normalize(there, "Zoë")}).encode())
    assert subject.without({"a": normalize(there, "of Zoë Müller")})[1] == 1


def test_a_text_in_escapes_is_recognised_by_its_fragments() -> None:
    text = "żółta łódka płynie powoli po spokojnym jeziorze w słońcu i nikt jej nie widzi"
    subject = Subject("P-00123", fragments=frozenset(fragments([text])))
    assert subject.seen(text.encode()) and subject.seen(json.dumps(text).encode())


def test_a_column_is_the_subjects_where_its_source_says_so() -> None:
    people = {"/data/people.csv\tid", "people.csv\tid"}
    tickets = {"/data/tickets.csv\t", "tickets.csv\t"}
    subject = Subject("17", frozenset({"id"}), scopes=frozenset(people | tickets))
    assert subject.columns_at("/data/people.csv") == {"id"} == subject.columns_at("/data/unknown.csv")
    assert subject.columns_at("/data/tickets.csv") == frozenset()
    row = {"id": "17", "text": "x"}
    assert subject.in_row(row, subject.columns_at("/data/people.csv"))
    assert not subject.in_row(row, subject.columns_at("/data/tickets.csv"))
    example = {"id": "aa", "text": "x", "meta": {"id": 17}}
    assert subject.in_example({**example, "place": "people.csv:3"})
    assert not subject.in_example({**example, "place": "tickets.csv:3"})
    assert Subject.from_json(json.loads(json.dumps(subject.to_json()))) == subject


def test_a_journal_of_an_older_metier_is_read() -> None:
    value = ANNA.to_json()
    del value["scopes"], value["made"]
    assert Subject.from_json(value) == ANNA
