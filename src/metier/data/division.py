"""How the rows of a preparation are divided into train, validation and test, and the proof that they are.

- `split: train|validation|test` gives a split: its rows are never moved or dropped, its leaks are counted.
- `split: auto` rows are divided: into train and into those of validation and test that no source gives. One that is
  alike to a row of a given train split, or has its group key, goes to train, too.
- Where a train split is given, nothing is `auto` and no source gives a validation split, validation is held out of
  train (`data.split.validation`; 0 keeps train whole): a checkpoint is chosen on it, and never on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metier.core.errors import DataError, RowError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Example, Split
from metier.data import chronology
from metier.data.preparing import record_of, watched
from metier.data.prompt import literals
from metier.data.quarantine import Quarantine
from metier.data.reading import Progress, named_path
from metier.data.similar import Compared, Likeness, comparable, liken
from metier.data.split import Previous, assign, group_keys, proof
from metier.data.spool import Examples, chosen, joined
from metier.data.steps import Around, after_split, run_step
from metier.data.versions import Dataset


def divide(
    recipe: Recipe,
    project: Project,
    pools: Mapping[str, Examples],
    previous: Previous | None,
    quarantine: Quarantine,
    progress: Progress | None = None,
) -> tuple[dict[Split, Examples], dict[str, Any], list[dict[str, Any]]]:
    """Return the examples by split, the manifest's `split` and `split_proof`, and a record per step on train.

    Raises:
        DataError: E322, no train rows; E324, too few different times.
    """
    options = recipe.data.split
    divided, shares = _what_to_divide(recipe, pools)
    pool: Examples = pools[divided] if divided else []
    by_time = options.time_by if any(shares.values()) else None
    previous = previous.within({"train", *(split for split in shares if shares[split] > 0)}) if previous else None
    if by_time:
        pool = _dated(pool, by_time, quarantine)
    given = [split for split in SPLITS if split != divided and pools.get(split)]
    fixed = [split for split in given for _ in range(len(pools[split]))]
    examples = joined([pool, *(pools[split] for split in given)])
    seen = watched(examples, "looking for duplicates", progress)
    likeness = liken(Compared(seen, literals(recipe.data.prompt.user)), options.near_duplicates)
    keys = group_keys(examples, options.group_by)
    size = len(pool)
    # Rows of a given train split stand right behind those that are divided: what is alike to one is no held-out row.
    reach = size + (len(pools.get("train", ())) if divided == "auto" else 0)
    all_groups = likeness.of(np.arange(reach)).groups(keys[:reach])
    groups, trained = all_groups[:size], frozenset(all_groups[size:].tolist())
    boundaries: dict[Split, chronology.Time] = {}
    if by_time:
        assigned, boundaries = chronology.assign(
            pool,
            groups,
            chronology.times_of(pool, by_time),
            shares=shares,
            keys=keys[:size],
            previous=previous,
            trained=trained,
            place=recipe.place("data.split.time_by"),
        )
    else:
        assigned = assign(
            pool,
            groups,
            shares=shares,
            seed=options.seed,
            stratify=options.stratify,
            keys=keys[:size],
            previous=previous,
            trained=trained,
        )
    kept: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row in range(len(examples)):
        split = assigned[row] if row < size else fixed[row - size]
        if split is None:
            _refuse(
                pool[row],
                RowError("bridges-splits", "a new row is alike to rows of two splits of the earlier version"),
                quarantine,
            )
        else:
            kept[split].append(row)
    kept["train"], records = _choose(recipe, project, examples, kept, progress)
    splits: dict[Split, Examples] = {split: chosen(examples, rows) for split, rows in kept.items()}
    _some_to_train_on(recipe, splits)
    made = [split for split in shares if shares[split] > 0]
    facts = {
        "split": {
            **options.model_dump(mode="json"),
            "made": made,
            "given": [split for split in SPLITS if pools.get(split)],
            "held_out_of_given_train": divided == "train",
        },
        "split_proof": _proven(recipe, examples, kept, likeness, keys, made=made, boundaries=boundaries),
    }
    return splits, facts, records


def _proven(
    recipe: Recipe,
    examples: Examples,
    kept: Mapping[Split, Sequence[int]],
    likeness: Likeness,
    keys: Sequence[str | None],
    *,
    made: Sequence[Split],
    boundaries: Mapping[Split, chronology.Time],
) -> dict[str, Any]:
    """Return the manifest's `split_proof`, counted on the rows that are written."""
    rows = [row for split in SPLITS for row in kept[split]]
    final: list[Split] = [split for split in SPLITS for _ in kept[split]]
    written = chosen(examples, rows)
    proven = proof(written, final, likeness.of(rows), [keys[row] for row in rows], made=made)
    if column := recipe.data.split.time_by:  # of given splits, too, which are not divided by it
        times = chronology.times_of(written, column)
        proven["time"] = chronology.proof(times, final, boundaries, column=column)
    return proven


