"""Preparation steps, one file each: pure functions from examples to examples, counted and named in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metier.core.catalog import catalog
from metier.core.recipe import Kind
from metier.core.types import Conversation, Example, Labelled, Message, Problem, Rated, Text, content_of, identify


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made.

    `examples` in their order; `origins`, for each of them, the index of the example it was made from; `note`, one
    sentence with figures; `dropped`, the id and the reason of each example that is gone.
    """

    examples: list[Example]
    origins: list[int]
    note: str
    dropped: list[tuple[str, str]]


def run_step(step: Kind, examples: Sequence[Example], *, place: str = "") -> StepResult:
    """Run one step of a recipe.

    Raises:
        ConfigError: E210 no such step, E211 a wrong option.
    """
    module = catalog("steps").get(step.kind, place=place)
    options = catalog("steps").options(step.kind, step.options, place=place)
    result: StepResult = module.run(list(examples), options)
    return result


def run_step_on_given(step: Kind, examples: Sequence[Example], *, place: str = "") -> StepResult:
    """Run one step on a given validation or test split, of which no row may be dropped.

    A step that only filters is skipped; a row that a rewriting step would drop stays as it was.

    Raises:
        ConfigError: E210 no such step, E211 a wrong option.
    """
    if catalog("steps").get(step.kind, place=place).FILTERS:
        return StepResult(list(examples), list(range(len(examples))), "a given split is never filtered", [])
    result = run_step(step, examples, place=place)
    kept = list(examples)
    for origin, example in zip(result.origins, result.examples, strict=True):
        kept[origin] = example
    return StepResult(kept, list(range(len(kept))), result.note, [])


def map_text(example: Example, change: Callable[[str], str]) -> Example:
    """Return the example with every text of its content changed, and a new id; arguments of tool calls stay."""
    if isinstance(example, Text | Labelled):
        changed: Any = replace(example, text=change(example.text))
    elif isinstance(example, Conversation):
        changed = replace(example, messages=_each(example.messages, change))
    elif isinstance(example, Rated):
        changed = replace(example, prompt=_each(example.prompt, change), completion=_each(example.completion, change))
    elif isinstance(example, Problem):
        changed = replace(example, prompt=_each(example.prompt, change))
    else:
        changed = replace(
            example,
            prompt=_each(example.prompt, change),
            chosen=_each(example.chosen, change),
            rejected=_each(example.rejected, change),
        )
    identified: Example = identify(changed)
    return identified


def num_characters(example: Example) -> int:
    """Return how many characters of text the example's content has, tool calls included."""
    return _characters(content_of(example))


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(part) for name, part in value.items() if name not in ("role", "id", "target", "tools"))
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _each(messages: Sequence[Message], change: Callable[[str], str]) -> tuple[Message, ...]:
    return tuple(
        replace(
            m,
            content=change(m.content) if isinstance(m.content, str) else tuple(map(change, m.content)),
            reasoning=None if m.reasoning is None else change(m.reasoning),
        )
        for m in messages
    )
