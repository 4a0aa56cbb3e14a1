"""Segments of packed rows: where they lie, and how to take them apart and put them together again.

Shapes: B rows, T positions, N segments.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metier.core.batch import Batch


def bounds(segments_BT: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat start and end (exclusive) of every segment, each (N,), in the order of the rows."""
    numbers = np.where(segments_BT > 0, segments_BT + (1 << 20) * np.arange(1, len(segments_BT) + 1)[:, None], 0)
    flat = np.concatenate([[0], numbers.reshape(-1).astype(np.int64), [0]])
    changes = np.flatnonzero(np.diff(flat))
    starts = changes[flat[changes + 1] > 0]
    ends = changes[flat[changes] > 0]
    return starts, ends


def row_lengths(segments_BT: npt.NDArray[np.int32]) -> list[list[int]]:
    """Return the lengths of each row's segments; trailing padding is one more segment, which nobody reads."""
    width = segments_BT.shape[1]
    found = []
    for row in segments_BT:
        cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), width]
        found.append([end - start for start, end in pairwise(cuts)])
    return found


def unpack(batch: Batch) -> Batch:
    """Return the batch with one right-padded row per segment, in the order of `example_ids`."""
    if not batch.packed:
        return batch
    starts, ends = bounds(batch.segments_BT)
    lengths = ends - starts
    inside_NT = np.arange(lengths.max())[None, :] < lengths[:, None]
    where = np.flatnonzero(batch.segments_BT > 0)

    def spread(values_BT: npt.NDArray[Any]) -> npt.NDArray[Any]:
        rows = np.zeros(inside_NT.shape, dtype=values_BT.dtype)
        rows[inside_NT] = values_BT.reshape(-1)[where]
        return rows

    return replace(
        batch,
        tokens_BT=spread(batch.tokens_BT),
        loss_mask_BT=spread(batch.loss_mask_BT),
        segments_BT=inside_NT.astype(np.int32),
        positions_BT=spread(batch.positions_BT),
    )


def repack(values_NTX: Tensor, batch: Batch) -> Tensor:
    """Put the rows that `unpack` made back into their places; padding is zero."""
    if not batch.packed:
        return values_NTX
    starts, ends = bounds(batch.segments_BT)
    inside_NT = np.arange(values_NTX.shape[1])[None, :] < (ends - starts)[:, None]
    # Places are found in numpy: a dry run has no values to find them by.
    sources = torch.from_numpy(np.flatnonzero(inside_NT)).to(values_NTX.device)
    where = torch.from_numpy(np.flatnonzero(batch.segments_BT > 0)).to(values_NTX.device)
    rows = values_NTX.flatten(0, 1).index_select(0, sources)
    flat = rows.new_zeros(batch.tokens_BT.size, rows.shape[-1]).index_copy(0, where, rows)
    return flat.view(*batch.tokens_BT.shape, -1)
