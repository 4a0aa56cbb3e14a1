"""Train, validation and test with no leak between them, and the proof of it.

Rows that are alike (exact and near duplicates, equal group keys) form a group, and a group lies on one side. Groups
are ordered by a hash of their smallest id, so that neither the order of the files nor the time matters, and fill the
shares of each label in turn. Rows that an earlier version of the dataset placed stay where they are; a new row that
ties rows of two splits together is refused (`bridges-splits`).
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.core.types import SPLITS, Example, Split
from metier.data.labels import labels_of
from metier.data.similar import Likeness

HELD_OUT: tuple[Split, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True)
class Previous:
    """Where an earlier version put its rows, by id and by group key; `name` is that version's reference.

    `boundaries` are the times with which its splits begin, as its manifest has them, where it was divided by time.
    """

    name: str
    by_id: Mapping[str, Split]
    by_key: Mapping[str, Split]
    boundaries: Mapping[Split, str | float] = field(default_factory=dict)

    def within(self, splits: Collection[Split]) -> Previous:
        """Return the same without the rows of other splits, such as one that is given now: no row joins it."""
        return replace(
            self,
            by_id={id_: split for id_, split in self.by_id.items() if split in splits},
            by_key={key: split for key, split in self.by_key.items() if split in splits},
        )

    def sides(self, rows: Sequence[tuple[Example, str | None]]) -> set[Split]:
        """Return the splits in which the examples, or others with their group keys, were."""
        found = {self.by_id.get(example.id) for example, _ in rows}
        found |= {self.by_key.get(key) for _, key in rows if key is not None}
        return {split for split in found if split is not None}


@dataclass(slots=True)
class _Group:
    """Row numbers that lie on one side, with their order key, stratum and labels."""

    rows: list[int]
    order: int
    stratum: str
    labels: set[str]
    split: Split | None = None
    fixed: bool = False


def assign(
    examples: Sequence[Example],
    groups: NDArray[np.int64],
    *,
    shares: Mapping[Split, float],
    seed: int = 0,
    stratify: bool = True,
    keys: Sequence[str | None] = (),
    previous: Previous | None = None,
    trained: Collection[int] = (),
) -> list[Split | None]:
    """Return a split per example; None for a new row that bridges two splits and must go to quarantine.

    Args:
        examples: N examples.
        groups: N group numbers, as `Likeness.groups` gives them.
        shares: the share of the rows for `test` and `validation`; the rest is train.
        seed: seed of the order.
        stratify: keep the shares of single labels equal in each split.
        keys: N group keys, to find the rows of an earlier version by; empty for none.
        previous: an earlier version's assignment.
        trained: numbers of the groups that hold a row of a given train split: they go there, wherever they were.
    """
    made: list[Split | None] = [None] * len(examples)
    keys = keys or [None] * len(examples)
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    found: list[_Group] = []
    for number, rows in members.items():
        known = previous if number not in trained else None
        sides = known.sides([(examples[row], keys[row]) for row in rows]) if known else set()
        if known and len(sides) > 1:
            for row in rows:  # the rows of the earlier version stay, the new ones (None) are refused
                made[row] = known.by_id.get(examples[row].id)
            continue
        group = _make_group(examples, rows, seed, stratify)
        sides = {"train"} if number in trained else sides
        group.split, group.fixed = (next(iter(sides)), True) if sides else (None, False)
        found.append(group)
    _fill(found, shares)
    for group in found:
        for row in group.rows:
            made[row] = group.split
    return made


def group_keys(examples: Sequence[Example], column: str | None) -> list[str | None]:
    """Return each example's group key: its value of the column, None where there is none."""
    if column is None:
        return [None] * len(examples)
    values = [example.meta.get(column) for example in examples]
    return [None if value in (None, "") else str(value) for value in values]


