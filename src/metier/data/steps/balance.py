"""Balance the training rows by label, by a column (group) or by language: leave rows out, or repeat them.

Only training rows change: what is held out keeps the shares of the world. A repeated row is the row itself once more,
with its id and place, so that it is traced, and erased, like the first; it stands in train alone. Which rows go or come
again is decided by a hash of seed and id, not by the order of the files.

Left out: weights, since no training method reads one per row; new rows made from old ones.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Example, Labelled
from metier.data.labels import labels_of
from metier.data.spool import Examples, chosen
from metier.data.steps import Around, StepResult
from metier.data.steps.filter_language import languages_of, spoken

summary = "Make the training rows of labels, groups or languages more equal in number"
FILTERS = True
AFTER_SPLIT = True
SHOWN = 12
"""Groups that the note names, those that change most first."""


class Options(BaseOptions):
    """By what, in which way, and how equal."""

    by: Literal["label", "column", "language"] = Field(
        "label",
        description="What makes a group: the label (rows with several: all of them together), the value of `column`, or"
        " the language (needs `metier[curate]`).",
    )
    column: str | None = Field(None, description="With `by: column`: the column whose values are the groups.")
    resample: Literal["down", "up"] = Field(
        "down", description="`down` leaves rows of large groups out, `up` repeats rows of small ones."
    )
    ratio: float = Field(
        1.0, description="The largest group may have so many times the rows of the smallest; 1 = equal.", ge=1
    )
    max_repeats: int = Field(10, description="With `up`: no row stands more often than this, the first included.", ge=2)
    seed: int = Field(0, description="Seed of the choice.", ge=0)

    @model_validator(mode="after")
    def _named(self) -> Options:
        if (self.by == "column") != (self.column is not None):
            raise ValueError("give `column` with `by: column`, and only with it")
        return self


_RARE = Labelled(text="It swallowed my card!", target="card")
SAMPLE: dict[str, Any] = {
    "options": {"resample": "up", "ratio": 2},
    "examples": [*(Labelled(text=f"What is fee number {n}?", target="fee") for n in range(4)), _RARE],
    "result": [*(Labelled(text=f"What is fee number {n}?", target="fee") for n in range(4)), _RARE, _RARE],
}


def packages(options: Options) -> list[tuple[str, str]]:
    """Return the optional packages that these options use, and why."""
    return [("lingua", "balance by language")] if options.by == "language" else []


def columns(options: Options) -> list[str]:
    """Return the columns that the rows must keep."""
    return [options.column] if options.column else []


def run(examples: Examples, options: Options, around: Around) -> StepResult:
    """Return the examples with rows left out or repeated; rows without a group stay as they are.

    Raises:
        MachineError: E450, `by: language` without lingua.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    loose: list[int] = []
    order_N = np.zeros(len(examples), dtype=np.uint64)
    for index, example in enumerate(examples):
        order_N[index] = _order(example, options.seed)
        name = group_of(example, options, around.literals)
        (loose if name is None else groups[name]).append(index)
    before = {name: len(rows) for name, rows in groups.items()}
    wanted = _down(before, options.ratio) if options.resample == "down" else _up(before, options)
    taken = list(loose)
    for name, rows in groups.items():
        taken += _resampled(order_N, rows, wanted[name])
    origins = sorted(taken)
    gone_N = np.ones(len(examples), dtype=bool)
    gone_N[origins] = False
    dropped = [(examples[row].id, "more than its group may have") for row in np.flatnonzero(gone_N).tolist()]
    note = _note(before, wanted, options)
    note += f"; {len(loose):,} rows without a group stay as they are" if loose else ""
    return StepResult(chosen(examples, origins), origins, note, dropped)


def group_of(example: Example, options: Options, literals: Sequence[str] = ()) -> str | None:
    """Return the group that a row belongs to, None where it has none; `literals` as `comparable` has them."""
    if options.column is not None:
        value = example.meta.get(options.column)
        return None if value in (None, "") else str(value)
    if options.by == "language":
        return next(iter(languages_of(spoken(example, literals))), None)
    return " + ".join(sorted(labels_of(example))) or None


def _down(before: dict[str, int], ratio: float) -> dict[str, int]:
    most = math.floor(ratio * min(before.values(), default=0) + 1e-9)
    return {name: min(count, most) for name, count in before.items()}


def _up(before: dict[str, int], options: Options) -> dict[str, int]:
    least = math.ceil(max(before.values(), default=0) / options.ratio - 1e-9)
    return {name: max(count, min(least, options.max_repeats * count)) for name, count in before.items()}


def _order(example: Example, seed: int) -> int:
    """Return by what rows are chosen, the smallest first."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{example.id}".encode(), digest_size=8).digest())


def _resampled(order_N: NDArray[np.uint64], rows: list[int], size: int) -> list[int]:
    """Return so many of the rows, the first ones in their order; all of them again and again where more are wanted."""
    whole, rest = divmod(size, len(rows))
    first = np.argsort(order_N[rows], kind="stable")[:rest]
    return [*(rows * whole), *(rows[place] for place in first.tolist())]


def _note(before: dict[str, int], after: dict[str, int], options: Options) -> str:
    changed = Counter({name: abs(after[name] - count) for name, count in before.items() if after[name] != count})
    what = options.column or options.by
    note = f"{sum(before.values()):,} → {sum(after.values()):,} rows in {len(before):,} groups by {what}"
    if changed:
        shown = [f"{name[:40]} {before[name]:,} → {after[name]:,}" for name, _ in changed.most_common(SHOWN)]
        note += f": {', '.join(shown)}" + (f" and {len(changed) - SHOWN:,} more" if len(changed) > SHOWN else "")
    short = [name for name in before if options.resample == "up" and after[name] * options.ratio < max(after.values())]
    note += f"; {len(short):,} groups are still smaller (max_repeats={options.max_repeats})" if short else ""
    return note
