"""Splits: shares, strata, groups on one side, assignments that persist."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from metier.core.types import Labelled, Split, identify
from metier.data.labels import labels_of
from metier.data.similar import Likeness, liken
from metier.data.split import Previous, assign, group_keys, proof

SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.1}


def rows(n: int, labels: int = 4, start: int = 0) -> list[Labelled]:
    return [
        identify(Labelled(text=f"text number {i * 7919}", target=f"label {i % labels}", meta={"patient": i // 3}))
        for i in range(start, start + n)
    ]


def alone(examples: list[Labelled]) -> np.ndarray:
    return np.arange(len(examples))


def test_shares_are_met_and_equal_in_each_label() -> None:
    examples = rows(1000)
    made = assign(examples, alone(examples), shares=SHARES)
    assert Counter(made) == {"train": 800, "validation": 100, "test": 100}
    test = Counter(e.target for e, split in zip(examples, made, strict=True) if split == "test")
    assert set(test.values()) == {25}


def test_small_strata_do_not_add_up_to_a_wrong_total() -> None:
    examples = rows(770, labels=77)  # ten rows per label
    made = Counter(assign(examples, alone(examples), shares={"validation": 0.04, "test": 0.06}))
    assert abs(made["test"] - 46) <= 1 and abs(made["validation"] - 31) <= 1


def test_every_label_stays_in_train() -> None:
    examples = [*rows(50, labels=2), *(identify(Labelled(text=f"rare {i}", target=f"rare {i}")) for i in range(40))]
    made = assign(examples, alone(examples), shares={"validation": 0.3, "test": 0.3})
    trained = {e.target for e, split in zip(examples, made, strict=True) if split == "train"}
    assert trained == {e.target for e in examples}
    assert Counter(made)["test"] <= 16  # the rare ones' share is not taken out of the others


def test_neither_order_nor_other_rows_move_a_row() -> None:
    examples = rows(300)
    made = dict(zip((e.id for e in examples), assign(examples, alone(examples), shares=SHARES), strict=True))
    shuffled = random.Random(0).sample(examples, len(examples))
    assert made == dict(zip((e.id for e in shuffled), assign(shuffled, alone(shuffled), shares=SHARES), strict=True))
    assert made != dict(
        zip((e.id for e in examples), assign(examples, alone(examples), shares=SHARES, seed=1), strict=True)
    )


def test_groups_lie_on_one_side() -> None:
    examples = rows(600)
    keys = group_keys(examples, "patient")
    groups = liken([e.text for e in examples], 1.0).groups(keys)
    made = assign(examples, groups, shares=SHARES, keys=keys)
    sides: dict[str, set[str]] = {}
    for key, split in zip(keys, made, strict=True):
        sides.setdefault(str(key), set()).add(str(split))
    assert {len(found) for found in sides.values()} == {1}
    assert 40 <= Counter(made)["test"] <= 62


def test_large_groups_still_leave_no_split_empty() -> None:
    examples = rows(90)
    made = Counter(assign(examples, np.repeat(np.arange(3), 30), shares=SHARES, stratify=False))
    assert made == {"train": 30, "validation": 30, "test": 30}


def test_earlier_rows_stay_and_new_ones_fill_the_shares() -> None:
    old, everything = rows(200), rows(400)
    first = assign(old, alone(old), shares=SHARES)
    by_id = {e.id: split for e, split in zip(old, first, strict=True) if split}
    again = assign(everything, alone(everything), shares=SHARES, previous=Previous("v1", by_id, {}))
    assert again[:200] == first
    assert Counter(again) == {"train": 320, "validation": 40, "test": 40}


def test_a_new_row_joins_its_group_and_one_that_bridges_is_refused() -> None:
    a, b, c, d = rows(4)
    previous = Previous("v1", {a.id: "train", b.id: "test"}, {})
    assert assign([a, b, c], np.array([0, 1, 1]), shares=SHARES, previous=previous) == ["train", "test", "test"]
    bridged = assign([a, b, c, d], np.array([0, 0, 0, 3]), shares=SHARES, previous=previous)
    assert bridged[:3] == ["train", "test", None]
    assert bridged[3] is not None


def test_a_known_group_key_is_found_again() -> None:
    old, new = rows(2)[0], identify(Labelled(text="new visit", target="label 0", meta={"patient": 0}))
    keys = group_keys([new], "patient")
    previous = Previous("v1", {old.id: "validation"}, {"0": "validation"})
    assert assign([new], np.array([0]), shares=SHARES, keys=keys, previous=previous) == ["validation"]


def test_the_proof_counts_what_is_there() -> None:
    texts = ["when will my new card arrive at home", "WHEN will my new card arrive at home?", "how high is the fee"]
    texts += ["when will my new card arrive at home now", "what is the exchange rate today"]
    examples = [identify(Labelled(text=t, target="x")) for t in texts]
    splits: list[Split] = ["train", "test", "train", "test", "test"]
    found = proof(examples, splits, liken(texts, 0.85), ["p", None, None, None, "p"], made=[])
    assert found["leaks"] == {"exact": 1, "near": 1}
    assert found["leaking_ids"] == sorted([examples[1].id, examples[3].id])
    assert found["keys_on_both_sides"] == 1
    assert found["groups_on_both_sides"] == 0  # the splits were given
    made = proof(examples, splits, liken(texts, 0.85), [None] * 5, made=["test"])
    assert made["groups_on_both_sides"] == 1


def test_a_given_row_ties_no_made_rows_together() -> None:
    texts = ["a b c d", "a b c e", "a b c f"]
    examples = [identify(Labelled(text=t, target="x")) for t in texts]
    likeness = Likeness(np.arange(3), np.array([[0, 1], [1, 2]]))  # the first and the last by the one between alone
    splits: list[Split] = ["train", "test", "validation"]
    assert proof(examples, splits, likeness, [None] * 3, made=["validation"])["groups_on_both_sides"] == 0
    assert proof(examples, splits, likeness, [None] * 3, made=["validation", "test"])["groups_on_both_sides"] == 1


@pytest.mark.parametrize(("target", "labels"), [("a", ("a",)), (("a", "b"), ("a", "b")), (1.5, ()), ((), ())])
def test_labels_of(target: str | tuple[str, ...] | float, labels: tuple[str, ...]) -> None:
    assert labels_of(Labelled(text="t", target=target)) == labels
