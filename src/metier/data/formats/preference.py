"""Two replies to one prompt, one preferred: TRL, OpenAI, Alpaca and ShareGPT spellings, and HH transcripts.

- TRL: `prompt?, chosen, rejected`, each a string or messages; without a prompt it is what both replies begin with.
- OpenAI: `input: {messages, tools?}, preferred_output, non_preferred_output` (also `…_completion`).
- LLaMA-Factory: `conversations` or `instruction`, with `chosen` and `rejected` as a turn or a string.
- HH (Bai et al., 2022): strings of turns that begin with a blank line and `Human:` or `Assistant:`.

Left out: ties and more than two ranked replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.errors import RowError
from metier.core.types import Message, Preference
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts
from metier.data.formats import alpaca, sharegpt

summary = "Preferences: a prompt with a `chosen` and a `rejected` reply"
kind = "preference"
COLUMNS = (
    "prompt",
    "chosen",
    "rejected",
    "input",
    *(name for pair in columns.PAIRS for name in pair),
    *columns.REPLY_LISTS,
    *("instruction", "history", "system", "tools"),
)
_TURN = re.compile(r"\n\n(Human|Assistant):")


class Options(BaseOptions):
    """No options: the rows say everything."""


_HELLO = (Message("user", "Hello"),)
SAMPLE: dict[str, Any] = {
    "rows": [
        {"prompt": "Hello", "chosen": "Hi!", "rejected": "What."},
        {
            "input": {"messages": [{"role": "user", "content": "Hello"}]},
            "preferred_output": [{"role": "assistant", "content": "Hi!"}],
            "non_preferred_output": [{"role": "assistant", "content": "What."}],
        },
        {
            "conversations": [{"from": "human", "value": "Hello"}],
            "chosen": {"from": "gpt", "value": "Hi!"},
            "rejected": {"from": "gpt", "value": "What."},
        },
        {"instruction": "Hello", "chosen": "Hi!", "rejected": "What."},
        {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi!", "rejected": "\n\nHuman: Hello\n\nAssistant: What."},
    ],
    "examples": [
        Preference(prompt=_HELLO, chosen=(Message("assistant", "Hi!"),), rejected=(Message("assistant", "What."),))
    ]
    * 5,
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with a better and a worse reply."""
    pair = columns.pair_columns(row)
    return f"has `{pair[0]}` and `{pair[1]}`" if pair else None


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Preference:
    """Return the row's preference.

    Raises:
        RowError: a reply is missing or empty, the replies are equal, or there is no prompt.
    """
    better, worse = columns.pair_columns(row) or columns.PAIRS[0]
    chosen, rejected = _reply(row.get(better), better), _reply(row.get(worse), worse)
    asked, tools = _prompt(row)
    if not asked:
        asked = _common(chosen, rejected)
    if chosen[: len(asked)] == asked == rejected[: len(asked)]:
        chosen, rejected = chosen[len(asked) :], rejected[len(asked) :]
    for name, reply in ((better, chosen), (worse, rejected)):
        if not any(parts.says_something(m) for m in reply):
            raise RowError("empty-reply", "the reply is empty", field=name)
    if chosen == rejected:
        raise RowError("same-replies", "both replies are the same", field=worse)
    return Preference(
        prompt=asked,
        chosen=chosen,
        rejected=rejected,
        tools=parts.tools(tools),
        place=place,
        meta=parts.rest(meta_from, *COLUMNS),
    )


def _reply(value: Any, field: str) -> tuple[Message, ...]:
    if isinstance(value, str) and _TURN.match(value):
        pieces = _TURN.split(value)[1:]
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        return tuple(Message(roles[who], text.removeprefix(" ")) for who, text in pairs)  # type: ignore[arg-type]
    return parts.reply(value, field)


def _prompt(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], Any]:
    """Return (prompt messages, tools); the prompt is empty where the row leaves it to the replies."""
    given = row.get("input")
    if isinstance(given, Mapping):
        return parts.messages(given.get("messages"), "input.messages"), given.get("tools")
    if "instruction" in row:
        return alpaca.asked(row), row.get("tools")
    if columns.messages_column(row):
        return sharegpt.turns(row), row.get("tools")
    if row.get("prompt"):
        return parts.prompt(row["prompt"], "prompt"), row.get("tools")
    return (), row.get("tools")


def _common(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages both begin with, up to the last one that is not the assistant's."""
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    while length and chosen[length - 1].role == "assistant":
        length -= 1
    return chosen[:length]
