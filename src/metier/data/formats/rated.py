"""One reply with a thumb up or down, for KTO (Ethayarajh et al., 2024): TRL, Alpaca and chat spellings.

- TRL: `prompt, completion, label: bool`.
- LLaMA-Factory: `messages` or `conversations` that end with the rated reply, with `label` or `kto_tag`;
  `instruction, output, kto_tag`.

Left out: scales with more than two values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.errors import RowError
from metier.core.types import Message, Rated
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts
from metier.data.formats import alpaca, sharegpt

summary = "Ratings: a prompt, a reply and a thumb up or down (`label` or `kto_tag`)"
kind = "rated"
COLUMNS = (
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    *("history", "system", "tools"),
    *columns.REPLY_LISTS,
    *columns.THUMBS,
)


class Options(BaseOptions):
    """No options: the rows say everything."""


_RATED = Rated(prompt=(Message("user", "Hello"),), completion=(Message("assistant", "Hi!"),), label=True)
SAMPLE: dict[str, Any] = {
    "rows": [
        {"prompt": "Hello", "completion": "Hi!", "label": True},
        {"instruction": "Hello", "input": "", "output": "Hi!", "kto_tag": True},
        {
            "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}],
            "label": True,
        },
    ],
    "examples": [_RATED, _RATED, _RATED],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with a reply and a boolean."""
    thumb = columns.thumb_column(row)
    return f"has a reply with `{thumb}` true or false" if thumb and not columns.pair_columns(row) else None


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Rated:
    """Return the row's rating.

    Raises:
        RowError: no thumb, no reply, or no prompt.
    """
    thumb = columns.thumb_column(row)
    if thumb is None:
        raise RowError("not-a-thumb", "the rating is neither true nor false", field="label")
    value = row[thumb]
    asked, answer = _parts(row)
    return Rated(
        prompt=asked,
        completion=answer,
        label=value if isinstance(value, bool) else value.strip().lower() == "true",
        tools=parts.tools(row.get("tools")),
        place=place,
        meta=parts.rest(meta_from, *COLUMNS),
    )


def _parts(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    if "completion" in row:
        return parts.prompt(row.get("prompt"), "prompt"), parts.reply(row["completion"], "completion")
    if "instruction" in row:
        return alpaca.asked(row), parts.reply(row.get("output"), "output")
    name = columns.messages_column(row) or "messages"
    found = sharegpt.turns(row)
    if found[-1].role != "assistant" or len(found) < 2:
        raise RowError("no-assistant-message", "the messages do not end with the rated reply", field=name)
    if not parts.says_something(found[-1]):
        raise RowError("empty-reply", "the reply is empty", field=name)
    return found[:-1], found[-1:]
