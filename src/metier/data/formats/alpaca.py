"""Alpaca rows: `instruction, input?, output, system?, history?[[question, answer]]` (Taori et al., 2023).

`input` follows the instruction on a new line, as LLaMA-Factory joins them; the original prompt's fixed English
sentences are left out, since the model's chat template does their work. Rows with `chosen`/`rejected` belong to
`preference`, rows with `kto_tag` to `rated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.errors import RowError
from metier.core.types import Conversation, Message
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts

summary = "Alpaca: `instruction`, `input`, `output`, with `system` and `history`"
kind = "conversation"
COLUMNS = ("instruction", "input", "output", "system", "history", "tools")


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [
        {
            "instruction": "Translate to French.",
            "input": "Good night",
            "output": "Bonne nuit",
            "history": [["Translate: yes", "oui"]],
        }
    ],
    "examples": [
        Conversation(
            messages=(
                Message("user", "Translate: yes"),
                Message("assistant", "oui"),
                Message("user", "Translate to French.\nGood night"),
                Message("assistant", "Bonne nuit"),
            )
        )
    ],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with an instruction and an output that are neither compared nor rated."""
    if "instruction" not in row or "output" not in row or columns.pair_columns(row) or columns.thumb_column(row):
        return None
    return "has `instruction` and `output`"


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Conversation:
    """Return the row's conversation.

    Raises:
        RowError: no instruction, no output, or a history that is not a list of pairs.
    """
    answer = parts.required_text(row, "output")
    return Conversation(
        messages=(*asked(row), Message("assistant", answer)),
        tools=parts.tools(row.get("tools")),
        place=place,
        meta=parts.rest(meta_from, *COLUMNS),
    )


def asked(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return everything before the answer: system, history, instruction with its input.

    Raises:
        RowError: no instruction, or a history that is not a list of pairs.
    """
    found: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"]:
        found.append(Message("system", row["system"]))
    for index, pair in enumerate(row.get("history") or ()):
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(p, str) for p in pair)):
            raise RowError(
                "not-a-pair", "a turn of the history is not a question and an answer", field=f"history.{index}"
            )
        found += [Message("user", pair[0]), Message("assistant", pair[1])]
    instruction, given = row.get("instruction"), row.get("input")
    written = [part for part in (instruction, given) if isinstance(part, str) and part.strip()]
    if not written:
        raise RowError("empty-prompt", "there is neither an instruction nor an input", field="instruction")
    return (*found, Message("user", "\n".join(written)))
