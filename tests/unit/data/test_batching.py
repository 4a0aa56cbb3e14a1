"""Which examples a step takes, and how they lie in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.data.batching import collate, micro_batches, step_examples, steps_per_epoch
from metier.data.encoded import Encoded


def item(name: str, length: int, prompt: int = 1, weight: float = 1.0) -> Encoded:
    mask = np.zeros(length, dtype=np.float32)
    mask[prompt:] = weight
    return Encoded(name, np.arange(10, 10 + length, dtype=np.int32), mask, prompt)


def realistic(name: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    lengths = {
        "chat": rng.lognormal(5.0, 0.8, n),  # median 148, a tail beyond 1000
        "intents": rng.normal(30, 9, n),
        "notes": rng.lognormal(6.0, 0.5, n),
        "two-sizes": np.where(rng.random(n) < 0.5, 20, 900),
        "uniform": rng.uniform(5, 1024, n),
    }[name]
    return np.clip(lengths, 3, 1024).astype(np.int64)


def padding_share(lengths: np.ndarray, passes: list[list[list[int]]]) -> float:
    """1 − Σ length / Σ B·T."""
    slots = sum(len(rows) * max(sum(int(lengths[i]) for i in row) for row in rows) for rows in passes)
    return 1.0 - float(np.sum(lengths)) / slots


def test_an_epoch_is_a_permutation_and_its_last_step_is_the_rest() -> None:
    assert steps_per_epoch(10, 4) == 3
    steps = [step_examples(s, n=10, batch_size=4, seed=3) for s in range(6)]
    assert [len(s) for s in steps] == [4, 4, 2, 4, 4, 2]
    assert sorted(np.concatenate(steps[:3])) == sorted(np.concatenate(steps[3:])) == list(range(10))
    assert np.concatenate(steps[:3]).tolist() != np.concatenate(steps[3:]).tolist()


def test_a_step_needs_nothing_but_its_number() -> None:
    late = step_examples(4321, n=1000, batch_size=16, seed=1)
    for step in range(4300, 4330):
        step_examples(step, n=1000, batch_size=16, seed=1)
    assert late.tolist() == step_examples(4321, n=1000, batch_size=16, seed=1).tolist()
    assert late.tolist() != step_examples(4321, n=1000, batch_size=16, seed=2).tolist()
    late[:] = 0  # the caller's copy is the caller's
    assert step_examples(4321, n=1000, batch_size=16, seed=1).any()
    with pytest.raises(ValueError, match="does not exist"):
        step_examples(0, n=0, batch_size=16, seed=1)


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=LENGTHS, budget=st.integers(1, 1000), packing=st.booleans())
def test_every_example_comes_once_within_budget_and_padding(lengths: list[int], budget: int, packing: bool) -> None:
    passes = micro_batches(np.array(lengths), budget_tokens=budget, packing=packing)
    assert sorted(i for rows in passes for row in rows for i in row) == list(range(len(lengths)))
    for rows in passes:
        width = max(sum(lengths[i] for i in row) for row in rows)
        alone = len(rows) == 1 and len(rows[0]) == 1
        assert len(rows) * width <= budget or alone
        assert packing or all(len(row) == 1 for row in rows)
    assert padding_share(np.array(lengths), passes) <= (0.0 if packing else 0.10) + 1e-12


@pytest.mark.parametrize("budget", [2048, 8192])
@pytest.mark.parametrize("batch_size", [8, 16, 64, 700])
@pytest.mark.parametrize("name", ["chat", "intents", "notes", "two-sizes", "uniform"])
def test_padding_stays_under_a_tenth_on_realistic_lengths(name: str, batch_size: int, budget: int) -> None:
    lengths = realistic(name, 2000)
    for step in range(min(10, steps_per_epoch(2000, batch_size))):
        taken = lengths[step_examples(step, n=2000, batch_size=batch_size, seed=0)]
        passes = micro_batches(taken, budget_tokens=budget, packing=False)
        assert padding_share(taken, passes) <= 0.10
        assert len(passes) <= len(taken)
        packed = micro_batches(taken, budget_tokens=budget, packing=True)
        # Best fit needs at most a few bins more than the volume demands.
        assert len(packed) <= np.ceil(taken.sum() / budget) * 1.25 + 1


def test_near_equal_lengths_share_one_pass() -> None:
    assert len(micro_batches(np.full(16, 64), budget_tokens=1024, packing=False)) == 1
    assert len(micro_batches(np.full(16, 64), budget_tokens=512, packing=False)) == 2
    assert len(micro_batches(np.array([100, 99, 95, 92] * 4), budget_tokens=4096, packing=False)) == 1


def test_the_longest_pass_comes_first_so_that_memory_peaks_at_the_start() -> None:
    lengths = realistic("chat", 64)
    for packing in (False, True):
        [first, *_] = micro_batches(lengths, budget_tokens=2048, packing=packing)
        assert int(np.argmax(lengths)) in [i for row in first for i in row]


def test_no_examples_make_no_pass() -> None:
    assert micro_batches(np.array([], dtype=np.int64), budget_tokens=64, packing=True) == []


def test_collate_lays_out_packed_rows() -> None:
    items = [item("a", 3), item("b", 2), item("c", 4, prompt=2, weight=0.5)]
    batch = collate(items, [[2, 1], [0]], pad_id=99, targets=np.array([5, 6, 7]), pad_multiple=4)
    assert batch.tokens_BT.tolist() == [[10, 11, 12, 13, 10, 11, 99, 99], [10, 11, 12, 99, 99, 99, 99, 99]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0]]
    assert batch.loss_mask_BT.tolist() == [[0, 0, 0.5, 0.5, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    assert batch.example_ids == ("c", "b", "a")
    assert batch.targets is not None and batch.targets.tolist() == [7, 6, 5]
    assert batch.weights == {"tokens": 4.0, "examples": 3.0}
    assert batch.packed and batch.num_tokens == 9


def test_no_segment_begins_with_a_loss_so_that_none_predicts_across_a_border() -> None:
    items = [item(str(i), n) for i, n in enumerate(realistic("intents", 40))]
    lengths = np.array([len(i.token_ids) for i in items])
    for rows in micro_batches(lengths, budget_tokens=512, packing=True):
        batch = collate(items, rows, pad_id=0)
        assert not batch.loss_mask_BT[batch.positions_BT == 0].any()
        assert not batch.loss_mask_BT[batch.segments_BT == 0].any()


def test_the_weights_of_a_step_do_not_depend_on_packing_or_budget() -> None:
    items = [item(str(i), int(n), prompt=int(n) // 2) for i, n in enumerate(realistic("chat", 32))]
    lengths = np.array([len(i.token_ids) for i in items])
    totals = set()
    for packing in (True, False):
        for budget in (1, 512, 100_000):
            passes = micro_batches(lengths, budget_tokens=budget, packing=packing)
            batches = [collate(items, rows, pad_id=0) for rows in passes]
            totals.add((sum(b.weights["tokens"] for b in batches), sum(b.weights["examples"] for b in batches)))
    assert totals == {(float(sum(i.num_supervised for i in items)), 32.0)}
