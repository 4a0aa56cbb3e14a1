"""Messages, replies and tools as the formats share them: checked, never corrected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from metier.core.errors import RowError
from metier.core.types import ROLES, Message, Role, ToolCall
from metier.data.rows import depth_within, flaw

ROLE_NAMES: dict[str, Role] = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function": "tool",
}
"""What OpenAI, ShareGPT and their descendants call the five roles."""

CALL_NAMES = frozenset({"function_call", "tool_call"})
"""ShareGPT roles whose value is the JSON of a call that the assistant makes."""

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
OTHER_MEDIA = ("audio", "audios", "image", "images", "video", "videos")


def messages(value: Any, field: str) -> tuple[Message, ...]:
    """Return a list of message objects, in OpenAI's spelling (`role`, `content`) or ShareGPT's (`from`, `value`).

    Raises:
        RowError: with the dotted field at fault.
    """
    if not isinstance(value, list | tuple) or not value:
        raise RowError("no-messages", "there is no list of messages", field=field)
    return tuple(message(item, f"{field}.{index}") for index, item in enumerate(value))


def message(value: Any, field: str) -> Message:
    """Return one message object, in either spelling."""
    if not isinstance(value, Mapping):
        raise RowError("not-a-message", "a message is not an object", field=field)
    spelled = value.get("role", value.get("from"))
    body = value.get("content", value.get("value"))
    body_field = f"{field}.{'value' if 'value' in value and 'content' not in value else 'content'}"
    if spelled in CALL_NAMES:
        return Message("assistant", tool_calls=_written_calls(body, body_field), weight=_weight(value, field))
    role = ROLE_NAMES.get(spelled) if isinstance(spelled, str) else None
    if role is None:
        raise RowError("unknown-role", "the role is none of " + ", ".join(ROLES), field=f"{field}.role")
    if medium := next((name for name in OTHER_MEDIA if value.get(name)), None):
        raise RowError("not-text", "only text is read", field=f"{field}.{medium}")
    calls = tuple(
        _call(call, f"{field}.tool_calls.{index}") for index, call in enumerate(value.get("tool_calls") or ())
    )
    if not calls and value.get("function_call"):
        calls = (_call({"function": value["function_call"]}, f"{field}.function_call"),)
    return Message(
        role,
        _content(body, body_field, optional=bool(calls) or role == "assistant"),
        reasoning=_optional_text(value, REASONING_KEYS, field),
        tool_calls=calls,
        tool_call_id=_optional_text(value, ("tool_call_id",), field),
        name=_optional_text(value, ("name",), field),
        weight=_weight(value, field),
    )


def reply(value: Any, field: str) -> tuple[Message, ...]:
    """Return a reply given as a string, a message or a list of messages; it must say something.

    Raises:
        RowError: `empty-reply`, or what is wrong with a message.
    """
    if isinstance(value, str):
        found: tuple[Message, ...] = (Message("assistant", value),)
    elif isinstance(value, Mapping):
        found = (message(value, field),)
    else:
        found = messages(value, field)
    if not any(says_something(m) for m in found):
        raise RowError("empty-reply", "the reply is empty", field=field)
    return found


def prompt(value: Any, field: str) -> tuple[Message, ...]:
    """Return a prompt given as a string (one user message) or a list of messages.

    Raises:
        RowError: `empty-prompt`, or what is wrong with a message.
    """
    if isinstance(value, str):
        if not value.strip():
            raise RowError("empty-prompt", "the prompt is empty", field=field)
        return (Message("user", value),)
    return messages(value, field)


def tools(value: Any, field: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """Return tool definitions, given as a list or as its JSON; a bare function gets OpenAI's wrapping.

    Raises:
        RowError: `tools-not-json`, `not-a-tool`.
    """
    if isinstance(value, str):
        if not value.strip():
            return ()
        try:
            value = _parsed(value)
        except ValueError:
            raise RowError("tools-not-json", "the tools are not valid JSON", field=field) from None
    if value is None:
        return ()
    found = [value] if isinstance(value, Mapping) else value
    if not isinstance(found, list | tuple) or not all(isinstance(tool, Mapping) for tool in found):
        raise RowError("not-a-tool", "the tools are not a list of objects", field=field)
    return tuple(tool if "function" in tool else {"type": "function", "function": dict(tool)} for tool in found)


def check_conversation(found: Sequence[Message], field: str) -> None:
    """Refuse a conversation from which nothing can be learnt.

    Raises:
        RowError: `no-assistant-message`, `empty-assistant-message`, `no-supervised-message`.
    """
    replies = [m for m in found if m.role == "assistant"]
    if not replies:
        raise RowError("no-assistant-message", "there is no assistant message", field=field)
    if not all(says_something(m) for m in replies):
        raise RowError("empty-assistant-message", "an assistant message is empty", field=field)
    if all(m.weight == 0 for m in replies):
        raise RowError("no-supervised-message", "every assistant message has weight 0", field=field)


def says_something(found: Message) -> bool:
    """True when the message has text, reasoning or a tool call."""
    return bool(found.text.strip() or found.reasoning or found.tool_calls)


def required_text(row: Mapping[str, Any], name: str) -> str:
    """Return a column that must hold text.

    Raises:
        RowError: `not-text`, `empty-text`.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise RowError("not-text", "the column is not a string", field=name)
    if not value.strip():
        raise RowError("empty-text", "the column is empty", field=name)
    return value


