"""From a recipe's sources to examples: read, map, detect, read by the format, apply the prompt; bad rows on the way
go to quarantine."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.errors import ConfigError, DataError, RowError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.sections import Data, Source
from metier.core.types import PROBLEM_TYPES, Example, Labelled, identify
from metier.data import formats, prompt
from metier.data.quarantine import Quarantine
from metier.data.rows import BadRow, Row, shown_column
from metier.data.source import HUB, read_rows, source_digest
from metier.data.spool import Choice, Spool
from metier.data.steps import columns_of

DETECTION_ROWS = 200
PROGRESS_ROWS = 1000
Progress = Callable[[str, int, int | None], None]
"""`progress(what is being done, how many are done, of how many or None)`."""


@dataclass(slots=True)
class SourceRows:
    """One source, read: its examples, and what the manifest says about it."""

    source: Source
    examples: Choice
    facts: dict[str, Any]


@dataclass(slots=True)
class Collected:
    """All sources of a recipe, read, and the rows that could not be."""

    sources: list[SourceRows] = field(default_factory=list)
    quarantine: Quarantine = field(default_factory=Quarantine)


def collect(recipe: Recipe, project: Project, spool: Spool, progress: Progress | None = None) -> Collected:
    """Read every source into a spool. Bad rows are collected, not judged: `Quarantine.check` does that.

    Raises:
        ConfigError: E245 a prompt without use, E246 no sources, E247 a `map` key without use, E248 `group_by`,
            `time_by` or `subject_key` names no column.
        DataError: E300–E309, E312, E313.
        MachineError: E420–E422, the spool.
    """
    check_sources(recipe)
    found = Collected()
    for index, source in enumerate(recipe.data.sources):
        found.sources.append(_read(recipe, project, index, source, spool, found.quarantine, progress))
    return found


def check_sources(recipe: Recipe) -> None:
    """Refuse a recipe that names no rows, or names them twice, or prepares a version that is made already.

    Raises:
        ConfigError: E246; E244, an option of the preparation beside `data.dataset`.
    """
    if bool(recipe.data.sources) == bool(recipe.data.dataset):
        given = "both data.sources and data.dataset" if recipe.data.dataset else "neither data.sources nor data.dataset"
        raise ConfigError(
            246,
            f"The recipe gives {given}",
            place=recipe.place("data"),
            expected="one of them",
            fix="data: {sources: [{path: data/train.jsonl}]}",
        )
    if recipe.data.dataset and (unread := _preparing(recipe)):
        raise ConfigError(
            244,
            f"`{unread}` has no use beside data.dataset: the rows of a version were prepared when it was made",
            place=recipe.place(unread),
            received=recipe.data.dataset,
            fix=f"remove `{unread}`, or name data.sources instead of data.dataset",
        )


def _preparing(recipe: Recipe) -> str | None:
    """Return the first key that only a preparation would read and that is not at its default, None where none is."""
    default = Data()
    if recipe.data.steps:
        return "data.steps"
    if recipe.data.canaries != default.canaries:
        return "data.canaries"
    if recipe.data.max_quarantine != default.max_quarantine:
        return "data.max_quarantine"
    leaves = type(default.split).model_fields
    changed = (leaf for leaf in leaves if getattr(recipe.data.split, leaf) != getattr(default.split, leaf))
    return next((f"data.split.{leaf}" for leaf in changed), None)


def source_path(source: Source, project: Project) -> Path:
    """Return where a source lies; a hub id stays as it is."""
    return named_path(source.path, project)


def named_path(path: str, project: Project) -> Path:
    """Return where a path of the recipe lies; a hub id stays as it is."""
    return Path(path) if path.startswith(HUB) else project.path(path)


def kept_columns(recipe: Recipe) -> list[str]:
    """Return the columns that stay in `meta` whatever the format does with them: groups, slices, subjects, steps."""
    subjects = [s.permission.subject_key for s in recipe.data.sources if s.permission and s.permission.subject_key]
    divided = filter(None, (recipe.data.split.group_by, recipe.data.split.time_by))
    return sorted({*divided, *recipe.evaluation.slices, *subjects, *columns_of(recipe.data.steps)})


# ───────────────────────────────────────────────────────────────────────────── one source


def _read(
    recipe: Recipe,
    project: Project,
    index: int,
    source: Source,
    spool: Spool,
    quarantine: Quarantine,
    progress: Progress | None,
) -> SourceRows:
    path, place = source_path(source, project), recipe.place(f"data.sources.{index}.path")
    rows = read_rows(path, limit=source.limit)
    head = list(islice(rows, DETECTION_ROWS))
    detection = _detection(recipe, source, [item.value for item in head if isinstance(item, Row)], place, index)
    reader = _Reader(recipe, source, detection)
    first = len(spool)
    num_bad = len(quarantine.rows)
    for number, item in enumerate(chain(head, rows), start=1):
        quarantine.num_rows += 1
        if isinstance(item, BadRow):
            quarantine.take(item)
        else:
            try:
                spool.add(reader.read(item))
            except RowError as error:
                quarantine.refuse(item.place, error, json.dumps(item.value, ensure_ascii=False).encode())
        if progress and number % PROGRESS_ROWS == 0:
            progress(f"reading {source.path}", number, None)
    return SourceRows(
        source,
        spool.choice(np.arange(first, len(spool))),
        {
            "path": source.path,
            "split": source.split,
            "sha256": source_digest(path),
            "rows": len(spool) - first,
            "quarantined": len(quarantine.rows) - num_bad,
            "format": detection.name,
            "reason": detection.reason,
            "kind": detection.kind,
            "map": dict(source.map),
            "limit": source.limit,
            "permission": source.permission.model_dump(mode="json") if source.permission else None,
        },
    )


def _detection(recipe: Recipe, source: Source, head: list[dict[str, Any]], place: str, index: int) -> formats.Detection:
    """Return the source's format, checked against `map` and `prompt`."""
    for column in source.map.values():
        if head and not any(column in row for row in head):
            raise _no_column(column, head, recipe.place(f"data.sources.{index}.map"))
    subject = source.permission.subject_key if source.permission else None
    split = recipe.data.split
    keys = {
        "data.split.group_by": split.group_by,
        "data.split.time_by": split.time_by,
        f"data.sources.{index}.permission.subject_key": subject,
    }
    for name, wanted in keys.items():
        if wanted and head and not any(wanted in row for row in head):
            raise ConfigError(
                248,
                f"{name} names the column `{wanted}`, which the rows of {source.path} do not have",
                place=recipe.place(name),
                expected=", ".join(sorted({shown_column(column) for row in head for column in row})[:20]),
                fix=f"{name}=COLUMN with one of these, or {name}=null",
            )
    if source.format != "auto":
        found = formats.given(source.format, place=recipe.place(f"data.sources.{index}.format"))
    elif head:
        mapped = [_mapped(row, source.map) for row in head]
        found = formats.detect(mapped, recipe.objective.task, place=place)
    else:
        found = formats.Detection("text", "no row could be read", "text")
        return found
    formats.check_map(source.map, found.name, place=recipe.place(f"data.sources.{index}.map"))
    prompt.check(recipe.data.prompt, found.name, place=recipe.place)
    return found


