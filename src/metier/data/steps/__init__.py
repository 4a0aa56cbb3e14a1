"""Preparation steps, one file each: pure functions from examples to examples, counted and named in the manifest.

A step is `run(examples, options) -> StepResult`, or `run(examples, options, around)` where it asks what the recipe says
beside the step. The examples may lie on disk: it goes through them one by one, keeps facts and numbers rather than
rows, and makes its result by `chosen` or `Rewritten` (data/spool.py). It sees train and `auto` rows before they are
divided; given validation and test rows are rewritten by it but never dropped (`FILTERS`). One that must know the other
splits says `AFTER_SPLIT = True`: it runs on the training rows once the rows are divided, and chooses among them (drops
or repeats), so that what is held out is never touched and the proof of no overlap, which is made behind it, stands for
the rows that are written.

What the recipe itself says in every row (`data.prompt`) is no row's text: no step changes it, since the model is asked
with it as it stands (`map_text`).

A step that opens files names them in `reads(options)`, one with optional packages in `packages(options)`, one that
looks at columns in `columns(options)`: they are part of what a version is found by, and what is missing is said first.
One after which rows cannot be told apart by a column any more names it in `removes(options)`: nothing else may need it.
One after which a column does not say any more whose a row is names it in `blurs(options)`: it may be no subject key.
One after which the values of a column do not lie in their order any more names it in `reorders(options)`: nothing may
be divided by it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from metier.core.catalog import catalog
from metier.core.errors import ConfigError
from metier.core.extras import need
from metier.core.recipe import Recipe
from metier.core.sections import Kind, Prompt
from metier.core.types import (
    Conversation,
    Example,
    Labelled,
    Message,
    Problem,
    Rated,
    Split,
    Text,
    ToolCall,
    identify,
)
from metier.data.prompt import fixed_spans, literals
from metier.data.spool import Examples, replaced


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made.

    `examples` in their order; `origins`, for each of them, the index of the example it was made from; `note`, one
    sentence with figures; `dropped`, the id and the reason of each example that is gone. `review` is a ranked list for
    a person, with the rows' text: it goes to a file under `private/` and nowhere else.
    """

    examples: Examples
    origins: list[int]
    note: str
    dropped: list[tuple[str, str]]
    review: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sign:
    """What `metier data check` says where a step that the recipe lacks would act; a step's module has it as SIGN.

    `code` and `what` are the card's; `options` those that the step is tried and recommended with; tried on at most
    `max_rows` training rows, evenly taken.
    """

    code: str
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class Around:
    """What a step may ask beside its rows.

    `held_out`: the rows of `validation` and `test`, for a step with AFTER_SPLIT alone; `path`: where a path of the
    recipe lies; `literals`: the fixed parts of `data.prompt.user`, which are the same in every row; `template` and
    `system`: `data.prompt` itself; `subjects`: the columns that say whom a row is about.
    """

    held_out: Mapping[Split, Examples] = field(default_factory=dict)
    path: Callable[[str], Path] = Path
    literals: Sequence[str] = ()
    template: str = ""
    system: str = ""
    subjects: Sequence[str] = ()

    @classmethod
    def of(cls, recipe: Recipe, prompt: Prompt | None = None, **seen: Any) -> Around:
        """Return what a recipe says, or the `prompt` that the rows were made with, and what else there is to see."""
        prompt = prompt or recipe.data.prompt
        subjects = [s.permission.subject_key for s in recipe.data.sources if s.permission and s.permission.subject_key]
        return cls(
            literals=literals(prompt.user),
            template=prompt.user or "",
            system=prompt.system or "",
            subjects=sorted(set(subjects)),
            **seen,
        )


ALONE = Around()
"""A step of no recipe: there is nothing to ask."""


def after_split(step: Kind, *, place: str = "") -> bool:
    """Say whether a step runs on the training rows once the rows are divided.

    Raises:
        ConfigError: E210 no such step.
    """
    return bool(getattr(catalog("steps").get(step.kind, place=place), "AFTER_SPLIT", False))


