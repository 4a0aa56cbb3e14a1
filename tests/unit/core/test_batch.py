from __future__ import annotations

import numpy as np

from metier.core.batch import Batch


def make(segments: list[list[int]]) -> Batch:
    segments_BT = np.array(segments, dtype=np.int32)
    mask_BT = (segments_BT > 0).astype(np.float32)
    mask_BT[:, 0] = 0
    return Batch(
        tokens_BT=np.zeros(segments_BT.shape, dtype=np.int64),
        loss_mask_BT=mask_BT,
        segments_BT=segments_BT,
        positions_BT=np.zeros(segments_BT.shape, dtype=np.int64),
        example_ids=("a", "b"),
        weights={"tokens": float(mask_BT.sum())},
    )


def test_padding_counts_as_slots_and_not_as_tokens() -> None:
    batch = make([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert (batch.num_slots, batch.num_tokens, batch.num_supervised) == (8, 4, 2)
    assert not batch.packed


def test_a_row_with_two_segments_is_packed() -> None:
    assert make([[1, 1, 2, 2], [1, 1, 0, 0]]).packed