def rest(meta_from: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """Return the columns that the example itself does not hold."""
    return {name: value for name, value in meta_from.items() if name not in used}


# ───────────────────────────────────────────────────────────────────────────── parts of a message


def _content(value: Any, field: str, *, optional: bool) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if isinstance(value, list):
        return tuple(_part(part, f"{field}.{index}") for index, part in enumerate(value))
    raise RowError("not-text", "the content is not text", field=field)


def _part(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("type", "text") == "text" and isinstance(value.get("text"), str):
        return cast(str, value["text"])
    raise RowError("not-text", "only text parts are read", field=field)


def _call(value: Any, field: str) -> ToolCall:
    """A call as OpenAI writes it; `arguments` may also be an object already."""
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError("not-a-tool-call", "a tool call has no function name", field=field)
    given = function.get("arguments", function.get("parameters", {}))
    arguments, text = given, given
    if isinstance(given, str):
        try:
            arguments = _parsed(given) if given.strip() else {}
        except ValueError:
            arguments = None
    else:
        text = json.dumps(given, ensure_ascii=False)
    if not isinstance(arguments, Mapping):
        raise RowError("tool-arguments-not-json", "the arguments are not a JSON object", field=f"{field}.arguments")
    call_id = value.get("id")
    return ToolCall(function["name"], arguments, text, call_id if isinstance(call_id, str) else None)


def _written_calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    """The JSON of one call or of a list of calls, as ShareGPT writes it."""
    if isinstance(value, str):
        try:
            value = _parsed(value)
        except ValueError:
            raise RowError("tool-call-not-json", "the tool call is not valid JSON", field=field) from None
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise RowError("not-a-tool-call", "there is no call in the list", field=field)
    return tuple(_call(call, field) for call in calls)


def _parsed(text: str) -> Any:
    """Return the JSON that stands in a string of a row, read as strictly as the row itself.

    Raises:
        ValueError: not JSON, nested too deeply, or with a string that cannot be stored.
    """
    try:
        value = json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not depth_within(value) or flaw(value):
        raise ValueError("not to be stored")
    return value


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _optional_text(value: Mapping[str, Any], names: Sequence[str], field: str) -> str | None:
    for name in names:
        found = value.get(name)
        if isinstance(found, str) and found:
            return found
        if found:
            raise RowError("not-text", "the field is not a string", field=f"{field}.{name}")
    return None


def _weight(value: Mapping[str, Any], field: str) -> float | None:
    weight = value.get("weight")
    if weight is None:
        return None
    if weight not in (0, 1):
        raise RowError("unknown-weight", "the weight is neither 0 nor 1", field=f"{field}.weight")
    return float(weight)
