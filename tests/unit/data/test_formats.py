"""What each format makes of real spellings, and why it refuses a row."""

from __future__ import annotations

from typing import Any

import pytest

from metier.core.errors import ConfigError, DataError, RowError
from metier.core.types import Conversation, Labelled, Message, Preference, Rated, ToolCall
from metier.data import formats


def read(name: str, row: dict[str, Any]) -> Any:
    return formats.read_row(name, row, place="a.jsonl:1")


def refused(name: str, row: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        read(name, row)
    return caught.value.reason, caught.value.field


USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}


def test_openai_tool_calls_keep_the_argument_string() -> None:
    arguments = '{"city":   "Bern", "n": 1.0}'
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    example = read(
        "openai",
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "clear"},
                {"role": "assistant", "content": "Clear.", "reasoning_content": "Say it.", "weight": 0},
                REPLY,
            ],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
            "parallel_tool_calls": False,
        },
    )
    assert isinstance(example, Conversation)
    assert example.messages[1].tool_calls == (ToolCall("weather", {"city": "Bern", "n": 1.0}, arguments, "c1"),)
    assert example.messages[2].tool_call_id == "c1"
    assert (example.messages[3].reasoning, example.messages[3].weight) == ("Say it.", 0.0)
    assert example.meta == {"parallel_tool_calls": False}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER], ("no-assistant-message", "messages")),
        ([], ("no-messages", "messages")),
        ("Hi", ("no-messages", "messages")),
        ([USER, {"role": "assistant", "content": "  "}], ("empty-assistant-message", "messages")),
        ([USER, {**REPLY, "weight": 0}], ("no-supervised-message", "messages")),
        ([USER, {**REPLY, "weight": 0.5}], ("unknown-weight", "messages.1.weight")),
        ([{"role": "narrator", "content": "x"}, REPLY], ("unknown-role", "messages.0.role")),
        ([USER, "Yes"], ("not-a-message", "messages.1")),
        ([{"role": "user", "content": [{"type": "image_url"}]}, REPLY], ("not-text", "messages.0.content.0")),
        ([{"role": "user", "content": "Look", "images": ["a.png"]}, REPLY], ("not-text", "messages.0.images")),
        ([{"role": "user", "content": 5}, REPLY], ("not-text", "messages.0.content")),
        (
            [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{oops"}}]}],
            ("tool-arguments-not-json", "messages.1.tool_calls.0.arguments"),
        ),
    ],
)
def test_openai_refuses(messages: Any, expected: tuple[str, str]) -> None:
    assert refused("openai", {"messages": messages}) == expected


