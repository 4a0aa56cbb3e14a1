"""`data.prompt`: how a row's columns become the messages that a model is asked.

The same function fills the template for training, evaluation and serving, so that a served prompt is a trained prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

from metier.core.errors import ConfigError, RowError
from metier.core.sections import Prompt
from metier.core.types import Conversation, Example, Labelled, Message, Text, content_of, identify
from metier.data.content import texts_in
from metier.data.rows import is_binary, no_text

DEFAULT_USER = "{text}"
FILLED_FORMATS = ("prompt_completion", "alpaca", "labelled")
"""Formats whose rows are columns, which `data.prompt.user` can name; the others bring their messages with them."""

LABELS = "labels"
"""The placeholder that the data set's label names fill."""

REPLY_COLUMNS = ("completion", "output")
"""Columns that hold the reply: a prompt cannot name them, for it would tell the answer."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^\W\d][\w .-]*)\}")


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """Return the template with each `{column}` replaced; `{{` and `}}` are braces.

    Raises:
        RowError: `no-prompt-column`, the row lacks a column that the template names; `not-utf8`, it holds no text.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if name not in columns:
            raise RowError("no-prompt-column", "data.prompt names a column that the row lacks", field=name)
        if is_binary(columns[name]):
            raise no_text(name)
        return written(columns[name])

    return _PLACEHOLDER.sub(value, template)


def placeholders(template: str) -> list[str]:
    """Return the columns that a template names."""
    return [match[1] for match in _PLACEHOLDER.finditer(template) if match[1]]


def asked_columns(template: str) -> tuple[str, ...]:
    """Return the columns that a question needs from whoever asks it, each once; `labels` are the data set's own."""
    return tuple(name for name in dict.fromkeys(placeholders(template)) if name != LABELS)


def with_labels(template: str, labels: Sequence[str]) -> str:
    """Return the template with `{labels}` replaced and every other column left open."""
    told = written(labels).replace("{", "{{").replace("}", "}}")
    return _PLACEHOLDER.sub(lambda match: told if match[1] == LABELS else match[0], template)


def literals(template: str | None) -> list[str]:
    """Return the fixed parts of a template, those of at least a few characters."""
    if not template:
        return []
    parts = _PLACEHOLDER.sub("\0", template).split("\0")
    return [part for part in parts if len(part.strip()) > 3]


def fixed_spans(template: str, text: str) -> list[tuple[int, int]] | None:
    """Return where the fixed parts of a template lie in a text, or None where the text was not made by it.

    What stands in front of the first column, between any two, and behind the last, also where it is empty; each part at
    its first place behind the one before.
    """
    first, *between, last = _fixed_parts(template)
    if not text.startswith(first):
        return None
    spans = [(0, len(first))]
    for part in between:
        start = text.find(part, spans[-1][1])
        if start < 0:
            return None
        spans.append((start, start + len(part)))
    start = len(text) - len(last)
    return [*spans, (start, len(text))] if start >= spans[-1][1] and text.endswith(last) else None


@cache
def _fixed_parts(template: str) -> tuple[str, ...]:
    """Return the fixed parts of a template, `{{` as the brace that it becomes; two at least."""
    parts, end = [""], 0
    for match in _PLACEHOLDER.finditer(template):
        parts[-1] += template[end : match.start()] + ("" if match[1] else match[0][0])
        parts += [""] if match[1] else []
        end = match.end()
    parts[-1] += template[end:]
    return tuple(parts) if len(parts) > 1 else (parts[0], "")


def own_texts(example: Example, template: str, system: str) -> Iterator[str]:
    """Yield every text of an example's content but what the recipe says in every row, as `texts_in` yields all of them.

    Left out are the recipe's system message, and the fixed parts of the template in what the user is made to say: of
    that, the columns' values come one by one.

    Args:
        template: `data.prompt.user`, empty for none.
        system: `data.prompt.system`, empty for none.
    """
    for name, part in content_of(example).items():
        if name in ("messages", "prompt", "chosen", "rejected", "completion"):
            for message in part:
                yield from _own(message, template, system)
        else:
            yield from texts_in({name: part})


def _own(message: dict[str, Any], template: str, system: str) -> Iterator[str]:
    said: Any = message.get("content")
    if system and message["role"] == "system" and said == system:
        return
    spans = fixed_spans(template, said) if template and message["role"] == "user" and isinstance(said, str) else None
    if spans is not None:
        message = {**message, "content": [said[end:start] for (_, end), (start, _) in pairwise(spans)]}
    yield from texts_in(message)


def written(value: Any) -> str:
    """Return a column's value or a target as text: whole floats without `.0`, lists with commas, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        return ", ".join(written(v) for v in value)
    return str(value)


def ask(prompt: Prompt, columns: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages that a model is asked about a row: the system message, and the filled user message.

    Raises:
        RowError: `no-prompt-column`.
    """
    user = Message("user", fill(prompt.user or DEFAULT_USER, columns))
    return (Message("system", prompt.system), user) if prompt.system else (user,)


