"""Batch: the numpy arrays of one forward pass.

Shapes: B rows, T token positions, N examples (N = B unless rows are packed).
A packed row holds several segments; `segments_BT` numbers them from 1 within the row, 0 is padding. Padding stands
on the right only, so that plain causal attention needs no mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch. The loss weights are known here, before the forward pass (the loop's one law)."""

    tokens_BT: npt.NDArray[np.int64]
    """Token ids; padding holds the pad id, or 0 where the tokenizer has none."""
    loss_mask_BT: npt.NDArray[np.float32]
    """Weight of the loss on the token *at* this position (predicted from the one before); 0 = not supervised."""
    segments_BT: npt.NDArray[np.int32]
    """0 for padding, 1… for the segments of the row, in order."""
    positions_BT: npt.NDArray[np.int64]
    """Position within the segment, from 0."""
    example_ids: tuple[str, ...]
    """Ids of the N examples, row by row and segment by segment."""
    weights: Mapping[str, float]
    """Sum of the loss weights per weight key, such as {"tokens": 812.0} or {"examples": 16.0}."""
    targets: npt.NDArray[np.float32] | npt.NDArray[np.int64] | None = None
    """Labels of a task head: int64 (N,) single label, float32 (N, K) several labels, float32 (N,) regression."""
    trunk: npt.NDArray[np.float32] | npt.NDArray[np.uint16] | None = None
    """What leaves the frozen part of the model for this batch, where it is kept (models/trunk.py): pooled vectors
    (N, D), or the states in front of the first trained block (B, T, D); bfloat16 as the uint16 of the same bits."""
    extra: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    """What one method alone needs, such as reference log-probabilities (N,)."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segments_BT > 0).sum())

    @property
    def num_slots(self) -> int:
        """Token positions computed, padding included."""
        return int(self.tokens_BT.size)

    @property
    def num_supervised(self) -> int:
        """Positions with a loss."""
        return int((self.loss_mask_BT > 0).sum())

    @property
    def packed(self) -> bool:
        """True when a row holds more than one segment."""
        return bool(self.segments_BT.size) and int(self.segments_BT.max()) > 1