def check_steps(recipe: Recipe) -> None:
    """Refuse a recipe whose steps cannot run, before its rows are read.

    Raises:
        ConfigError: E210 no such step, E211 a wrong option, E213 a step that runs earlier than it is listed, E214 a
            column that a step takes away and something else needs.
        MachineError: E450, a package is missing.
    """
    behind = ""
    for index, step in enumerate(recipe.data.steps):
        place = recipe.place(f"data.steps.{index}")
        for package, why in _asked(step, "packages", place):
            need(package, why)
        needed, gone = _needed(recipe, index), set(_asked(step, "removes", place))
        if recipe.data.split.time_by in _asked(step, "reorders", place):
            gone.add(recipe.data.split.time_by)
        subjects = {s.permission.subject_key for s in recipe.data.sources if s.permission}
        gone |= subjects.intersection(_asked(step, "blurs", place))
        for column in sorted(gone & needed.keys()):
            needed_by = needed[column]
            raise ConfigError(
                214,
                f"`{step.kind}` takes away what the column `{column}` says, and {needed_by} needs it",
                place=place,
                expected="columns that nothing else names",
                fix="`keep` or `year`, which keep the order, or divide by another column"
                if needed_by == "data.split.time_by"
                else f"`strategy: surrogate`, which keeps a person's rows together, or leave `{column}` out of one",
            )
        if after_split(step, place=place):
            behind = step.kind
        elif behind:
            raise ConfigError(
                213,
                f"`{step.kind}` is listed behind `{behind}`, but runs before it: `{behind}` takes the training rows"
                " once all rows are divided",
                place=place,
                expected=f"`{step.kind}` before `{behind}`",
                fix="write the steps in the order in which they run",
            )


def _needed(recipe: Recipe, index: int) -> dict[str, str]:
    """Return column → the key of the recipe that needs it, but for the step of this number."""
    found = dict.fromkeys(recipe.evaluation.slices, "evaluation.slices")
    for number, step in enumerate(recipe.data.steps):
        if number != index:
            found |= dict.fromkeys(_asked(step, "columns"), f"data.steps.{number} ({step.kind})")
    for number, source in enumerate(recipe.data.sources):
        if source.permission and source.permission.subject_key:
            found[source.permission.subject_key] = f"data.sources.{number}.permission.subject_key"
    if recipe.data.split.group_by:
        found[recipe.data.split.group_by] = "data.split.group_by"
    if recipe.data.split.time_by:
        found[recipe.data.split.time_by] = "data.split.time_by"
    return found


def packages_of(steps: Iterable[Kind]) -> list[str]:
    """Return the import names of the optional packages that the steps use."""
    return sorted({package for step in steps for package, _ in _asked(step, "packages")})


def columns_of(steps: Iterable[Kind]) -> list[str]:
    """Return the columns that the steps look at: they stay in `meta` whatever the format does with them."""
    return sorted({column for step in steps for column in _asked(step, "columns")})


def files_of(steps: Iterable[Kind]) -> list[str]:
    """Return the paths, as the recipe has them, of the files that the steps read."""
    return sorted({path for step in steps for path in _asked(step, "reads")})


def _asked(step: Kind, what: str, place: str = "") -> list[Any]:
    """Return what a step says of itself with these options; nothing where it says nothing."""
    module = catalog("steps").get(step.kind, place=place)
    options = catalog("steps").options(step.kind, step.options, place=place)
    ask = getattr(module, what, None)
    return list(ask(options)) if ask else []


def run_step(step: Kind, examples: Examples, *, place: str = "", around: Around | None = None) -> StepResult:
    """Run one step of a recipe.

    Args:
        around: what a step may ask beside these rows; without it there is nothing to see.

    Raises:
        ConfigError: E210 no such step, E211 a wrong option.
    """
    module = catalog("steps").get(step.kind, place=place)
    options = catalog("steps").options(step.kind, step.options, place=place)
    extra = (around or ALONE,) if "around" in inspect.signature(module.run).parameters else ()
    result: StepResult = module.run(examples, options, *extra)
    return result


def run_step_on_given(step: Kind, examples: Examples, *, place: str = "", around: Around | None = None) -> StepResult:
    """Run one step on a given validation or test split, of which no row may be dropped.

    A step that only filters is skipped; a row that a rewriting step would drop stays as it was.

    Raises:
        ConfigError: E210 no such step, E211 a wrong option.
    """
    if catalog("steps").get(step.kind, place=place).FILTERS:
        return StepResult(examples, list(range(len(examples))), "a given split is never filtered", [])
    result = run_step(step, examples, place=place, around=around)
    kept = replaced(examples, result.origins, result.examples)
    return StepResult(kept, list(range(len(kept))), result.note, [])


