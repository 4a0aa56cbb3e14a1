"""The examples that training reads and the things that evaluation speaks of.

An *example* is a typed row. It carries `id` (a digest of its content), `place` (where it was read, `train.csv:12`)
and `meta` (the row's other columns, untouched: slices, group keys and subject keys are looked up there).
Every example goes to JSON and back without loss: `to_json(example)`, `from_json(value)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ProblemType = Literal["single_label", "multi_label", "regression"]
PROBLEM_TYPES: tuple[ProblemType, ...] = ("single_label", "multi_label", "regression")


def measured_split(rows: Mapping[str, int]) -> Split:
    """Return the split that a run is measured on at the end: test, or validation where only it has rows."""
    return "validation" if rows.get("validation") and not rows.get("test") else "test"


# ───────────────────────────────────────────────────────────────────────────── messages


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant makes. `arguments_text` is the original string, so that nothing is re-serialised."""

    name: str
    arguments: Mapping[str, Any]
    arguments_text: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `content` is a string, or a tuple of text parts when the row gave parts. `weight` 0 keeps an assistant message
    in the prompt but out of the loss; None means 1 for assistant messages.
    """

    role: Role
    content: str | tuple[str, ...] = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: float | None = None

    @property
    def text(self) -> str:
        """The content as one string; parts are joined without a separator."""
        return self.content if isinstance(self.content, str) else "".join(self.content)


# ───────────────────────────────────────────────────────────────────────────── examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Raw text for continued pre-training: every token is supervised."""

    text: str
    id: str = ""
    place: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A list of messages; the loss is on the assistant's."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    place: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two replies to one prompt, of which the first was preferred."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    place: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One reply to a prompt with a thumb up (True) or down (False)."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    label: bool
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    place: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text with its label: a string (one class), a tuple of strings (several) or a float (regression)."""

    text: str
    target: str | tuple[str, ...] | float
    id: str = ""
    place: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A prompt with whatever its graders need (`item`), for reinforcement learning."""

    prompt: tuple[Message, ...]
    item: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    place: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


Example = Text | Conversation | Preference | Rated | Labelled | Problem
ExampleT = TypeVar("ExampleT", Text, Conversation, Preference, Rated, Labelled, Problem)
KINDS: dict[str, type[Any]] = {
    "text": Text,
    "conversation": Conversation,
    "preference": Preference,
    "rated": Rated,
    "labelled": Labelled,
    "problem": Problem,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def kind_of(example: Example) -> str:
    """Return the example's kind: `text`, `conversation`, `preference`, `rated`, `labelled` or `problem`."""
    return _KIND_OF[type(example)]


def content_of(example: Example) -> dict[str, Any]:
    """Return the example's content as plain data: what is trained on, without id, place and meta."""
    if isinstance(example, Text):
        return {"text": example.text}
    if isinstance(example, Labelled):  # most rows of large data are texts, and written twice
        target = example.target
        return {"text": example.text, "target": list(target) if isinstance(target, tuple) else target}
    return {
        name: _plain(getattr(example, name))
        for name in type(example).__dataclass_fields__
        if name == "target" or (name not in ("id", "place", "meta") and getattr(example, name) not in ((), None))
    }


def identify(example: ExampleT) -> ExampleT:
    """Return the example with `id` set to a digest of its content: 16 hex digits of BLAKE2b."""
    canonical = _CANONICAL.encode({"kind": kind_of(example), **content_of(example)})
    return replace(example, id=hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest())


def to_json(example: Example) -> dict[str, Any]:
    """Return the example as JSON data, with its `kind`."""
    return {
        "kind": kind_of(example),
        "id": example.id,
        "place": example.place,
        **content_of(example),
        "meta": dict(example.meta),
    }


def from_json(value: Mapping[str, Any]) -> Example:
    """Return the example that `to_json` wrote.

    Raises:
        KeyError: an unknown `kind` or a missing field.
    """
    fields = dict(value)
    cls = KINDS[fields.pop("kind")]
    for name in ("messages", "prompt", "chosen", "rejected", "completion"):
        if name in fields:
            fields[name] = tuple(_message(m) for m in fields[name])
    if "tools" in fields:
        fields["tools"] = tuple(fields["tools"])
    if isinstance(fields.get("target"), list):
        fields["target"] = tuple(fields["target"])
    example: Example = cls(**fields)
    return example


def _message(value: Mapping[str, Any]) -> Message:
    fields = dict(value)
    if isinstance(fields.get("content"), list):
        fields["content"] = tuple(fields["content"])
    fields["tool_calls"] = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    return Message(**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, Message | ToolCall):
        return {
            name: _plain(getattr(value, name))
            for name in type(value).__dataclass_fields__
            if getattr(value, name) not in ((), None)
        }
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


# ───────────────────────────────────────────────────────────────────────────── outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a policy produced for one prompt.

    `logprob` is the sum over `num_tokens` tokens in nats, `token_logprobs` its terms; `finish` is `stop` (a stop
    token) or `length`.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish: Literal["stop", "length"]
    token_logprobs: tuple[float, ...] = ()

    @property
    def num_tokens(self) -> int:
        """How many tokens were produced, the stop token included."""
        return len(self.token_ids)
