"""The steps of a preparation that come before the division, one after another, and what the manifest says of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metier.core.catalog import catalog
from metier.core.errors import ConfigError, DataError
from metier.core.recipe import Recipe
from metier.core.sections import Kind
from metier.data.reading import Progress
from metier.data.rows import shown_column
from metier.data.spool import Choice, Examples, characters_in, chosen, joined
from metier.data.stages import State
from metier.data.steps import Around, StepResult, after_split, columns_of, run_step, run_step_on_given


def prepare(
    recipe: Recipe,
    state: State,
    commit: Callable[[State], None] = lambda state: None,
    progress: Progress | None = None,
) -> None:
    """Run the steps that come before the division, from the one on that the state has reached; each is added to it.

    Steps see train and auto rows together; given validation and test rows are rewritten like them but never dropped.

    Args:
        commit: keeps the state behind a step. Not behind one that draws surrogates, nor later: they would be written
            down before the vault that they are drawn from is.

    Raises:
        ConfigError: E210, E211; E215 a column that no row has.
        DataError: E305, nothing is left.
    """
    if not state.num_done:
        _check_columns(recipe, state)
    around, drawing = Around.of(recipe), False
    for index, step in enumerate(recipe.data.steps):
        drawing = drawing or draws(step)
        if after_split(step) or index < state.num_done:
            continue
        _advance(state, step, recipe.place(f"data.steps.{index}"), around, progress)
        state.num_done = index + 1
        if not drawing:
            commit(state)
    if not any(map(len, state.pools.values())):
        raise DataError(
            305,
            "No examples are left",
            place=recipe.place("data"),
            received=f"{state.num_read:,} rows before the steps",
            fix="look at what each step drops: metier data check",
        )


def _advance(state: State, step: Kind, place: str, around: Around, progress: Progress | None) -> None:
    """Run one step; the state has its rows and its record then, and nothing else of it is left in memory."""
    pools = state.pools
    free = joined(pools[name] for name in ("train", "auto") if name in pools)
    num_train = len(pools.get("train", ()))
    result = run_step(step, watched(free, step.kind, progress), place=place, around=around)
    given = {
        name: run_step_on_given(step, pools[name], place=place, around=around)
        for name in ("validation", "test")
        if pools.get(name)
    }
    of_train = np.asarray(result.origins, dtype=np.int64) < num_train
    sides = {"train": np.flatnonzero(of_train), "auto": np.flatnonzero(~of_train)}
    after = {name: made.examples for name, made in given.items()}
    after |= {name: chosen(result.examples, rows) for name, rows in sides.items() if len(rows)}
    notes = {name: made.note for name, made in given.items()}
    state.records.append(record_of(step, result, list(pools.values()), list(after.values()), notes))
    state.pools = {name: state.spool.taking(pool) for name, pool in after.items()}


def watched(examples: Examples, what: str, progress: Progress | None) -> Examples:
    """Return the examples, of whose reading `progress` is told."""
    if progress is None or not isinstance(examples, Choice):
        return examples
    progress(what, 0, len(examples))
    return examples.watched(lambda done: progress(what, done, len(examples)))


def _check_columns(recipe: Recipe, state: State) -> None:
    """Refuse a misspelt column of `deidentify`: the one that was meant would stay as it is.

    Raises:
        ConfigError: E215.
    """
    for index, step in enumerate(recipe.data.steps):
        for column in columns_of([step]) if step.kind == "deidentify" else ():
            pools = [pool for pool in state.pools.values() if len(pool)]
            if pools and not any(column in example.meta for pool in pools for example in pool):
                known = sorted({name for pool in pools for e in pool[:100] for name in e.meta})
                raise ConfigError(
                    215,
                    f"`deidentify` names the column `{column}`, which no row has",
                    place=recipe.place(f"data.steps.{index}"),
                    expected=", ".join(map(shown_column, known[:20])) or "no column stays beside the text",
                    fix="write the column as the source has it, or leave it out",
                )


def record_of(
    step: Kind, result: StepResult, before: Sequence[Examples], after: Sequence[Examples], given: dict[str, str]
) -> dict[str, Any]:
    """Return what the manifest says of a step; `review` is taken out again when the list is written."""
    return {
        "name": step.kind,
        "options": step.options,
        "after_split": after_split(step),
        "rows_in": sum(map(len, before)),
        "rows_out": sum(map(len, after)),
        "characters_in": sum(map(characters_in, before)),
        "characters_out": sum(map(characters_in, after)),
        "note": result.note,
        "given": given,
        "dropped": dict(Counter(reason for _, reason in result.dropped)),
        **({"review": result.review} if result.review else {}),
    }


def draws(step: Kind) -> bool:
    """Say whether a step draws surrogates from the vault."""
    return step.kind == "deidentify" and catalog("steps").options(step.kind, step.options).strategy == "surrogate"