def apply(example: Example, prompt: Prompt, columns: Mapping[str, Any], *, task: str) -> Example:
    """Return the example as `data.prompt` wants it; without a prompt, as it is.

    A labelled row becomes a conversation under every task but `classify`, whose methods need the label itself and fill
    the prompt when they tokenise. A system message is put in front where the row has none.

    Raises:
        RowError: `no-prompt-column`, `empty-prompt`, `not-one-prompt`.
    """
    if isinstance(example, Labelled):
        # Not the row's columns: the label is one of them, and a prompt must not tell it.
        columns = {**example.meta, "text": example.text, "labels": ""}
    if isinstance(example, Labelled) and task != "classify":
        messages = (*ask(prompt, columns), Message("assistant", written(example.target)))
        return identify(Conversation(messages=messages, place=example.place, meta=example.meta))
    if isinstance(example, Labelled):
        # A row that lacks a column, or has nothing in it, is refused now, not when it is tokenised.
        if not ask(prompt, columns)[-1].text.strip():
            named = ", ".join(asked_columns(prompt.user or DEFAULT_USER))
            raise RowError("empty-prompt", "data.prompt is empty with this row", field=named)
        return example
    if isinstance(example, Text) or (prompt.user is None and prompt.system is None):
        return example
    if isinstance(example, Conversation):
        return identify(replace(example, messages=_asked(example.messages, prompt, columns)))
    if prompt.system and example.prompt and example.prompt[0].role != "system":
        return identify(replace(example, prompt=(Message("system", prompt.system), *example.prompt)))  # type: ignore[type-var]
    return example


def check(prompt: Prompt, format_name: str, *, place: Callable[[str], str]) -> None:
    """Refuse a prompt that rows of a format have no use for: an option that nothing reads is an error.

    Args:
        place: says where a key of the recipe stands (Recipe.place).

    Raises:
        ConfigError: E245.
    """
    rows = f"rows of the format `{format_name}` bring their own text"
    fix = "remove `{}`, or map columns: map: {{prompt: …, completion: …}}"
    if prompt.user is not None and format_name not in FILLED_FORMATS:
        raise _without_use("user", rows, place, fix)
    if prompt.system is not None and format_name == "text":
        raise _without_use("system", rows, place, fix)
    if prompt.user is not None and not asked_columns(prompt.user):
        raise ConfigError(
            245,
            "`data.prompt.user` names no column: every row would be asked the same",
            place=place("data.prompt.user"),
            received=prompt.user[:60],
            fix=f'name the column that holds the text in braces, such as "{prompt.user.rstrip()[:30]} {{text}}"',
        )


def check_version(prompt: Prompt, manifest: Mapping[str, Any], *, place: Callable[[str], str]) -> None:
    """Refuse a prompt beside `data.dataset` whose rows became messages when the version was made.

    Raises:
        ConfigError: E245.
    """
    made = Prompt(**(manifest.get("prompt") or {}))
    if "labelled" in manifest["kinds"] or prompt in (Prompt(), made):
        return
    leaf = "user" if prompt.user != made.user else "system"
    why = f"the rows of data:{manifest['name']}@{manifest['version']} carry the prompt they were made with"
    raise _without_use(leaf, why, place, "remove `{}`, or name data.sources instead of data.dataset")


def check_method(prompt: Prompt, method: str, consumes: Sequence[str], *, place: Callable[[str], str]) -> None:
    """Refuse a system message for a method that reads bare text: there are no roles in front of a task head.

    Raises:
        ConfigError: E245.
    """
    if prompt.system is not None and set(consumes) <= {"labelled", "text"}:
        fix = "write it into data.prompt.user, in front of the text, and remove `{}`; or method.kind=sft"
        raise _without_use("system", f"method `{method}` reads the text itself, without roles", place, fix)


def _without_use(leaf: str, why: str, place: Callable[[str], str], fix: str) -> ConfigError:
    key = f"data.prompt.{leaf}"
    return ConfigError(245, f"`{key}` has no use here: {why}", place=place(key), fix=fix.format(key))


def _asked(messages: tuple[Message, ...], prompt: Prompt, columns: Mapping[str, Any]) -> tuple[Message, ...]:
    if prompt.user is not None:
        if sum(m.role == "user" for m in messages) != 1:
            raise RowError("not-one-prompt", "data.prompt.user needs exactly one user message", field="prompt")
        filled = fill(prompt.user, columns)
        messages = tuple(replace(m, content=filled) if m.role == "user" else m for m in messages)
    if prompt.system and messages[0].role != "system":
        messages = (Message("system", prompt.system), *messages)
    return messages
