"""The division by time: what is trained on lies before what is chosen on, and that before what is tested on.

A model that is to serve tomorrow is measured on rows later than those it learnt from; a division by chance lets it
learn from the future. The rules:

- The column holds dates or times (ISO 8601; without a zone: UTC) or numbers (seconds, a year, a running number). What
  most values are counts; a row without one, or with another kind, is refused (`no-time`, `unreadable-time`), since
  wherever it went it might tell what comes later.
- Rows of one time are never parted. A split begins with the time at which its share is met most closely.
- A group of rows that are alike goes by its latest row. So train holds nothing as late as the others begin; older rows
  of a group come along to the later split and are counted. A group that holds a row of a given train split is train's.
- Where an earlier version has drawn the boundaries, they stay: new rows fall to either side by their time, and one that
  is tied to a row of an earlier split but is later than that split ends is refused (`bridges-splits`).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metier.core.errors import DataError
from metier.core.types import SPLITS, Example, Split
from metier.data.split import NAMES, Previous

HELD_OUT: tuple[Split, ...] = ("validation", "test")
"""In the order of time."""
Time = int | float
"""Microseconds since 1970, UTC, or the number that the column holds."""
Kind = Literal["time", "number"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH = re.compile(r"\d{4}-\d{2}")


@dataclass(frozen=True, slots=True)
class Times:
    """The times of N examples, None where one has none; `refused` says why, by its number."""

    kind: Kind
    values: list[Time | None]
    refused: dict[int, tuple[str, str]]


def times_of(examples: Sequence[Example], column: str) -> Times:
    """Return when each example is from, by its value of the column."""
    numbers: list[Time | None] = []
    times: list[Time | None] = []
    empty: set[int] = set()
    for row, example in enumerate(examples):
        value = example.meta.get(column)
        numbers.append(_number(value))
        times.append(_time(value))
        if value in (None, ""):
            empty.add(row)
    many_numbers = sum(n is not None for n in numbers) >= sum(t is not None for t in times)
    values = numbers if many_numbers else times
    refused = {}
    for row in (row for row, found in enumerate(values) if found is None):
        if row in empty:
            refused[row] = ("no-time", f"the column `{column}` is empty, and the rows are divided by it")
        elif numbers[row] is None and times[row] is None:
            refused[row] = ("unreadable-time", f"`{column}` is neither a number nor a date or time of ISO 8601")
        else:
            kinds = ("date or time", "number") if many_numbers else ("number", "date or time")
            refused[row] = ("unreadable-time", f"`{column}` is a {kinds[0]} here, and a {kinds[1]} in most rows")
    return Times("number" if many_numbers else "time", values, refused)


def boundaries_of(group_times: Sequence[Time], shares: Mapping[Split, float], *, place: str = "") -> dict[Split, Time]:
    """Return the time with which each held-out split begins.

    Args:
        group_times: of each of N rows the latest time in its group.
        shares: the wanted share of the rows for each split that is to be made.

    Raises:
        DataError: E324, there are fewer different times than splits.
    """
    wanted = [split for split in reversed(HELD_OUT) if shares.get(split, 0.0) > 0]
    sizes: dict[Time, int] = defaultdict(int)
    for time in group_times:
        sizes[time] += 1
    newest = sorted(sizes, reverse=True)
    if wanted and len(newest) <= len(wanted):
        raise DataError(
            324,
            "The rows cannot be divided by time: there are too few different times",
            place=place,
            received=f"{len(newest)} among {len(group_times):,} rows, or groups of rows that are alike",
            expected=f"at least {len(wanted) + 1}: one for each split",
            fix="a finer column, or data.split.time_by=null",
        )
    found: dict[Split, Time] = {}
    for index, split in enumerate(wanted):
        quota, filled = shares[split] * len(group_times), 0
        later_splits_need = len(wanted) - index  # one time each for the others and for train
        while len(newest) > later_splits_need and (not filled or filled + sizes[newest[0]] / 2 <= quota):
            found[split] = newest.pop(0)
            filled += sizes[found[split]]
    return found


def assign(
    examples: Sequence[Example],
    groups: NDArray[np.int64],
    times: Times,
    *,
    shares: Mapping[Split, float],
    keys: Sequence[str | None] = (),
    previous: Previous | None = None,
    trained: Collection[int] = (),
    place: str = "",
) -> tuple[list[Split | None], dict[Split, Time]]:
    """Return a split per example, None for a new row that must go to quarantine, and where the splits begin.

    Args:
        examples: N examples, all of which have a time.
        groups: N group numbers, as `Likeness.groups` gives them.
        times: of the N examples.
        shares: the share of the rows for `validation` and `test`.
        keys: N group keys, to find the rows of an earlier version by; empty for none.
        previous: an earlier version's assignment. It counts where it has the same splits begin at times of this kind.
        trained: numbers of the groups that hold a row of a given train split: they go there, however late they are, and
            have no say in where the splits begin.
        place: of the recipe, for the error.

    Raises:
        DataError: E324.
    """
    values = [value for value in times.values if value is not None]
    number_G, group_N = np.unique(groups, return_inverse=True)
    trained_G = np.isin(number_G, list(trained))
    # In the order of time within each group; the last one is the group's latest.
    time_N = np.array(values, dtype=np.int64 if times.kind == "time" else np.float64)
    order = np.lexsort((time_N, group_N))
    latest_G = order[np.append(np.flatnonzero(np.diff(group_N[order])), len(order) - 1)] if len(order) else order
    wanted = {split for split in HELD_OUT if shares.get(split, 0.0) > 0}
    drawn = _drawn(previous, times.kind)
    previous = previous if wanted <= drawn.keys() else None
    begins = (
        {split: drawn[split] for split in wanted}
        if previous
        else boundaries_of(
            [values[row] for row in latest_G[group_N[~trained_G[group_N]]].tolist()], shares, place=place
        )
    )
    side_N, sides_G = np.zeros(len(group_N), dtype=np.uint8), np.zeros(len(latest_G), dtype=np.uint8)
    if previous:
        side_N, sides_G = previous.sides(examples, group_N, keys)
    made: list[Split | None] = []
    for row, (group, there) in enumerate(zip(group_N.tolist(), side_N.tolist(), strict=True)):
        sides = int(sides_G[group])
        if trained_G[group]:
            made.append("train")
        elif there or sides.bit_count() > 1:
            made.append(NAMES[there])  # the rows of the earlier version stay
        elif sides:
            tied_to = NAMES[sides]
            late = tied_to is not None and is_later(side(values[row], begins), tied_to)
            made.append(None if late else tied_to)
        else:
            made.append(side(values[latest_G[group]], begins))
    return made, begins


def _drawn(previous: Previous | None, kind: Kind) -> dict[Split, Time]:
    """Return the boundaries of an earlier version, as far as they are times of this kind."""
    written = previous.boundaries.items() if previous else ()
    same = ((split, read_shown(value)) for split, value in written if isinstance(value, str) == (kind == "time"))
    return {split: value for split, value in same if value is not None}


def side(time: Time, boundaries: Mapping[Split, Time]) -> Split:
    """Return the split in which a time falls."""
    return next((split for split in reversed(HELD_OUT) if split in boundaries and time >= boundaries[split]), "train")


def is_later(split: Split, than: Split) -> bool:
    """Say whether a split lies behind another in time."""
    return SPLITS.index(split) > SPLITS.index(than)


def proof(times: Times, splits: Sequence[Split], boundaries: Mapping[Split, Time], *, column: str) -> dict[str, Any]:
    """Return what the manifest says of the order in time, counted on the final rows.

    `ranges` are the first and the last time of each split, `boundaries` the times with which the held-out ones begin (a
    given one with its earliest row). `late_rows` counts the rows of train and validation that are as late as a later
    split begins: 0 between splits that Metier made; `early_rows` those that came along with their group to a split that
    begins after them; `undated_rows` the rows of given splits without a time.
    """
    values = times.values
    at: dict[Split, list[Time]] = {
        split: [value for value, name in zip(values, splits, strict=True) if name == split and value is not None]
        for split in SPLITS
    }
    begins = {split: boundaries.get(split, min(at[split])) for split in HELD_OUT if at[split]}
    late = early = 0
    for split in SPLITS:
        ends = [begins[later] for later in HELD_OUT if later in begins and is_later(later, split)]
        late += sum(value >= min(ends) for value in at[split]) if ends else 0
        early += sum(value < begins[split] for value in at[split]) if split in begins else 0
    return {
        "column": column,
        "ranges": {
            split: [shown(min(found), times.kind), shown(max(found), times.kind)]
            for split, found in at.items()
            if found
        },
        "boundaries": {split: shown(begins[split], times.kind) for split in begins},
        "late_rows": late,
        "early_rows": early,
        "undated_rows": sum(value is None for value in values),
    }


def proof_again(facts: Mapping[str, Any], splits: Mapping[Split, Sequence[Example]]) -> dict[str, Any]:
    """Return the proof of the rows that stay after an erasure, in which no time of a row that went is left.

    A boundary moves up to the first row that stays behind it.
    """
    examples = [example for split in SPLITS for example in splits[split]]
    names: list[Split] = [split for split in SPLITS for _ in splits[split]]
    times = times_of(examples, facts["column"])
    begins: dict[Split, Time] = {}
    for split, written in facts["boundaries"].items():
        before = read_shown(written)
        behind = [
            value
            for value, name in zip(times.values, names, strict=True)
            if value is not None and before is not None and value >= before and not is_later(split, name)
        ]
        if behind:
            begins[split] = min(behind)
    return proof(times, names, begins, column=facts["column"])


def shown(time: Time, kind: Kind) -> str | Time:
    """Return a time as the manifest has it: ISO 8601, or the number."""
    return (_EPOCH + timedelta(microseconds=time)).isoformat() if kind == "time" else time


def read_shown(value: Any) -> Time | None:
    """Return the time that `shown` wrote."""
    return value if isinstance(value, int | float) else _time(value)


# ───────────────────────────────────────────────────────────────────────────── values


def _number(value: Any) -> Time | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
        return int(found) if found.is_integer() else found if math.isfinite(found) else None
    except (ValueError, OverflowError):
        return None


def _time(value: Any) -> Time | None:
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        found = datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (found - _EPOCH) // timedelta(microseconds=1)
