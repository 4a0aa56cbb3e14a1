"""Row shapes, one file each. `detect` says which one some rows have, and why; `read_row` reads by it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metier.core.catalog import catalog
from metier.core.errors import ConfigError, DataError, RowError
from metier.core.types import Example, identify
from metier.data.rows import is_binary, no_text, shown_column

DECISIVE_SHARE = 0.9
"""Share of the recognised rows that one format must claim; the others are then bad rows of that format."""


@dataclass(frozen=True, slots=True)
class Detection:
    """The format that was chosen, why, and the kind of example it makes."""

    name: str
    reason: str
    kind: str


def detect(rows: Sequence[Mapping[str, Any]], task: str | None = None, *, place: str = "") -> Detection:
    """Return the one format that claims the rows.

    Args:
        rows: the first rows of a source, already mapped.
        task: the objective's task; for `continue` the text of labelled rows is read as text.
        place: the source, for the error.

    Raises:
        DataError: E304, no format claims the rows, or several do.
    """
    claims: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for row in rows:
        for name in catalog("formats").names():
            if reason := catalog("formats").get(name).fits(row):
                claims[name] += 1
                reasons.setdefault(name, reason)
    if not claims:
        raise _undetected(rows, place)
    name, count = claims.most_common(1)[0]
    if count < DECISIVE_SHARE * claims.total():
        raise DataError(
            304,
            "The rows have several shapes",
            place=place,
            received=", ".join(f"{n} like `{c}`" for c, n in claims.most_common()),
            expected="one shape per source",
            fix="give each shape a source of its own, or set `format:`",
        )
    if name == "labelled" and task == "continue" and "text" in rows[0]:
        name, reasons = "text", {"text": "has `text`, and the task is `continue`"}
    return Detection(name, reasons[name], catalog("formats").get(name).kind)


def given(name: str, *, place: str = "") -> Detection:
    """Return the detection of a format that the recipe names.

    Raises:
        ConfigError: E210, no such format.
    """
    return Detection(name, "given in the recipe", catalog("formats").get(name, place=place).kind)


def apply_map(row: Mapping[str, Any], mapping: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (the row under its canonical names, the columns that are left for `meta`).

    Raises:
        RowError: `missing-column`, this row lacks a mapped column.
    """
    if not mapping:
        return dict(row), dict(row)
    for column in mapping.values():
        if column not in row:
            raise RowError("missing-column", "a mapped column is missing", field=column)
    left = {name: value for name, value in row.items() if name not in mapping.values()}
    return {**left, **{name: row[column] for name, column in mapping.items()}}, left


def check_map(mapping: Mapping[str, str], format_name: str, *, place: str = "") -> None:
    """Refuse a `map` key that the format would never read.

    Raises:
        ConfigError: E247.
    """
    columns = catalog("formats").get(format_name).COLUMNS
    for name in mapping:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            raise ConfigError(
                247,
                f"`map` fills `{name}`, which the format `{format_name}` does not read",
                place=place,
                expected=", ".join(columns),
                fix=f"Did you mean `{near[0]}`?" if near else "",
            )


def read_row(
    format_name: str, row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any] | None = None
) -> Example:
    """Read one row by a format and give the example its id.

    Args:
        format_name: a name of the catalog `formats`.
        row: the row under its canonical names.
        place: where it was read.
        meta_from: the columns that may go to `meta`; None means the row's own.

    Raises:
        RowError: with place, reason and field.
    """
    reader = catalog("formats").get(format_name)
    try:
        example: Any = reader.read(row, place=place, meta_from=row if meta_from is None else meta_from)
    except RowError as error:
        if is_binary(row.get(error.field)):
            raise no_text(error.field, place) from None
        raise RowError(error.reason, error.what, field=error.field, place=place) from None
    if binary := next((name for name in reader.COLUMNS if is_binary(row.get(name))), None):
        raise no_text(binary, place)  # a column that the format left out, since it is no text
    identified: Example = identify(example)
    return identified


def _undetected(rows: Sequence[Mapping[str, Any]], place: str) -> DataError:
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = ", ".join(f"`{shown_column(name)}`" for name in names[:12]) + (" …" if len(names) > 12 else "")
    return DataError(
        304,
        "No format knows these columns",
        place=place,
        received=shown or "rows without columns",
        expected=", ".join(catalog("formats").names()),
        fix=f"say what is what: {_suggestion(names)}",
    )


def _suggestion(names: Sequence[str]) -> str:
    """Return a `map` that might be meant, by the columns' names."""
    lowered = {name.lower(): name for name in names}
    for question, answer in (("question", "answer"), ("question", "response"), ("instruction", "response")):
        if question in lowered and answer in lowered:
            return f"map: {{prompt: {lowered[question]}, completion: {lowered[answer]}}}"
    return "map: {text: …, label: …} or map: {prompt: …, completion: …}"
