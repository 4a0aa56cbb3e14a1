"""Encoded: one example as token ids with their loss mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as the model sees it (T tokens)."""

    example_id: str
    token_ids: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.float32]
    """Weight of the loss on the token at this position; the first is always 0, since nothing predicts it."""
    num_prompt: int
    """Leading tokens up to the first supervised one; all of them where none is."""
    cut_tokens: int = 0
    """Tokens that truncation took away; 0 = whole."""
    target: Any = None
    """The target of a Labelled example, untouched."""

    @property
    def num_supervised(self) -> int:
        """Tokens with a loss."""
        return int(np.count_nonzero(self.loss_mask))