def _some_to_train_on(recipe: Recipe, splits: Mapping[Split, Examples]) -> None:
    if len(splits["train"]):
        return
    counts = ", ".join(f"{split} {len(found):,}" for split, found in splits.items())
    raise DataError(
        322,
        "There are no rows to train on",
        place=recipe.place("data"),
        received=counts,
        expected="a source with `split: train` or `split: auto`",
        fix="metier data add FILE --split train, or smaller data.split.validation and data.split.test",
    )


def _choose(
    recipe: Recipe,
    project: Project,
    examples: Examples,
    kept: dict[Split, list[int]],
    progress: Progress | None,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Run the steps that come after the division; return the numbers of the training rows, and a record per step."""
    held_out: dict[Split, Examples] = {split: chosen(examples, kept[split]) for split in SPLITS if split != "train"}
    around = Around.of(recipe, held_out=held_out, path=lambda path: named_path(path, project))
    rows, records = kept["train"], []
    for index, step in enumerate(recipe.data.steps):
        if not after_split(step):
            continue
        before = chosen(examples, rows)
        place = recipe.place(f"data.steps.{index}")
        result = run_step(step, watched(before, step.kind, progress), place=place, around=around)
        rows = [rows[origin] for origin in result.origins]
        records.append(record_of(step, result, [before], [result.examples], {}))
    return rows, records


def _what_to_divide(recipe: Recipe, pools: Mapping[str, Examples]) -> tuple[str | None, dict[Split, float]]:
    """Return the pool that Metier divides, and the share of each held-out split."""
    options = recipe.data.split
    wanted: dict[Split, float] = {"validation": options.validation, "test": options.test}
    if pools.get("auto"):
        return "auto", {split: share for split, share in wanted.items() if not pools.get(split)}
    if pools.get("train") and not pools.get("validation") and options.validation > 0:
        return "train", {"validation": options.validation}
    return None, {}


def previous_of(recipe: Recipe, project: Project) -> Previous | None:
    """Return where the latest version put its rows, unless the rules of the division changed since.

    Rows of a held-out split that was given are left out: nobody put them there, and a twin of one is no row of it.
    """
    latest = Dataset.latest(project, recipe.name)
    if latest is None:
        return None
    options = recipe.data.split.model_dump(mode="json")
    if any(latest.manifest["split"].get(key) != value for key, value in options.items()):
        return None
    by_id: dict[str, Split] = {}
    by_key: dict[str, Split] = {}
    for split in SPLITS:
        if split != "train" and split in latest.manifest["split"]["given"]:
            continue
        examples = latest.rows(split)
        by_id.update((example.id, split) for example in examples)
        keys = group_keys(examples, recipe.data.split.group_by)
        by_key.update((key, split) for key in keys if key is not None)
    begun = latest.manifest["split_proof"].get("time", {}).get("boundaries", {})
    boundaries = {split: begun[split] for split in latest.manifest["split"]["made"] if split in begun}
    return Previous(f"{latest.ref} {latest.digest}", by_id, by_key, boundaries)


def _dated(pool: Examples, column: str, quarantine: Quarantine) -> Examples:
    """Return the examples that have a time; the others are refused."""
    refused = chronology.times_of(pool, column).refused
    for row, (reason, what) in refused.items():
        _refuse(pool[row], RowError(reason, what, field=column), quarantine)
    return chosen(pool, [row for row in range(len(pool)) if row not in refused])


def _refuse(example: Example, error: RowError, quarantine: Quarantine) -> None:
    raw = example.text if hasattr(example, "text") else comparable(example)
    quarantine.refuse(example.place, error, raw.encode())
