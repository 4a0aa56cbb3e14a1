"""Find the assistant's turns in the text of a conversation, and prove that nothing of the row was lost on the way.

A turn is found by rendering the conversation twice, up to the turn and through it: never by searching for a marker.
All positions are characters of the rendered text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metier.core.errors import DataError
from metier.core.types import Conversation, Message
from metier.data.dialect import Dialect
from metier.data.render import TemplateRefusal


@dataclass(frozen=True, slots=True)
class Turn:
    """One trained reply: from the end of its prompt to the end of its end-of-turn token."""

    start: int
    end: int
    weight: float
    index: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One text to tokenise: `cuts` are the ends of all prompts in it, `turns` those replies that are trained."""

    text: str
    cuts: tuple[int, ...]
    turns: tuple[Turn, ...]
    id: str
    place: str


class Planner:
    """Turns conversations into plans.

    Args:
        dialect: the chat template.
        stop_texts: how the end-of-turn tokens are written.
        notes: what had to be done to rows is counted here.
    """

    def __init__(self, dialect: Dialect, stop_texts: Sequence[str], notes: Counter[str]) -> None:
        self._dialect = dialect
        self._stop = re.compile("|".join(re.escape(s) for s in sorted(stop_texts, key=len, reverse=True)) or r"(?!)")
        self._notes = notes

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], place: str = "") -> Plan:
        """Return the text that ends where the next reply begins, with the cuts of earlier replies.

        Raises:
            DataError: E353, a field is missing from the render; E355, the template refuses the conversation.
        """
        adapted = self._dialect.adapt(messages)
        with _Refusals(place):
            text = self._dialect.prompt(adapted, tools)
            cuts = self._earlier_cuts(adapted, tools, text)
        self._require_fields(text, adapted, tools, place)
        return Plan(text, (*cuts, len(text)), (), "", place)

    def conversation(self, example: Conversation) -> list[Plan]:
        """Return one plan, or one per trained turn where the template rewrites earlier turns; none without a turn.

        Raises:
            DataError: E350, a reply cannot be located; E351, a reply has no end-of-turn token; E353, a field is
                missing from the render; E355, the template refuses the conversation.
        """
        adapted = self._dialect.adapt(example.messages, self._notes)
        replies = [i for i, m in enumerate(adapted) if m.role == "assistant"]
        if not replies:
            return []
        if replies[-1] + 1 < len(adapted):
            self._notes["messages after the last reply left out: nothing is trained on them"] += 1
            adapted = adapted[: replies[-1] + 1]
        with _Refusals(example.place):
            whole = self._dialect.whole(adapted, example.tools)
            prompts = self._prompts(adapted, replies, example.tools)
            through = {
                i: whole if i == replies[-1] else self._dialect.whole(adapted[: i + 1], example.tools)
                for i in prompts
                if _weight(adapted[i]) > 0
            }
        turns = {i: self._turn(adapted, i, prompts[i], text, example.place) for i, text in through.items()}
        one = all(whole.startswith(p) for p in prompts.values()) and all(
            whole.startswith(text[: turns[i].end]) for i, text in through.items()
        )
        if one:
            plans = [Plan(whole, tuple(map(len, prompts.values())), tuple(turns.values()), example.id, example.place)]
        else:
            self._notes["split into one example per turn: the template rewrites earlier turns"] += 1
            plans = [
                Plan(
                    text,
                    (
                        *(len(prompts[j]) for j in prompts if j < i and prompts[i].startswith(prompts[j])),
                        len(prompts[i]),
                    ),
                    (turns[i],),
                    example.id,
                    example.place,
                )
                for i, text in through.items()
            ]
        for plan in plans:
            self._prove(plan, adapted, example)
        return plans

    # ── positions ──

    def _prompts(self, adapted: Sequence[Message], replies: list[int], tools: Sequence[Any]) -> dict[int, str]:
        found = {}
        for i in replies:
            if i == 0:
                # Nothing stands before an opening reply; most templates cannot write an empty conversation.
                if _weight(adapted[0]) > 0:
                    self._notes["opening reply not trained: no prompt stands before it"] += 1
                continue
            found[i] = self._dialect.prompt(adapted[:i], tools)
        return found

    def _earlier_cuts(self, adapted: Sequence[Message], tools: Sequence[Any], text: str) -> list[int]:
        earlier = [
            self._dialect.prompt(adapted[:i], tools) for i, m in enumerate(adapted) if i and m.role == "assistant"
        ]
        return [len(p) for p in earlier if text.startswith(p)]

    def _turn(self, adapted: Sequence[Message], i: int, prompt: str, through: str, place: str) -> Turn:
        if not through.startswith(prompt):
            raise DataError(
                350,
                "The chat template's prompt is not how its conversation begins: the reply cannot be located",
                place=f"{place} messages.{i}",
                fix="set model.chat_template to `chatml`, `plain` or a corrected Jinja file",
            )
        stops = list(self._stop.finditer(through, self._content_end(adapted[i], through, len(prompt))))
        if not stops:
            raise DataError(
                351,
                "The chat template ends a reply without an end-of-turn token: the model would never learn to stop",
                place=f"{place} messages.{i}",
                expected="a special token after the reply, such as the end-of-sequence token",
                fix="set model.chat_template to `plain` or to a Jinja file that writes {{ eos_token }}",
            )
        stop = stops[-1] if adapted[i].tool_calls else stops[0]
        return Turn(len(prompt), stop.end(), _weight(adapted[i]), i)

    def _content_end(self, message: Message, through: str, start: int) -> int:
        """Return where the content ends, so that a stop marker inside it is not taken for the end of the turn.

        The content is looked for from the front: from the back, a reply `s` would be found inside `</s>`.
        """
        for content in (message.text, message.text.strip()):
            if through.startswith(self._dialect.lead + content, start):
                return start + len(self._dialect.lead) + len(content)
        for earlier in (message.reasoning, message.text):
            at = through.find(earlier.strip(), start) if earlier else -1
            start = at + len((earlier or "").strip()) if at >= 0 else start
        return start

    # ── proofs ──

    def _prove(self, plan: Plan, adapted: Sequence[Message], example: Conversation) -> None:
        last = plan.turns[-1].index if plan.turns else 0
        self._require_fields(plan.text, adapted[: last + 1], example.tools, example.place)
        for turn in plan.turns:
            message, span = adapted[turn.index], plan.text[turn.start : turn.end]
            stop = [m for m in self._stop.finditer(span) if m.end() == len(span)]
            said = span[: stop[0].start()] if stop else span
            for field, texts in _fields(message):
                if not all(_appears(t, said) for t in texts):
                    raise _missing(example.place, turn.index, field)
            if not message.reasoning and not message.tool_calls:
                self._require_only(said, message, example.place, turn.index)

    def _require_only(self, said: str, message: Message, place: str, index: int) -> None:
        """Refuse a span that holds more than the reply and what the template writes around every reply."""
        tail = self._stop.split(self._dialect.tail, maxsplit=1)[0]
        if said == self._dialect.lead + message.text + tail:
            return
        bare, content = _bare(said), _bare(message.text)
        if bare not in (content, _bare(self._dialect.lead) + content + _bare(tail)):
            raise DataError(
                350,
                "The trained span is not the assistant's text: the template writes something else into this reply",
                place=f"{place} messages.{index}",
                fix="set model.chat_template to `chatml`, `plain` or a corrected Jinja file",
            )
        if message.text not in said:
            self._notes["white space around a reply changed by the template"] += 1

    def _require_fields(
        self, text: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], place: str
    ) -> None:
        for number, tool in enumerate(tools):
            name = str((tool.get("function") or tool).get("name", ""))
            if not _appears(name, text):
                raise _missing(place, None, f"tools.{number}")
        for index, message in enumerate(messages):
            for field, texts in _fields(message):
                # A template may drop the reasoning of earlier turns: the trained turn is proved by itself.
                if field == "reasoning" or all(_appears(t, text) for t in texts):
                    continue
                answer = message.text.rpartition("</think>")[2]
                if field == "content" and message.role == "assistant" and _appears(answer, text):
                    continue
                raise _missing(place, index, field)


