"""The question of a run: how what somebody types becomes the messages that the run was trained on.

`predict` and `chat` ask through here, so that a served prompt is a trained prompt (pitfall 10). Labelled rows are asked
by the encoder's question, rows that became conversations by the prompt their dataset version was made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.core.errors import DataError
from metier.core.sections import Prompt
from metier.core.types import Message
from metier.data.prompt import DEFAULT_USER, ask, asked_columns, with_labels
from metier.evaluation.predict import fit

if TYPE_CHECKING:
    from metier.actions.compose import Parts
    from metier.data.template import Encoder


@dataclass(frozen=True, slots=True)
class Question:
    """How a run is asked.

    Attributes:
        prompt: system and user message as in training.
        columns: what an input must bring.
        once: each message is a conversation of its own, since the rows were; False: turns follow one another.
        continues: the run was trained on texts: it goes on with what it is given, and no template stands around that.
        labels: the data set's label names, for `{labels}`.
        synonyms: pairs of names for one column, by the sources' `map`.
    """

    prompt: Prompt
    columns: tuple[str, ...]
    once: bool
    continues: bool = False
    labels: tuple[str, ...] = ()
    synonyms: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, parts: Parts) -> Question:
        """Return the question of a run's parts."""
        manifest = parts.dataset.manifest
        if parts.policy.head is not None:
            prompt = parts.encoder.row_prompt
        elif "labelled" in manifest["kinds"]:
            prompt = parts.encoder.question
        else:
            prompt = Prompt(**(manifest.get("prompt") or {}))
        return cls(
            prompt=prompt,
            columns=asked_columns(prompt.user or DEFAULT_USER),
            once=prompt.user is not None,
            continues="text" in manifest["kinds"],
            labels=tuple(manifest.get("labels") or ()),
            synonyms=tuple((name, own) for s in manifest.get("sources", ()) for name, own in s.get("map", {}).items()),
        )

    def fields(self, given: str | Mapping[str, Any], *, place: str = "") -> dict[str, Any]:
        """Return an input's columns, complete.

        Args:
            given: a text, which fills the one column that is asked for, or an object with the recipe's columns.

        Raises:
            DataError: E363, a column is missing, or one text came where several columns are needed.
        """
        if isinstance(given, str):
            if len(self.columns) > 1:
                raise self._lacking(
                    "An input is one text, but the run's prompt asks for several columns", "text", place
                )
            return {"text": given, self.columns[0]: given}
        row = dict(given)
        for name, own in self.synonyms:
            if name in row or own in row:
                row = {name: row.get(own), own: row.get(name), **row}
        if self.columns == ("text",) and "text" not in row and "prompt" in row:
            row["text"] = row["prompt"]
        missing = [name for name in self.columns if name not in row]
        if missing:
            named = " and ".join(f"`{name}`" for name in missing)
            raise self._lacking(f"An input lacks the column {named} that the run's prompt names", ", ".join(row), place)
        return row

    def messages(self, given: str | Mapping[str, Any], *, place: str = "") -> tuple[Message, ...]:
        """Return the messages of an input, written by the same function as in training.

        Raises:
            DataError: E363, as `fields`, or `messages` for a run that asks by a prompt of its own.
        """
        if isinstance(given, Mapping) and "messages" in given and "messages" not in self.columns:
            if self.once:
                raise self._lacking("An input brings messages, but the run asks by its own prompt", "messages", place)
            return _spoken(given["messages"], place)
        return ask(self.prompt, {**self.fields(given, place=place), "labels": self.labels})

    def ids(self, given: str | Mapping[str, Any], encoder: Encoder, *, place: str = "") -> tuple[list[int], int]:
        """Return the token ids of an input's prompt, and how many of its start did not fit: as evaluation asks.

        Raises:
            DataError: E363, as `messages`.
        """
        if self.continues:
            whole = encoder.beginning(str(self.fields(given, place=place)["text"]))
        else:
            whole = encoder.prompt(self.messages(given, place=place))
        return fit(whole, encoder.max_length - 1)

    def written(self) -> dict[str, str]:
        """Return the prompt as plain data for another runtime, `{labels}` filled; empty where messages are the rows."""
        found = self.prompt.model_dump(exclude_none=True)
        return {**found, "user": with_labels(found["user"], self.labels)} if "user" in found else found

    def _lacking(self, what: str, received: str, place: str) -> DataError:
        columns = ", ".join(self.columns)
        return DataError(
            363,
            what,
            place=place,
            received=received or "nothing",
            expected=columns,
            fix=f"metier predict RUN --file rows.jsonl, one object with {columns} per line",
        )


def _spoken(messages: Any, place: str) -> tuple[Message, ...]:
    if (
        not isinstance(messages, Sequence)
        or not messages
        or not all(
            isinstance(m, Mapping)
            and m.get("role") in ("system", "user", "assistant")
            and isinstance(m.get("content"), str)
            for m in messages
        )
    ):
        raise DataError(
            363,
            "`messages` of an input cannot be read",
            place=place,
            expected='a list of {"role": "system" | "user" | "assistant", "content": "…"}',
            fix="metier predict RUN 'a text'",
        )
    return tuple(Message(m["role"], m["content"]) for m in messages)
