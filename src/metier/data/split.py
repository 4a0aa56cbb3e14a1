"""Train, validation and test with no leak between them, and the proof of it.

Rows that are alike (exact and near duplicates, equal group keys) form a group, and a group lies on one side. Groups
are ordered by a hash of their smallest id, so that neither the order of the files nor the time matters, and fill the
shares of each label in turn. Rows that an earlier version of the dataset placed stay where they are; a new row that
ties rows of two splits together is refused (`bridges-splits`).

Shapes: N rows, G groups, M groups that are free to go to one side or have one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.core.types import SPLITS, Example, Split
from metier.data.labels import labels_of
from metier.data.similar import Likeness

HELD_OUT: tuple[Split, ...] = ("test", "validation")
SIDES: dict[Split, int] = {"train": 1, "validation": 2, "test": 4}
"""The splits in an array: a bit each, 0 is none of them."""
_TRAIN = SIDES["train"]
NAMES: dict[int, Split | None] = {0: None, **{side: split for split, side in SIDES.items()}}


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

    def sides(
        self, examples: Sequence[Example], group_N: NDArray[np.int64], keys: Sequence[str | None]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the side on which each example was (N), 0 for a new one; and all sides on which those of a group, or
        others with their group keys, were (G)."""
        side_N = np.zeros(len(group_N), dtype=np.uint8)
        sides_G = np.zeros(int(group_N.max(initial=-1)) + 1, dtype=np.uint8)
        for row, example in enumerate(examples):
            key = keys[row] if keys else None
            by_id, by_key = self.by_id.get(example.id), None if key is None else self.by_key.get(key)
            if by_id is not None:
                side_N[row] = SIDES[by_id]
                sides_G[group_N[row]] |= SIDES[by_id]
            if by_key is not None:
                sides_G[group_N[row]] |= SIDES[by_key]
        return side_N, sides_G


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
    number_G, group_N = np.unique(groups, return_inverse=True)
    size_G = np.bincount(group_N)
    side_N, side_G = np.zeros(len(group_N), dtype=np.uint8), np.zeros(len(size_G), dtype=np.uint8)
    if previous:
        side_N, side_G = previous.sides(examples, group_N, keys)
    side_G[np.isin(number_G, list(trained))] = _TRAIN
    bridges_G, fixed_G = np.bitwise_count(side_G) > 1, side_G != 0
    labels = _Labels.of(examples, group_N, len(size_G), seed)
    whole = np.flatnonzero(~bridges_G)
    found = _Groups(
        size_M=size_G[whole],
        order_M=labels.order_G[whole],
        stratum_M=labels.strata()[labels.first_G[whole]] if stratify else np.zeros(len(whole), dtype=np.int64),
        side_M=side_G[whole],
        fixed_M=fixed_G[whole],
    )
    _fill(found, shares)
    _leave_none_empty(found, shares)
    side_G[whole] = found.side_M
    _teach_every_label(labels, group_N, side_G, fixed_G)
    made_N = np.where(bridges_G[group_N], side_N, side_G[group_N])  # of a group that bridges, the earlier rows stay
    return [NAMES[side] for side in made_N.tolist()]