class _Refusals:
    """Turn a template's refusal into E355 with the row's place."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TemplateRefusal):
            raise DataError(
                355,
                f"The chat template refuses this conversation: {error}",
                place=self._place,
                fix="check the order of the roles, or set model.chat_template",
            ) from None


def _weight(message: Message) -> float:
    return 1.0 if message.weight is None else float(message.weight)


def _fields(message: Message) -> Iterator[tuple[str, list[str]]]:
    """Yield each non-empty field with the texts that must be found in the render."""
    if isinstance(message.content, str):
        if message.content.strip():
            yield "content", [message.content]
    else:
        for number, part in enumerate(message.content):
            if part.strip():
                yield f"content.{number}", [part]
    if message.reasoning and message.reasoning.strip():
        yield "reasoning", [message.reasoning]
    for number, call in enumerate(message.tool_calls):
        yield f"tool_calls.{number}", [call.name, *_leaves(call.arguments)]


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield str(name)
            yield from _leaves(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _leaves(child)
    elif isinstance(value, str):
        yield value
    elif value is not None and not isinstance(value, bool):
        yield json.dumps(value)


def _appears(needle: str, text: str) -> bool:
    """Return whether a field's text is in the render: as it is, escaped as JSON, or with other white space."""
    needle = needle.strip()
    if needle in text:
        return True
    escaped = (json.dumps(needle, ensure_ascii=False)[1:-1], json.dumps(needle)[1:-1])
    return any(e in text for e in escaped) or _bare(needle) in _bare(text)


def _bare(text: str) -> str:
    return "".join(text.split())


def _missing(place: str, index: int | None, field: str) -> DataError:
    where = field if index is None else f"messages.{index}.{field}"
    return DataError(
        353,
        f"The chat template drops `{where}`: the model would never see it",
        place=place,
        fix="set model.chat_template to `chatml`, `plain` or a Jinja file that writes this field",
    )
