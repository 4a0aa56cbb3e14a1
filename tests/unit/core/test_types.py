from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.core.types import (
    KINDS,
    Conversation,
    Example,
    Labelled,
    Message,
    Preference,
    Problem,
    Rated,
    Text,
    ToolCall,
    content_of,
    from_json,
    identify,
    kind_of,
    to_json,
)

_CALL = ToolCall("find", {"q": "ü"}, '{"q": "\\u00fc"}', "c1")
_TALK = (
    Message("system", "be brief"),
    Message("user", ("two", " parts")),
    Message("assistant", reasoning="hm", tool_calls=(_CALL,), weight=0.0),
    Message("tool", "found", tool_call_id="c1", name="find"),
    Message("assistant", "done"),
)
EXAMPLES: list[Example] = [
    Text(text="a\nb"),
    Conversation(messages=_TALK, tools=({"type": "function"},), meta={"lang": "de"}),
    Preference(prompt=_TALK[:2], chosen=(_TALK[4],), rejected=(Message("assistant", "no"),)),
    Rated(prompt=_TALK[:2], completion=(_TALK[4],), label=False),
    Labelled(text="t", target="a"),
    Labelled(text="t", target=("a", "b")),
    Labelled(text="t", target=0.0),
    Problem(prompt=_TALK[:2], item={"answer": 7}),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=kind_of)
def test_json_and_back_changes_nothing(example: Example) -> None:
    identified = identify(example)  # type: ignore[type-var]
    assert from_json(json.loads(json.dumps(to_json(identified)))) == identified


def test_every_kind_is_tried_above() -> None:
    assert {kind_of(e) for e in EXAMPLES} == set(KINDS)


def test_the_id_is_of_the_content_alone() -> None:
    here = identify(Text(text="a", place="x:1", meta={"k": 1}))
    there = identify(Text(text="a", place="y:9"))
    assert here.id == there.id
    assert len(here.id) == 16
    assert identify(Text(text="a ")).id != here.id


def test_two_kinds_with_one_text_have_two_ids() -> None:
    assert identify(Text(text="a")).id != identify(Labelled(text="a", target="b")).id


def test_a_false_label_and_a_zero_target_are_content() -> None:
    rated = Rated(prompt=(), completion=(), label=False)
    assert content_of(rated) == {"label": False}
    assert content_of(Labelled(text="t", target=0.0))["target"] == 0.0


def test_parts_join_without_a_separator() -> None:
    assert Message("user", ("a", "b")).text == "ab"


def test_tool_arguments_keep_their_original_string() -> None:
    copy: Any = from_json(to_json(Conversation(messages=_TALK)))
    assert copy.messages[2].tool_calls[0].arguments_text == '{"q": "\\u00fc"}'


@given(st.text())
def test_any_text_has_an_id_and_survives(text: str) -> None:
    example = identify(Text(text=text))
    assert from_json(to_json(example)) == example