def _mapped(row: dict[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """The row as far as it has the mapped columns: enough to recognise its format."""
    return formats.apply_map(row, {name: column for name, column in mapping.items() if column in row})[0]


class _Reader:
    """Turns rows of one source into examples."""

    def __init__(self, recipe: Recipe, source: Source, detection: formats.Detection) -> None:
        self.prompt = recipe.data.prompt
        self.task = recipe.objective.task
        self.mapping = source.map
        self.format = detection.name
        self.kept = kept_columns(recipe)
        self.replies = {*prompt.REPLY_COLUMNS, *(source.map.get(name, name) for name in prompt.REPLY_COLUMNS)}
        self.problem_type = problem_type_option(recipe)

    def read(self, row: Row) -> Example:
        """Return the row's example.

        Raises:
            RowError: the row cannot be used.
        """
        mapped, left = formats.apply_map(row.value, self.mapping)
        example = formats.read_row(self.format, mapped, place=row.place, meta_from=left)
        if isinstance(example, Labelled):
            example = _typed(example, self.problem_type)
        columns = {name: value for name, value in {**row.value, **mapped}.items() if name not in self.replies}
        example = prompt.apply(example, self.prompt, columns, task=self.task)
        lost = {name: row.value[name] for name in self.kept if name in row.value and name not in example.meta}
        return replace(example, meta={**example.meta, **lost}) if lost else example


def problem_type_option(recipe: Recipe) -> str | None:
    """Return the `problem_type` that the method asks for, or None when the labels are to say."""
    wanted = recipe.method.options.get("problem_type")
    return wanted if wanted in PROBLEM_TYPES else None


def _typed(example: Labelled, problem_type: str | None) -> Labelled:
    """Return the example with its target in the form that the problem type needs: CSV files hold strings alone."""
    target = example.target
    if problem_type == "regression" and not isinstance(target, float):
        try:
            value = float(target) if isinstance(target, str) else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RowError("no-number", "the label is not a number, and problem_type is `regression`", field="label")
        return identify(replace(example, target=value))
    if problem_type in ("single_label", "multi_label") and isinstance(target, float):
        return _typed(identify(replace(example, target=prompt.written(target))), problem_type)
    if problem_type == "multi_label" and isinstance(target, str):
        return identify(replace(example, target=(target,)))
    if problem_type == "single_label" and isinstance(target, tuple):
        raise RowError(
            "several-labels", "the row has a list of labels, and problem_type is `single_label`", field="label"
        )
    return example


def _no_column(column: str, head: list[dict[str, Any]], place: str) -> DataError:
    names: Iterator[str] = (name for row in head for name in row)
    known = list(dict.fromkeys(names))
    near = difflib.get_close_matches(column, known, n=1)
    return DataError(
        312,
        f"`map` names the column `{column}`, which no row has",
        place=place,
        expected=", ".join(map(shown_column, known[:20])),
        fix=f"Did you mean `{near[0]}`?" if near else "",
    )
