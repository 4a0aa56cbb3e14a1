from __future__ import annotations

import pytest

from metier.core.errors import ConfigError
from metier.core.yamlmarks import load_marked


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


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- x", "a: !!python/object/apply:os.system ['true']"])
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_marked("ok: 1\n" + text + "\n", "f.yaml")
    assert caught.value.code == "E204"
    assert caught.value.place.startswith("f.yaml:")
