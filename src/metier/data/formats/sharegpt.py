"""ShareGPT rows: `{"conversations": [{"from", "value"}, …], "system"?, "tools"?}`, as LLaMA-Factory writes them.

`function_call` turns become the assistant's tool calls, `observation` turns tool messages. `arguments` that are an
object in the file get the string that `json.dumps` gives, the file holding no other. `tools` may be JSON in a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Conversation, Message, ToolCall
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts

summary = "ShareGPT: `conversations` with `from` and `value`, function calls and observations included"
kind = "conversation"
COLUMNS = ("conversations", "system", "tools")


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [
        {
            "conversations": [
                {"from": "human", "value": "Weather in Bern?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
                {"from": "observation", "value": '{"sky": "clear"}'},
                {"from": "gpt", "value": "Clear."},
            ],
            "system": "Use the tools.",
            "tools": '[{"name": "weather", "description": "Now", "parameters": {}}]',
        }
    ],
    "examples": [
        Conversation(
            messages=(
                Message("system", "Use the tools."),
                Message("user", "Weather in Bern?"),
                Message("assistant", tool_calls=(ToolCall("weather", {"city": "Bern"}, '{"city": "Bern"}'),)),
                Message("tool", '{"sky": "clear"}'),
                Message("assistant", "Clear."),
            ),
            tools=({"type": "function", "function": {"name": "weather", "description": "Now", "parameters": {}}},),
        )
    ],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with a list of turns that is not in OpenAI's column and spelling, neither rated nor compared."""
    name = columns.messages_column(row)
    if name is None or columns.thumb_column(row) or columns.pair_columns(row):
        return None
    spelled = columns.spelling(row, name)
    if not spelled or (name == "messages" and spelled == "role"):
        return None
    return f"has `{name}` with `{spelled}`"


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Conversation:
    """Return the row's conversation.

    Raises:
        RowError: the row has no assistant turn, or a turn is not one.
    """
    found = turns(row)
    name = columns.messages_column(row) or "conversations"
    parts.check_conversation(found, name)
    return Conversation(
        messages=found, tools=parts.tools(row.get("tools")), place=place, meta=parts.rest(meta_from, *COLUMNS, name)
    )


def turns(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the turns, after the message of the column `system` where there is one."""
    name = columns.messages_column(row) or "conversations"
    found = parts.messages(row.get(name), name)
    system = row.get("system")
    return (Message("system", system), *found) if isinstance(system, str) and system else found
