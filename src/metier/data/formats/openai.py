"""OpenAI chat rows: `{"messages": [{"role", "content"}, …], "tools"?}`.

Read: text parts, tool calls with their original argument string, `weight` 0/1, `name`, `developer`, the older
`function_call`, reasoning as `reasoning_content`, `reasoning` or `thinking`. Left out: pictures, sounds and files,
which make a bad row. `parallel_tool_calls` is a request setting and goes to `meta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Conversation, Message
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts

summary = "OpenAI chat: `messages` with `role` and `content`, tool calls included"
kind = "conversation"
COLUMNS = ("messages", "tools")


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "open?"}]},
                {"role": "assistant", "content": "Until six.", "weight": 1},
            ],
            "branch": "north",
        }
    ],
    "examples": [
        Conversation(
            messages=(
                Message("system", "Be brief."),
                Message("user", ("Is it ", "open?")),
                Message("assistant", "Until six.", weight=1.0),
            ),
            meta={"branch": "north"},
        )
    ],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with messages in OpenAI's spelling that are neither rated nor compared nor without any reply."""
    if columns.messages_column(row) != "messages" or columns.thumb_column(row) or columns.pair_columns(row):
        return None
    if row["messages"] and columns.spelling(row, "messages") != "role":
        return None
    if lacks_reply(row) and set(row) - set(COLUMNS):
        return None  # a prompt with what its graders need: the format `problem`
    return "has `messages` with `role`"


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Conversation:
    """Return the row's conversation.

    Raises:
        RowError: the row has no assistant message, or a message is not one.
    """
    found = parts.messages(row.get("messages"), "messages")
    parts.check_conversation(found, "messages")
    return Conversation(
        messages=found, tools=parts.tools(row.get("tools")), place=place, meta=parts.rest(meta_from, *COLUMNS)
    )


def lacks_reply(row: Mapping[str, Any]) -> bool:
    """True when no message is the assistant's."""
    return not any(isinstance(m, Mapping) and m.get("role") == "assistant" for m in row["messages"])