def test_sharegpt_with_parallel_calls_and_roles_of_its_descendants() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "user", "value": "Q"},
            {
                "from": "function_call",
                "value": '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"x": 1}}]',
            },
            {"from": "tool", "value": "R"},
            {"from": "model", "value": "A"},
        ]
    }
    example = read("sharegpt", row)
    assert [m.role for m in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [c.name for c in example.messages[2].tool_calls] == ["f", "g"]
    row["conversations"][2]["value"] = "f()"
    assert refused("sharegpt", row) == ("tool-call-not-json", "conversations.2.value")
    assert refused("sharegpt", {"conversations": [{"from": "human", "value": "Q"}]})[0] == "no-assistant-message"


def test_alpaca_input_and_system() -> None:
    example = read("alpaca", {"instruction": "Add.", "input": "1 2", "output": "3", "system": "S"})
    assert [(m.role, m.text) for m in example.messages] == [("system", "S"), ("user", "Add.\n1 2"), ("assistant", "3")]
    assert refused("alpaca", {"instruction": "Add.", "output": ""}) == ("empty-text", "output")
    assert refused("alpaca", {"instruction": "A", "output": "B", "history": [["q"]]}) == ("not-a-pair", "history.0")


def test_a_reply_inside_a_prompt_is_given_not_taught() -> None:
    prompt = [USER, REPLY, {"role": "user", "content": "And?"}]
    example = read("prompt_completion", {"prompt": prompt, "completion": "No"})
    assert [m.weight for m in example.messages] == [None, 0.0, None, None]
    assert refused("prompt_completion", {"prompt": "Q", "completion": " "}) == ("empty-reply", "completion")


def test_preferences_without_a_prompt_share_what_they_begin_with() -> None:
    chosen, rejected = [USER, REPLY], [USER, {"role": "assistant", "content": "No"}]
    expected = Preference(
        prompt=(Message("user", "Hi"),), chosen=(Message("assistant", "Yes"),), rejected=(Message("assistant", "No"),)
    )
    for row in (
        {"chosen": chosen, "rejected": rejected},
        {"prompt": "Hi", "chosen": chosen, "rejected": rejected},
        {"input": {"messages": [USER]}, "preferred_completion": [REPLY], "non_preferred_completion": rejected[1:]},
    ):
        example = read("preference", row)
        assert (example.prompt, example.chosen, example.rejected) == (
            expected.prompt,
            expected.chosen,
            expected.rejected,
        )
    assert refused("preference", {"prompt": "Hi", "chosen": "Yes", "rejected": "Yes"})[0] == "same-replies"
    assert refused("preference", {"prompt": "Hi", "chosen": "", "rejected": "Yes"}) == ("empty-reply", "chosen")


def test_transcripts_of_several_turns_are_taken_apart() -> None:
    begin = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:"
    example = read("preference", {"chosen": f"{begin} Four\n\nmore", "rejected": f"{begin} Five"})
    assert [m.text for m in example.prompt] == ["One", "Two", "Three"]
    assert (example.chosen[0].text, example.rejected[0].text) == ("Four\n\nmore", "Five")


def test_a_thumb_may_be_a_word_in_a_table() -> None:
    example = read("rated", {"prompt": "Q", "completion": "A", "label": "False"})
    assert isinstance(example, Rated) and example.label is False
    assert refused("rated", {"prompt": "Q", "completion": "A", "label": "maybe"}) == ("not-a-thumb", "label")
    assert refused("rated", {"messages": [USER], "label": True})[0] == "no-assistant-message"


@pytest.mark.parametrize(
    ("label", "target"),
    [("a", "a"), (" a", " a"), (3, "3"), (True, "true"), (2.5, 2.5), (["x", "y"], ("x", "y")), ([], ()), ("7", "7")],
)
def test_targets(label: Any, target: Any) -> None:
    example = read("labelled", {"text": "T", "label": label})
    assert isinstance(example, Labelled)
    assert example.target == target and type(example.target) is type(target)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "T", "label": None}, ("no-label", "label")),
        ({"text": "T", "label": " "}, ("no-label", "label")),
        ({"text": "T", "label": float("inf")}, ("no-label", "label")),
        ({"text": "T", "label": ["a", "a"]}, ("label-twice", "label")),
        ({"text": "", "label": "a"}, ("empty-text", "text")),
        ({"text": 5, "label": "a"}, ("not-text", "text")),
    ],
)
def test_labelled_refuses(row: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refused("labelled", row) == expected


# ───────────────────────────────────────────────────────────────────────────── detection and map


def test_detection_needs_one_clear_claim() -> None:
    alpaca, labelled = {"instruction": "I", "output": "O"}, {"text": "T", "label": "L"}
    assert formats.detect([alpaca] * 19 + [labelled]).name == "alpaca"
    with pytest.raises(DataError) as mixed:
        formats.detect([alpaca, labelled], place="a.jsonl")
    assert mixed.value.code == "E304" and "1 like `alpaca`" in mixed.value.received
    with pytest.raises(DataError) as unknown:
        formats.detect([{"question": "Q", "answer": "A"}])
    assert unknown.value.code == "E304"
    assert unknown.value.received == "`question`, `answer`"
    assert unknown.value.fix.endswith("map: {prompt: question, completion: answer}")


def test_rows_that_lack_a_reply_are_still_recognised_as_chat() -> None:
    assert formats.detect([{"messages": [USER]}]).name == "openai"
    assert formats.detect([{"messages": [USER], "answer": "4"}]).name == "problem"
    assert formats.detect([{"messages": [USER, REPLY], "label": "greeting"}]).name == "openai"


def test_two_label_columns_are_nobodys_unless_one_is_called_label() -> None:
    assert formats.detect([{"text": "T", "label": "a", "topic": "b"}]).reason.endswith("label column `label`")
    assert formats.detect([{"text": "T", "intent": "a", "topic": "b"}]).name == "text"


def test_labelled_text_is_raw_text_for_continued_pretraining() -> None:
    rows = [{"text": "T", "topic": "a"}]
    assert formats.detect(rows, "classify").name == "labelled"
    assert formats.detect(rows, "continue").name == "text"


def test_map_renames_and_the_rest_goes_to_meta() -> None:
    mapped, left = formats.apply_map({"body": "T", "kind": "a", "id": 7}, {"text": "body", "label": "kind"})
    example = formats.read_row("labelled", mapped, place="x:1", meta_from=left)
    assert (example.text, example.target, example.meta) == ("T", "a", {"id": 7})  # type: ignore[union-attr]
    with pytest.raises(RowError) as missing:
        formats.apply_map({"id": 7}, {"text": "body"})
    assert (missing.value.reason, missing.value.field) == ("missing-column", "body")
    with pytest.raises(ConfigError) as unread:
        formats.check_map({"lable": "kind"}, "labelled")
    assert unread.value.code == "E247" and unread.value.fix == "Did you mean `label`?"