def group_keys(examples: Sequence[Example], column: str | None) -> list[str | None]:
    """Return each example's group key: its value of the column, None where there is none."""
    if column is None:
        return [None] * len(examples)
    values = (example.meta.get(column) for example in examples)
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
    side_N = np.fromiter((SIDES[split] for split in splits), dtype=np.uint8, count=len(splits))
    test, validation, train = (side_N == SIDES[name] for name in ("test", "validation", "train"))
    exact, near = likeness.twins(test, train | validation)
    validation_exact, validation_near = likeness.twins(validation, train)
    both = 0
    if made:
        # Without the rows of a given held-out split: they tie no others together, since nothing is moved for them.
        ours = np.flatnonzero(np.isin(side_N, [SIDES[name] for name in (*made, "train")]))
        group_N = likeness.of(ours).groups([keys[row] for row in ours.tolist()])
        # A group and a side in one number: a group that has two of them lies on both sides.
        pairs = np.unique(group_N * 8 + side_N[ours])
        both = int((np.unique(pairs // 8, return_counts=True)[1] > 1).sum())
    keyed: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for key, split in zip(keys, splits, strict=True):
        if key is not None:
            keyed[split].add(key)
    return {
        "groups_on_both_sides": both,
        "leaks": {"exact": int(exact.sum()), "near": int(near.sum())},
        "leaking_ids": sorted({examples[row].id for row in np.flatnonzero(exact | near).tolist()}),
        "validation_leaks": {"exact": int(validation_exact.sum()), "near": int(validation_near.sum())},
        "keys_on_both_sides": len(keyed["test"] & (keyed["train"] | keyed["validation"])),
        "validation_keys_on_both_sides": len(keyed["validation"] & keyed["train"]),
        "near_duplicates_within": {name: _alike(likeness, side_N == SIDES[name]) for name in SPLITS},
    }


def _alike(likeness: Likeness, there: NDArray[np.bool_]) -> int:
    """Return how many of some rows are alike to an earlier one of them, exactly or nearly."""
    return int(there.sum()) - len(np.unique(likeness.of(np.flatnonzero(there)).groups()))


# ───────────────────────────────────────────────────────────────────────────── what the groups are


@dataclass(slots=True)
class _Labels:
    """The labels of N rows, as numbers: `sets` are the different sets of labels that rows have.

    `first_G` is the set of the row with the smallest id of a group, `order_G` a hash of that id.
    """

    sets: list[tuple[str, ...]]
    set_N: NDArray[np.int32]
    first_G: NDArray[np.int32]
    order_G: NDArray[np.uint64]

    @classmethod
    def of(cls, examples: Sequence[Example], group_N: NDArray[np.int64], num_groups: int, seed: int) -> _Labels:
        numbers: dict[tuple[str, ...], int] = {}
        set_N = np.zeros(len(group_N), dtype=np.int32)
        first_G = np.zeros(num_groups, dtype=np.int32)
        smallest: list[str | None] = [None] * num_groups
        for row, example in enumerate(examples):
            labels = labels_of(example)
            number = numbers.setdefault(labels, len(numbers))
            set_N[row] = number
            group = int(group_N[row])
            known = smallest[group]
            if known is None or example.id < known:
                smallest[group], first_G[group] = example.id, number
        hashes = (hashlib.blake2b(f"{seed}:{found}".encode(), digest_size=8).digest() for found in smallest)
        order_G = np.fromiter(map(int.from_bytes, hashes), dtype=np.uint64, count=num_groups)
        return cls(list(numbers), set_N, first_G, order_G)

    def strata(self) -> NDArray[np.int64]:
        """Return the stratum of each set: its place in the order of the names."""
        names = ["\0".join(labels) for labels in self.sets]
        place = {name: number for number, name in enumerate(sorted(set(names)))}
        return np.array([place[name] for name in names], dtype=np.int64)


@dataclass(slots=True)
class _Groups:
    """Groups with their numbers of rows, order keys, strata and sides; a fixed one stays where it was."""

    size_M: NDArray[np.int64]
    order_M: NDArray[np.uint64]
    stratum_M: NDArray[np.int64]
    side_M: NDArray[np.uint8]
    fixed_M: NDArray[np.bool_]


# ───────────────────────────────────────────────────────────────────────────── filling the shares


def _fill(groups: _Groups, shares: Mapping[Split, float]) -> None:
    """Give every group a split: stratum by stratum, in hash order, until each held-out share is reached."""
    due = dict.fromkeys(HELD_OUT, 0.0)  # what the shares of the strata so far add up to, less what was given out
    ordered = np.lexsort((groups.order_M, groups.stratum_M))
    ends = np.flatnonzero(np.diff(groups.stratum_M[ordered])) + 1
    for members in np.split(ordered, ends):
        sizes, sides = groups.size_M[members], groups.side_M[members]
        free = members[~groups.fixed_M[members]]
        if not (sides == _TRAIN).any():
            free = free[:-1]  # one group of every label stays in train
        num_rows = int(sizes.sum())
        for split in HELD_OUT:
            share = shares.get(split, 0.0) * num_rows
            due[split] += share
            filled = int(sizes[sides == SIDES[split]].sum())
            quota = min(math.ceil(due[split] - 1e-9), math.ceil(share - 1e-9))
            open_ = free[groups.side_M[free] == 0]
            for group, size in zip(open_.tolist(), groups.size_M[open_].tolist(), strict=True):
                if filled >= quota:
                    break
                if filled + size <= quota:
                    groups.side_M[group] = SIDES[split]
                    filled += size
            due[split] -= filled
    groups.side_M[groups.side_M == 0] = _TRAIN


def _leave_none_empty(groups: _Groups, shares: Mapping[Split, float]) -> None:
    """Give a held-out split that came out empty, its groups being large, the smallest group that train can spare."""
    for split in HELD_OUT:
        if shares.get(split, 0.0) > 0 and not (groups.side_M == SIDES[split]).any():
            spare = np.flatnonzero((groups.side_M == _TRAIN) & ~groups.fixed_M)
            if len(spare) > 1:
                smallest = np.lexsort((groups.order_M[spare], groups.size_M[spare]))[0]
                groups.side_M[spare[smallest]] = SIDES[split]


def _teach_every_label(
    labels: _Labels, group_N: NDArray[np.int64], side_G: NDArray[np.uint8], fixed_G: NDArray[np.bool_]
) -> None:
    """Move a group back to train for every label that train would not know."""
    trained = np.unique(labels.set_N[(side_G == _TRAIN)[group_N]])
    known = {label for number in trained.tolist() for label in labels.sets[number]}
    lacking = [number for number, found in enumerate(labels.sets) if not known.issuperset(found)]
    if not lacking:
        return
    may_move_N = ~fixed_G[group_N] & (side_G[group_N] != _TRAIN)
    told: dict[int, set[str]] = {}
    for row in np.flatnonzero(may_move_N & np.isin(labels.set_N, lacking)).tolist():
        told.setdefault(int(group_N[row]), set()).update(labels.sets[labels.set_N[row]])
    for group in sorted(told, key=lambda group: int(labels.order_G[group])):
        if told[group] - known:
            side_G[group] = _TRAIN
            known |= told[group]