def map_text(
    example: Example, change: Callable[[str], str], around: Around = ALONE, *, arguments: bool = False
) -> Example:
    """Return the example with every text of its content changed, and a new id.

    What the recipe says in every row stays as it is, since the model is asked with it: its system message, and the
    fixed parts of `data.prompt.user`. Where `change` would touch those, it is given the columns' values one by one.
    Where all texts stay as they were, it is the very example that was given.

    Args:
        example: any kind; labels, tools and the `item` of a problem stay.
        change: text → text.
        around: what the recipe says.
        arguments: change the names of speakers and the texts in arguments of tool calls, too.
    """

    def each(messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(_changed(message, change, around, arguments=arguments) for message in messages)

    if isinstance(example, Text | Labelled):
        changed: Any = replace(example, text=change(example.text))
    elif isinstance(example, Conversation):
        changed = replace(example, messages=each(example.messages))
    elif isinstance(example, Rated):
        changed = replace(example, prompt=each(example.prompt), completion=each(example.completion))
    elif isinstance(example, Problem):
        changed = replace(example, prompt=each(example.prompt))
    else:
        changed = replace(
            example, prompt=each(example.prompt), chosen=each(example.chosen), rejected=each(example.rejected)
        )
    if changed == example:
        return example
    identified: Example = identify(changed)
    return identified


def map_leaves(value: Any, change: Callable[[str], str], name: str = "") -> Any:
    """Return JSON data with every string and whole number in it changed; keys stay.

    A value is read behind the key it stands under (`api_key: …`), since that often says what it is. A number stays one
    where what it becomes is one.
    """
    if isinstance(value, str):
        front = f"{name}: " if name and value else ""
        made = change(front + value)
        return made.removeprefix(front) if made.startswith(front) else change(value)
    if isinstance(value, int) and not isinstance(value, bool):
        written = str(value)
        made = map_leaves(written, change, name)
        return value if made == written else int(made) if re.fullmatch("[1-9][0-9]{0,17}", made) else made
    if isinstance(value, Mapping):
        return {key: map_leaves(part, change, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [map_leaves(part, change, name) for part in value]
    return value


def _changed(message: Message, change: Callable[[str], str], around: Around, *, arguments: bool) -> Message:
    if around.system and message.role == "system" and message.content == around.system:
        return message
    filled = around.template if message.role == "user" else ""
    content = message.content
    made = replace(
        message,
        content=_outside(filled, content, change) if isinstance(content, str) else tuple(map(change, content)),
        reasoning=None if message.reasoning is None else change(message.reasoning),
    )
    if not arguments:
        return made
    named = message.name is not None and message.role != "tool"  # a tool's name is the function's
    return replace(
        made,
        name=map_leaves(message.name, change, "name") if named else message.name,
        tool_calls=tuple(_changed_call(call, change) for call in message.tool_calls),
    )


def _outside(template: str, text: str, change: Callable[[str], str]) -> str:
    """Return the text changed, the fixed parts of the template that was filled as they were."""
    made = change(text)
    spans = fixed_spans(template, text) if template and made != text else None
    if spans is None or fixed_spans(template, made) is not None:
        return made
    pieces = [text[slice(*spans[0])]]
    for (_, end), (start, stop) in pairwise(spans):
        pieces += [change(text[end:start]), text[start:stop]]
    return "".join(pieces)


def _changed_call(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    """Return the call with the texts of its arguments changed; their JSON is written anew where it says something else.

    That is also where it gives a key twice: then `arguments` has only what the last one says.
    """
    changed = map_leaves(call.arguments, change)
    if changed == call.arguments and not _says_twice(call.arguments_text):
        return call
    return replace(call, arguments=changed, arguments_text=json.dumps(changed, ensure_ascii=False))


def _says_twice(text: str) -> bool:
    """Say whether an object in this JSON gives a key twice."""
    twice = False

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice = twice or len(pairs) > len(dict(pairs))
        return dict(pairs)

    try:
        json.loads(text, object_pairs_hook=made)
    except ValueError:  # no arguments may be an empty text
        return False
    return twice
