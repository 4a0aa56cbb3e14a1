"""Attention inside segments by a kernel of our own: C++ that is compiled once on the machine that uses it.

PyTorch's fused attention takes a large part of a small model's training step on a CPU, its backward pass above all.
Ours (assets/attention.cpp) keeps small tiles in the cache, leaves out what nobody sees and takes packed segments of any
length in one call; benchmarks/attention.md has the figures. models/fused_choice.py builds it and decides on its use,
models/fused_proof.py compares and times it.

Shapes: B rows, T positions, H query heads, G key/value heads, D head width, S segments.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Unfit(Exception):
    """Why the kernel cannot be had, as the end of `pytorch because …`."""


class Scope(NamedTuple):
    """Who sees whom: positions inside each of the spans, (S, 3), int64: row, first position and length.

    `window` is how many positions back a query sees, itself included (None: all); where `causal`, nobody looks ahead.
    Results at positions outside of all spans are undefined.
    """

    spans: Tensor
    window: int | None = None
    causal: bool = True


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel, loaded. Its results do not depend on the number of threads, but on the width of its tiles."""

    library: Any
    tile: int

    @staticmethod
    def load(path: Path, tile: int) -> Kernel:
        """Load what was built.

        Raises:
            Unfit: it cannot be loaded here.
        """
        try:
            library = ctypes.CDLL(str(path))
            for name in ("metier_attention_forward", "metier_attention_backward"):
                getattr(library, name).restype = ctypes.c_int
        except (OSError, AttributeError) as error:
            raise Unfit(f"what was built of it cannot be loaded ({error})") from None
        return Kernel(library, tile)

    def fits(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether these tensors (…, D) are of a kind that it computes."""
        width = query.shape[-1]
        return (
            query.device.type == "cpu"
            and query.dtype == key.dtype == value.dtype == torch.bfloat16
            and width == key.shape[-1] == value.shape[-1]
            and width % 2 == 0
            and all(tensor.stride(-1) == 1 for tensor in (query, key, value))
        )

    def forward(
        self, query_BTHD: Tensor, key_BTGD: Tensor, value_BTGD: Tensor, scope: Scope, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """Attend inside each span.

        Args:
            query_BTHD, key_BTGD, value_BTGD: bfloat16, with any strides but the last.
            scaling: factor on the scores.

        Returns:
            (B, T, H, D), and the logarithms of the weights' sums (B, T, H), float32.
        """
        out_BTHD = query_BTHD.new_empty(query_BTHD.shape)
        sums_BTH = query_BTHD.new_empty(query_BTHD.shape[:3], dtype=torch.float32)
        given = (query_BTHD, key_BTGD, value_BTGD)
        self._call("metier_attention_forward", given, (out_BTHD, sums_BTH), (), scope, scaling)
        return out_BTHD, sums_BTH

    def backward(
        self,
        grad_BTHD: Tensor,
        query_BTHD: Tensor,
        key_BTGD: Tensor,
        value_BTGD: Tensor,
        out_BTHD: Tensor,
        sums_BTH: Tensor,
        scope: Scope,
        scaling: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value; the arguments are those of `forward` and its results."""
        inputs = (query_BTHD, key_BTGD, value_BTGD)
        grads = [tensor.new_empty(tensor.shape) for tensor in inputs]
        results = (out_BTHD.contiguous(), sums_BTH.contiguous())
        self._call("metier_attention_backward", (grad_BTHD, *inputs), results, grads, scope, scaling)
        return grads[0], grads[1], grads[2]

    def _call(
        self,
        name: str,
        given: Sequence[Tensor],
        results: tuple[Tensor, Tensor],
        grads: Sequence[Tensor],
        scope: Scope,
        scaling: float,
    ) -> None:
        """Call a function of the library; the order of `sizes` and of the rest is said there.

        Raises:
            RuntimeError: PyTorch refused a matrix product, as without oneDNN.
        """
        _, length, heads, width = results[0].shape
        sizes = (
            *(length, heads, given[-1].shape[2], width, scope.window or 0, self.tile),
            *(int(scope.causal), torch.get_num_threads(), len(scope.spans)),
        )
        strides = [step for tensor in (*given, *grads) for step in tensor.stride()[:3]]
        failed = getattr(self.library, name)(
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (*given, *results, *grads)),
            (ctypes.c_int64 * len(strides))(*strides),
            ctypes.c_void_p(scope.spans.data_ptr()),
            (ctypes.c_int64 * len(sizes))(*sizes),
            ctypes.c_float(scaling),
        )
        if failed:
            raise RuntimeError("PyTorch refused a matrix product of the attention kernel; CXX=none does without it")
