"""Prompt and completion (TRL): `{"prompt", "completion"}`, each a string or a list of messages.

A string prompt is one user message, a string completion one assistant message. Question and answer columns of any
name come here through `map: {prompt: question, completion: answer}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Conversation, Message
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts

summary = "TRL prompt/completion: `prompt` and `completion`, as strings or lists of messages"
kind = "conversation"
COLUMNS = ("prompt", "completion", "system", "tools")


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [
        {"prompt": "Capital of Peru?", "completion": "Lima", "topic": "cities"},
        {
            "prompt": [{"role": "user", "content": "Capital of Chad?"}],
            "completion": [{"role": "assistant", "content": "N'Djamena"}],
        },
    ],
    "examples": [
        Conversation(
            messages=(Message("user", "Capital of Peru?"), Message("assistant", "Lima")), meta={"topic": "cities"}
        ),
        Conversation(messages=(Message("user", "Capital of Chad?"), Message("assistant", "N'Djamena"))),
    ],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with a prompt and a completion that are neither rated nor compared."""
    if "prompt" not in row or "completion" not in row or columns.thumb_column(row) or columns.pair_columns(row):
        return None
    return "has `prompt` and `completion`"


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Conversation:
    """Return the row's conversation; the loss is on the completion alone.

    Raises:
        RowError: the prompt or the completion is empty, or a message is not one.
    """
    asked = parts.prompt(row.get("prompt"), "prompt")
    if isinstance(row.get("system"), str) and row["system"]:
        asked = (Message("system", row["system"]), *asked)
    # Replies inside the prompt are given, not taught.
    asked = tuple(replace(m, weight=0.0) if m.role == "assistant" else m for m in asked)
    answer = parts.reply(row.get("completion"), "completion")
    parts.check_conversation(answer, "completion")
    return Conversation(
        messages=(*asked, *answer),
        tools=parts.tools(row.get("tools")),
        place=place,
        meta=parts.rest(meta_from, *COLUMNS),
    )
