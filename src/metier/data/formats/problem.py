"""Prompts for reinforcement learning: messages without a reply, or a `prompt` alone, and what the graders need.

Reads OpenAI's reinforcement rows (`messages` plus any keys, used by graders as `{{item.key}}`) and TRL's prompt-only
rows. Every other column becomes the problem's `item`, and stays in `meta` for slices and groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.errors import RowError
from metier.core.types import Message, Problem
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts
from metier.data.formats.openai import lacks_reply

summary = "Prompts with the keys their graders need (OpenAI reinforcement, TRL prompt-only)"
kind = "problem"
COLUMNS = ("messages", "prompt", "tools")


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [
        {"messages": [{"role": "user", "content": "6 × 7?"}], "answer": "42"},
        {"prompt": "6 × 7?"},
    ],
    "examples": [
        Problem(prompt=(Message("user", "6 × 7?"),), item={"answer": "42"}, meta={"answer": "42"}),
        Problem(prompt=(Message("user", "6 × 7?"),)),
    ],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with a prompt and no reply."""
    if columns.pair_columns(row) or columns.thumb_column(row) or "completion" in row:
        return None
    if columns.messages_column(row) == "messages" and columns.spelling(row, "messages") == "role":
        others = sorted(set(row) - set(COLUMNS))
        return f"has `messages` without a reply, and `{others[0]}`" if others and lacks_reply(row) else None
    if "prompt" in row and not set(columns.REPLY_LISTS) & set(row) and not {"output", "text"} & set(row):
        return "has `prompt` and no reply"
    return None


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Problem:
    """Return the row's problem.

    Raises:
        RowError: there is no prompt, or the messages end with the assistant's.
    """
    name = "messages" if "messages" in row else "prompt"
    found = parts.prompt(row.get(name), name)
    if found[-1].role == "assistant":
        raise RowError("ends-with-assistant", "the prompt ends with an assistant message", field=name)
    others = parts.rest(meta_from, *COLUMNS)
    return Problem(prompt=found, item=others, tools=parts.tools(row.get("tools")), place=place, meta=others)
