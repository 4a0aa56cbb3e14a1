from __future__ import annotations

import pytest

from metier.core.errors import ConfigError
from metier.core.yamlmarks import load_marked, load_value


def test_every_key_and_item_has_its_line() -> None:
    marked = load_marked("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "f.yaml")
    assert marked.value == {"a": {"b": 1, "c": ["x", {"d": 2}]}}
    assert marked.lines == {"a": 1, "a.b": 2, "a.c": 3, "a.c.0": 4, "a.c.1": 5, "a.c.1.d": 5}


def test_an_empty_document_is_an_empty_mapping() -> None:
    assert load_marked("", "f.yaml").value == {}
    assert load_marked("# only a comment\n", "f.yaml").value == {}


def test_a_key_given_twice_names_both_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load_marked("a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yaml")
    assert (caught.value.code, caught.value.place) == ("E205", "f.yaml:4")
    assert "line 2" in caught.value.what


def test_a_day_is_the_text_that_was_written_whether_quoted_or_not() -> None:
    marked = load_marked("a: 2027-12-31\nb: '2027-12-31'\nc: 2027-02-30\nd: 2027-12-31 10:00:00\n", "f.yaml")
    assert marked.value == {"a": "2027-12-31", "b": "2027-12-31", "c": "2027-02-30", "d": "2027-12-31 10:00:00"}
    assert load_value("2027-12-31") == "2027-12-31" and load_value("[1, 2.5, no]") == [1, 2.5, False]


@pytest.mark.parametrize("text", ["a: !!timestamp 2027-02-30", "a: " + "9" * 5000, "a: " + "[" * 3000, "a: &a [*a]"])
def test_what_yaml_itself_stumbles_over_is_refused_as_well(text: str) -> None:
    with pytest.raises(ConfigError, match="E204"):
        load_marked(text, "f.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- x", "a: !!python/object/apply:os.system ['true']"])
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_marked("ok: 1\n" + text + "\n", "f.yaml")
    assert caught.value.code == "E204"
    assert caught.value.place.startswith("f.yaml:")
