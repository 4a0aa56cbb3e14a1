"""Encoded examples with their targets, as the loop and the validation read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from metier.core.batch import Batch
from metier.data.batching import collate, micro_batches
from metier.data.template import Encoded
from metier.training.method import Facts
from metier.training.trunk_cache import TrunkCache


@dataclass(frozen=True, slots=True)
class Feed:
    """A split, encoded: any sequence of Encoded (a list, or a memory-mapped TokenTable) and the arrays beside it."""

    items: Sequence[Encoded]
    lengths: npt.NDArray[np.int64]
    targets: npt.NDArray[Any] | None
    pad_id: int
    trunk: TrunkCache | None = None
    """What leaves the frozen part of the policy for each of them, where a run keeps it."""

    @classmethod
    def of(cls, items: Sequence[Encoded], *, pad_id: int, facts: Facts) -> Feed:
        """Return the feed of encoded examples; labels become indices into `facts.labels`."""
        lengths = np.array([len(item.token_ids) for item in items], dtype=np.int64)
        labelled = bool(items) and items[0].target is not None
        return cls(items, lengths, encode_targets([i.target for i in items], facts) if labelled else None, pad_id)

    def __len__(self) -> int:
        return len(self.items)

    def collate(self, positions: Sequence[int], rows: list[list[int]]) -> Batch:
        """Return the batch of some rows; `rows` index into `positions`, which index into the feed."""
        order = [positions[i] for row in rows for i in row]
        local = iter(range(len(order)))
        batch = collate(
            [self.items[p] for p in order],
            [[next(local) for _ in row] for row in rows],
            pad_id=self.pad_id,
            pad_multiple=_multiple(self.lengths[order], len(rows)),
            targets=None if self.targets is None else self.targets[order],
        )
        if self.trunk is None:
            return batch
        return replace(batch, trunk=self.trunk.gather(positions, rows, batch.tokens_BT.shape[1]))

    def shape(self, positions: npt.NDArray[np.int64], rows: list[list[int]]) -> tuple[int, int]:
        """Return B and T of the batch that `collate` would make."""
        lengths = self.lengths[positions]
        longest = max(sum(int(lengths[i]) for i in row) for row in rows)
        multiple = _multiple(lengths[[i for row in rows for i in row]], len(rows))
        return len(rows), -(-longest // multiple) * multiple

    def batches(self, *, budget_tokens: int, packing: bool) -> Iterator[Batch]:
        """Yield the whole feed in micro-batches, for validation; one at a time, since each may carry its states."""
        everything = list(range(len(self.items)))
        for rows in micro_batches(self.lengths, budget_tokens=budget_tokens, packing=packing):
            yield self.collate(everything, rows)


def _multiple(lengths: npt.NDArray[np.int64], rows: int) -> int:
    """To which multiple a batch's width is padded, so that few different shapes occur.

    oneDNN compiles a matrix product for each new shape and keeps it: free shapes cost 17 % of a bfloat16 step and
    20 MB per step (LOG.md, 2026-11-21). One long row is rounded coarsely, short rows hardly, so that padding stays low.
    """
    width = int(lengths.sum()) if rows == 1 else 0
    return 128 if width >= 2048 else 64 if width >= 1024 else 8


def encode_targets(targets: Sequence[Any], facts: Facts) -> npt.NDArray[Any]:
    """Return int64 (N,) class indices, float32 (N, K) indicators, or float32 (N,) standardised numbers."""
    if facts.problem_type == "regression":
        values = np.array([float(t) for t in targets], dtype=np.float32)
        return (values - np.float32(facts.target_mean)) / np.float32(facts.target_scale)
    index = {label: i for i, label in enumerate(facts.labels)}
    if facts.problem_type == "multi_label":
        matrix = np.zeros((len(targets), len(facts.labels)), dtype=np.float32)
        for row, labels in enumerate(targets):
            matrix[row, [index[label] for label in ([labels] if isinstance(labels, str) else labels)]] = 1.0
        return matrix
    return np.array([index[t] for t in targets], dtype=np.int64)
