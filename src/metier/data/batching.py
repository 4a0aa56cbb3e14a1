"""From lengths to micro-batches: which examples a step takes, and how they lie in memory.

Everything here is a pure function, so that a resumed run needs nothing but its step to see the same examples. Packing
and the token budget decide only how a step is computed, never what is in it.

Shapes: B rows, T token positions, N examples.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from metier.core.batch import Batch

if TYPE_CHECKING:
    from metier.data.encoded import Encoded

Lengths = npt.NDArray[np.integer]
MicroBatch = list[list[int]]
"""Rows of one forward pass; each row lists the positions of its examples."""
MAX_EXACT = 512
"""Up to so many examples the micro-batches are chosen by dynamic programming, beyond by one greedy pass."""


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the optimiser steps of one pass over n examples; the last step may be smaller."""
    return -(-n // batch_size)


def step_examples(step: int, *, n: int, batch_size: int, seed: int) -> npt.NDArray[np.int64]:
    """Return which of n examples step 0, 1, 2 … takes: each epoch is a permutation of its own.

    Raises:
        ValueError: no examples, or a negative step.
    """
    if n < 1 or step < 0:
        raise ValueError(f"step {step} of {n} examples does not exist")
    epoch, within = divmod(step, steps_per_epoch(n, batch_size))
    return _permutation(n, seed, epoch)[within * batch_size : (within + 1) * batch_size].copy()


def micro_batches(
    lengths: Lengths, *, budget_tokens: int, packing: bool, max_padding: float = 0.10
) -> list[MicroBatch]:
    """Divide examples into forward passes of at most budget_tokens positions, padding included.

    A single example over the budget has a pass of its own. Every example comes exactly once.

    Args:
        lengths: tokens of each example (N,).
        budget_tokens: token positions of one forward pass.
        packing: one row per pass with many segments (best-fit decreasing; no padding at all). Otherwise one example
            per row, in passes of near-equal length.
        max_padding: bound on the padded share of all positions, without packing.

    Returns:
        Passes → rows → positions in `lengths`, longest pass first: memory is claimed at its peak, at the start.
    """
    if not len(lengths):
        return []
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    ordered = np.asarray(lengths, dtype=np.int64)[order]
    if packing:
        return [[[int(order[i]) for i in bin_]] for bin_ in _best_fit(ordered, budget_tokens)]
    groups = _exact(ordered, budget_tokens, max_padding) if len(ordered) <= MAX_EXACT else None
    groups = groups or _greedy(ordered, budget_tokens, max_padding)
    return [[[int(order[i])] for i in range(start, end)] for start, end in groups]


def collate(
    items: Sequence[Encoded],
    rows: MicroBatch,
    *,
    pad_id: int,
    targets: npt.NDArray[np.float32] | npt.NDArray[np.int64] | None = None,
    pad_multiple: int = 1,
) -> Batch:
    """Lay the examples of one micro-batch into arrays; padding stands on the right.

    Args:
        items: the step's examples; `rows` holds positions in it.
        rows: one entry of `micro_batches`.
        pad_id: token of the padding.
        targets: labels aligned with `items`.
        pad_multiple: T is rounded up to a multiple of this.
    """
    width = max(sum(len(items[i].token_ids) for i in row) for row in rows)
    width = -(-width // pad_multiple) * pad_multiple
    tokens_BT = np.full((len(rows), width), pad_id, dtype=np.int64)
    loss_mask_BT = np.zeros((len(rows), width), dtype=np.float32)
    segments_BT = np.zeros((len(rows), width), dtype=np.int32)
    positions_BT = np.zeros((len(rows), width), dtype=np.int64)
    for b, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row, start=1):
            item = items[index]
            end = start + len(item.token_ids)
            tokens_BT[b, start:end] = item.token_ids
            loss_mask_BT[b, start:end] = item.loss_mask
            segments_BT[b, start:end] = segment
            positions_BT[b, start:end] = np.arange(end - start)
            start = end
    flat = [index for row in rows for index in row]
    return Batch(
        tokens_BT=tokens_BT,
        loss_mask_BT=loss_mask_BT,
        segments_BT=segments_BT,
        positions_BT=positions_BT,
        example_ids=tuple(items[i].example_id for i in flat),
        weights={"tokens": float(loss_mask_BT.sum(dtype=np.float64)), "examples": float(len(flat))},
        targets=None if targets is None else targets[np.asarray(flat)],
    )


# ───────────────────────────────────────────────────────────────────────────── inside


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(n)


def _best_fit(ordered: npt.NDArray[np.int64], budget: int) -> list[list[int]]:
    """Return bins of positions: each example goes where it leaves the least room (lengths come longest first)."""
    bins: list[list[int]] = []
    room_of: list[tuple[int, int]] = []  # (room left, bin), sorted
    for i, length in enumerate(ordered.tolist()):
        at = bisect.bisect_left(room_of, (length, -1))
        if at < len(room_of):
            room, found = room_of.pop(at)
        else:
            room, found = budget, len(bins)
            bins.append([])
        bins[found].append(i)
        if room - length > 0:
            bisect.insort(room_of, (room - length, found))
    return bins


def _greedy(ordered: npt.NDArray[np.int64], budget: int, max_padding: float) -> list[tuple[int, int]]:
    """Return ranges, each as long as budget and padding allow."""
    groups, start, total = [], 0, 0
    for i, length in enumerate(ordered.tolist()):
        slots = (i - start + 1) * int(ordered[start])
        if i > start and (slots > budget or total + length < (1.0 - max_padding) * slots):
            groups.append((start, i))
            start, total = i, 0
        total += length
    return [*groups, (start, len(ordered))]


def _exact(ordered: npt.NDArray[np.int64], budget: int, max_padding: float) -> list[tuple[int, int]] | None:
    """Return the ranges with the fewest passes whose padding, over all of them, stays under the bound.

    Minimises Σ positions + price · passes; the price of a pass falls until the padding fits, since with price 0 only
    equal lengths share a pass and nothing is padded.
    """
    used = int(ordered.sum())
    price = used
    while True:
        groups = _cheapest(ordered, budget, price)
        slots = sum((end - start) * int(ordered[start]) for start, end in groups)
        if slots - used <= max_padding * slots:
            return groups
        if price == 0:
            return None
        price //= 2


def _cheapest(ordered: npt.NDArray[np.int64], budget: int, price: int) -> list[tuple[int, int]]:
    n = len(ordered)
    cost = np.zeros(n + 1)
    end_of = np.zeros(n, dtype=np.int64)
    for start in range(n - 1, -1, -1):
        most = max(1, min(n - start, budget // max(int(ordered[start]), 1)))
        costs = np.arange(1, most + 1) * int(ordered[start]) + cost[start + 1 : start + most + 1]
        best = int(np.argmin(costs))
        cost[start], end_of[start] = costs[best] + price, start + best + 1
    groups, start = [], 0
    while start < n:
        groups.append((start, int(end_of[start])))
        start = int(end_of[start])
    return groups
