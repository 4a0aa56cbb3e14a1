"""A decoder's blocks, compiled: PyTorch's inductor fuses what stands between the matrix products.

Norms, rotary positions, gates, residual sums and casts are a third of a small model's step on a CPU; fused, they are a
tenth, and the compiler keeps less for the backward pass. Attention stays one operation of its own
(models/segment_op.py). Compiling takes a C++ compiler and some twenty seconds the first time, a few when it is cached:
actions decide whether that pays within the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from metier.models.adapters.layers import find_blocks

if TYPE_CHECKING:
    from metier.models.policy import Policy

OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Random numbers (dropout) are PyTorch's own, so that compiled and plain passes draw the same."""


class CompiledBlocks:
    """The blocks of a policy's base with compiled forward passes, used where `active` says so."""

    def __init__(self, policy: Policy) -> None:
        blocks, _ = find_blocks(policy.base.model)
        self._compiled: list[tuple[Any, Any]] = [
            (block, torch.compile(block.forward, dynamic=True, options=OPTIONS)) for block in blocks
        ]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within this context the blocks run compiled."""
        try:
            for block, compiled in self._compiled:
                block.forward = compiled
            yield
        finally:
            for block, _ in self._compiled:
                block.__dict__.pop("forward", None)