def proof(
    examples: Sequence[Example],
    splits: Sequence[Split],
    likeness: Likeness,
    keys: Sequence[str | None],
    *,
    made: Sequence[Split],
) -> dict[str, Any]:
    """Return what can be said about leaks, counted on the final rows.

    `groups_on_both_sides` counts the groups with rows in two splits that Metier made (0 unless an earlier version
    had them already); `leaks` the test rows with an exact twin, or only a near one, in train or validation, and
    `leaking_ids` their ids; `validation_leaks` the same of validation in train; `keys_on_both_sides` group keys of
    test that train or validation has too, `validation_keys_on_both_sides` those of validation that train has;
    `near_duplicates_within` the rows of each split that are alike to an earlier one there, exactly or nearly.

    Args:
        examples: N examples.
        splits: N splits.
        likeness: of the N examples' texts.
        keys: N group keys.
        made: the splits that Metier made; the others were given.
    """
    side = np.array(splits)
    test, validation, train = (side == name for name in ("test", "validation", "train"))
    exact, near = likeness.twins(test, train | validation)
    validation_exact, validation_near = likeness.twins(validation, train)
    # Without the rows of a given held-out split: they tie no others together, since nothing is moved for them.
    made_rows = np.flatnonzero(np.isin(side, [*made, "train"])).tolist() if made else []
    sides_of: dict[int, set[str]] = defaultdict(set)
    for row, group in zip(made_rows, likeness.of(made_rows).groups([keys[r] for r in made_rows]).tolist(), strict=True):
        sides_of[group].add(splits[row])
    keyed: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for key, split in zip(keys, splits, strict=True):
        keyed[split] |= {key} if key is not None else set()
    return {
        "groups_on_both_sides": sum(len(found) > 1 for found in sides_of.values()),
        "leaks": {"exact": int(exact.sum()), "near": int(near.sum())},
        "leaking_ids": sorted({examples[row].id for row in np.flatnonzero(exact | near).tolist()}),
        "validation_leaks": {"exact": int(validation_exact.sum()), "near": int(validation_near.sum())},
        "keys_on_both_sides": len(keyed["test"] & (keyed["train"] | keyed["validation"])),
        "validation_keys_on_both_sides": len(keyed["validation"] & keyed["train"]),
        "near_duplicates_within": {name: _alike(likeness, side == name) for name in SPLITS},
    }


def _alike(likeness: Likeness, there: NDArray[np.bool_]) -> int:
    """Return how many of some rows are alike to an earlier one of them, exactly or nearly."""
    return int(there.sum()) - len(np.unique(likeness.of(np.flatnonzero(there).tolist()).groups()))


# ───────────────────────────────────────────────────────────────────────────── filling the shares


def _make_group(examples: Sequence[Example], rows: list[int], seed: int, stratify: bool) -> _Group:
    first = min(rows, key=lambda row: examples[row].id)
    order = hashlib.blake2b(f"{seed}:{examples[first].id}".encode(), digest_size=8)
    labels = {label for row in rows for label in labels_of(examples[row])}
    stratum = "\0".join(labels_of(examples[first])) if stratify else ""
    return _Group(rows, int.from_bytes(order.digest()), stratum, labels)


def _fill(groups: list[_Group], shares: Mapping[Split, float]) -> None:
    """Give every group a split: stratum by stratum, in hash order, until each held-out share is reached."""
    strata: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        strata[group.stratum].append(group)
    due = dict.fromkeys(HELD_OUT, 0.0)  # what the shares of the strata so far add up to, less what was given out
    for name in sorted(strata):
        members = sorted(strata[name], key=lambda g: g.order)
        free = [g for g in members if not g.fixed]
        if not any(g.split == "train" for g in members):
            free = free[:-1]  # one group of every label stays in train
        num_rows = sum(len(g.rows) for g in members)
        for split in HELD_OUT:
            share = shares.get(split, 0.0) * num_rows
            due[split] += share
            filled = sum(len(g.rows) for g in members if g.split == split)
            quota = min(math.ceil(due[split] - 1e-9), math.ceil(share - 1e-9))
            for group in free:
                if group.split is None and filled + len(group.rows) <= quota:
                    group.split = split
                    filled += len(group.rows)
            due[split] -= filled
    for group in groups:
        group.split = group.split or "train"
    _leave_none_empty(groups, shares)
    _teach_every_label(groups)


def _leave_none_empty(groups: list[_Group], shares: Mapping[Split, float]) -> None:
    """Give a held-out split that came out empty, its groups being large, the smallest group that train can spare."""
    for split in HELD_OUT:
        if shares.get(split, 0.0) > 0 and not any(g.split == split for g in groups):
            spare = sorted(
                (g for g in groups if g.split == "train" and not g.fixed), key=lambda g: (len(g.rows), g.order)
            )
            if len(spare) > 1:
                spare[0].split = split


def _teach_every_label(groups: list[_Group]) -> None:
    """Move a group back to train for every label that train would not know."""
    known = {label for g in groups if g.split == "train" for label in g.labels}
    for group in sorted(groups, key=lambda g: g.order):
        if not group.fixed and group.split != "train" and group.labels - known:
            group.split = "train"
            known |= group.labels
