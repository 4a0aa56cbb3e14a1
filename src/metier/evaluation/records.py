"""From examples to Predictions and from Predictions to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from metier.core.errors import Bug
from metier.core.project import write_bytes
from metier.core.types import Conversation, Example, Labelled
from metier.evaluation.protocols import EncoderLike
from metier.metrics import Prediction, Target


def prediction_of(example: Example, **values: Any) -> Prediction:
    """Return the part of a prediction that every kind shares; `reference` None takes the example's own target."""
    reference = values.pop("reference", None)
    if reference is None:
        reference = target_of(example)
    return Prediction(
        id=example.id,
        place=example.place,
        prompt=prompt_text(example),
        reference=reference,
        meta=example.meta,
        **values,
    )


def target_of(example: Example) -> Target:
    """Return what was right: the label, the number, the last reply or the text."""
    if isinstance(example, Labelled):
        return float(example.target) if isinstance(example.target, int | float) else example.target
    return reply_of(example) if isinstance(example, Conversation) else getattr(example, "text", "")


def reply_of(conversation: Conversation) -> str:
    """Return the last message as text; a bare tool call as JSON."""
    last = _until_reply(conversation).messages[-1]
    if last.text or not last.tool_calls:
        return last.text
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in last.tool_calls]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)


def prompt_text(example: Example) -> str:
    """Return what a reader sees as the question."""
    if not isinstance(example, Conversation):
        return getattr(example, "text", "")
    messages = _until_reply(example).messages[:-1]
    if len(messages) == 1:
        return messages[0].text
    return "\n".join(f"{message.role}: {message.text}" for message in messages)


def as_conversation(encoder: EncoderLike, example: Example) -> Conversation:
    """Return the row as a conversation that ends in the reply to be given."""
    if isinstance(example, Labelled):
        return encoder.labelled_conversation(example)
    if not isinstance(example, Conversation):
        raise Bug(152, f"A {type(example).__name__} row cannot be answered", place=example.place)
    return _until_reply(example)


def _until_reply(conversation: Conversation) -> Conversation:
    """Leave out what stands after the last reply."""
    messages = conversation.messages
    last = max((k for k, m in enumerate(messages) if m.role == "assistant"), default=len(messages) - 1)
    return replace(conversation, messages=messages[: last + 1])


# ───────────────────────────────────────────────────────────────────────────── files


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write one JSON object per line; probabilities are rounded to six digits."""
    write_bytes(path, b"".join(_line(p) for p in predictions))


def _line(prediction: Prediction) -> bytes:
    value = {f.name: getattr(prediction, f.name) for f in fields(prediction)}
    if prediction.label_probs is not None:
        value["label_probs"] = {k: float(f"{p:.6g}") for k, p in prediction.label_probs.items()}
    value["meta"] = dict(prediction.meta)
    value["correct"] = prediction.correct
    # A lone surrogate has no UTF-8; written as \udXXX it is still the same JSON string.
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote."""
    found = []
    for line in path.read_bytes().splitlines():
        value = json.loads(line)
        del value["correct"]
        for side in ("reference", "output"):
            if isinstance(value[side], list):
                value[side] = tuple(value[side])
        found.append(Prediction(**value))
    return found
