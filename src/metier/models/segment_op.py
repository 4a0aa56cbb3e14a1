"""Attention inside segments as one operation that torch.compile does not look into, forward and backward.

A compiled block sees two opaque operations, in which our own kernel (models/fused.py) attends, or else PyTorch's, for
which models/segments.py lays the segments out. The segments come as a small integer tensor, so that other segments do
not mean another compilation.
What is kept for the backward pass: q, k, v and the result in their own precision, and one number per position and head.

Shapes: B rows, T positions, H query heads, G key/value heads, D head width, S segments, N segments of one group, W
their width, P = Σ N·W.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from metier.models.fused import Kernel, Scope
from metier.models.segments import (
    ROUND_TOKENS,
    SHORT_TOKENS,
    Group,
    Layout,
    Lengths,
    Rounding,
    Segments,
    gather,
    scatter,
)

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


TWO_WAY = -1
"""In place of a window: everybody sees everybody of the segment. For our own kernel alone."""
_kernel: Kernel | None = None


def use(kernel: Kernel | None) -> None:
    """Let attention in bfloat16 on the CPU be computed by this kernel in this process; None: by PyTorch's."""
    global _kernel
    _kernel = kernel


def own_kernel() -> Kernel | None:
    """Return the kernel in use, None where it is PyTorch's: also where oneDNN, whose products it takes, is off."""
    return _kernel if torch.backends.mkldnn.enabled else None


def encode(lengths: Lengths, window: int | None, causal: bool = True) -> Tensor:
    """Return segments as a tensor (1 + S, 2), int64: first the window (0 = none) and the rows, then row and length."""
    first = (window or 0) if causal else TWO_WAY
    pairs = [(row, length) for row, segments in enumerate(lengths) for length in segments]
    return torch.tensor([(first, len(lengths)), *pairs], dtype=torch.int64, device="cpu")


def decode(code: Tensor) -> Segments:
    """Return the segments that `encode` wrote down."""
    return _decoded(code.numpy().tobytes())


@lru_cache(maxsize=64)
def _decoded(code: bytes) -> Segments:
    (window, num_rows), *pairs = torch.frombuffer(bytearray(code), dtype=torch.int64).view(-1, 2).tolist()
    if window == TWO_WAY:
        raise ValueError("attention both ways, without our own kernel")
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    for row, length in pairs:
        rows[row].append(length)
    return Segments(tuple(map(tuple, rows)), window or None)


def _scope(code: Tensor, query_BTHD: Tensor) -> Scope:
    """Return the segments as the kernel wants them; it checks nothing, so that is done here.

    Raises:
        ValueError: the segments do not fill the rows.
    """
    scope, widths = _scoped(code.numpy().tobytes())
    rows, length = query_BTHD.shape[:2]
    if widths != (length,) * rows:
        raise ValueError(f"segments of {widths} positions for {rows} rows of {length}")
    return scope


@lru_cache(maxsize=64)
def _scoped(code: bytes) -> tuple[Scope, tuple[int, ...]]:
    (window, rows), *pairs = torch.frombuffer(bytearray(code), dtype=torch.int64).view(-1, 2).tolist()
    spans, ends = [], Counter[int]()
    for row, length in pairs:
        spans.append((row, ends[row], length))
        ends[row] += length
    scope = Scope(torch.tensor(spans, device="cpu"), window if window > 0 else None, window != TWO_WAY)
    return scope, tuple(ends[row] for row in range(rows))


def _layout(code: Tensor, dtype: torch.dtype) -> tuple[Segments, Layout]:
    segments = decode(code)
    rounding = Rounding(ROUND_TOKENS, above=SHORT_TOKENS) if dtype == torch.bfloat16 else Rounding()
    return segments, segments.layout(rounding, torch.device("cpu"))


def _rows(flat_PHD: Sequence[Tensor], layout: Layout) -> list[tuple[Group, list[Tensor]]]:
    """Divide slots (P, heads, D) into the groups' rows (N, heads, W, D)."""
    sizes = [group.count * group.width for group in layout.groups]
    split = zip(*(torch.split(tensor, sizes) for tensor in flat_PHD), strict=True)
    return [
        (group, [part.view(group.count, group.width, *part.shape[1:]).transpose(1, 2) for part in parts])
        for group, parts in zip(layout.groups, split, strict=True)
    ]


def _additive(segments: Segments, group: Group, dtype: torch.dtype) -> Tensor | None:
    mask = segments.mask(group, True, torch.device("cpu"))
    if mask is None:
        return None
    zero = torch.zeros(mask.shape, dtype=dtype)
    return zero.masked_fill_(~mask, float("-inf"))


def _precision(group: Group, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if group.width <= SHORT_TOKENS else dtype


# The compiler keeps what it made of an operation under its name: other shapes of results want another name.
@torch.library.custom_op("metier::attend_segments", mutates_args=(), device_types="cpu")
def segment_attention(
    query_BTHD: Tensor, key_BTGD: Tensor, value_BTGD: Tensor, code: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend inside each segment, each position to itself and what stands before it (unless the code says both ways).

    Args:
        code: as `encode` makes it.
        scaling: factor on the scores.

    Returns:
        (B, T, H, D), and the logarithms of the weights' sums (B, T, H), float32.
    """
    kernel = own_kernel()
    if kernel is not None and kernel.fits(query_BTHD, key_BTGD, value_BTGD):
        return kernel.forward(query_BTHD, key_BTGD, value_BTGD, _scope(code, query_BTHD), scaling)
    dtype = query_BTHD.dtype
    segments, layout = _layout(code, dtype)
    flat = [gather(tensor.flatten(0, 1), layout) for tensor in (query_BTHD, key_BTGD, value_BTGD)]
    outs, sums = [], []
    for group, rows in _rows(flat, layout):
        kind = _precision(group, dtype)
        mask = _additive(segments, group, kind)
        q, k, v = (tensor.to(kind) for tensor in rows)
        out, lse = FORWARD(q, k, v, 0.0, mask is None, attn_mask=mask, scale=scaling)
        outs.append(out.transpose(1, 2).flatten(0, 1).to(dtype))
        sums.append(lse.transpose(1, 2).flatten(0, 1).float())
    out_PHD, sums_PH = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (outs, sums))
    shape = query_BTHD.shape
    return scatter(out_PHD, layout).reshape(shape).contiguous(), scatter(sums_PH, layout).reshape(
        shape[:3]
    ).contiguous()


@segment_attention.register_fake
def _(query_BTHD: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    out_BTHD = query_BTHD.new_empty(query_BTHD.shape)
    return out_BTHD, query_BTHD.new_empty(query_BTHD.shape[:3], dtype=torch.float32)


@torch.library.custom_op("metier::attend_segments_backward", mutates_args=(), device_types="cpu")
def segment_attention_backward(
    grad_BTHD: Tensor,
    query_BTHD: Tensor,
    key_BTGD: Tensor,
    value_BTGD: Tensor,
    out_BTHD: Tensor,
    sums_BTH: Tensor,
    code: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    dtype = query_BTHD.dtype
    kernel = own_kernel()
    if kernel is not None and kernel.fits(query_BTHD, key_BTGD, value_BTGD):
        kept = (query_BTHD, key_BTGD, value_BTGD, out_BTHD, sums_BTH)
        return kernel.backward(grad_BTHD.to(dtype), *kept, _scope(code, query_BTHD), scaling)
    segments, layout = _layout(code, dtype)
    tensors = (query_BTHD, key_BTGD, value_BTGD, out_BTHD)
    flat = [gather(tensor.flatten(0, 1), layout) for tensor in tensors]
    flat_sums = gather(sums_BTH.flatten(0, 1).unsqueeze(-1), layout)
    flat_grad = _gradient_slots(grad_BTHD.flatten(0, 1).to(dtype), layout)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for group, (grad, q, k, v, out, sums) in _rows([flat_grad, *flat, flat_sums], layout):
        kind = _precision(group, dtype)
        mask = _additive(segments, group, kind)
        wide = [tensor.to(kind) for tensor in (grad, q, k, v, out)]
        grads = BACKWARD(*wide, sums.squeeze(-1), 0.0, mask is None, attn_mask=mask, scale=scaling)
        found.append(tuple(g.transpose(1, 2).flatten(0, 1).to(dtype) for g in grads))
    back = []
    for parts, like in zip(zip(*found, strict=True), tensors[:3], strict=True):
        slots = parts[0] if len(parts) == 1 else torch.cat(parts)
        back.append(scatter(slots, layout).reshape(like.shape).contiguous())
    return back[0], back[1], back[2]


@segment_attention_backward.register_fake
def _(
    grad_BTHD: Tensor, query_BTHD: Tensor, key_BTGD: Tensor, value_BTGD: Tensor, *_rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (tensor.new_empty(tensor.shape) for tensor in (query_BTHD, key_BTGD, value_BTGD))
    return query, key, value


def _gradient_slots(grad_SX: Tensor, layout: Layout) -> Tensor:
    """Put gradients into slots; those that only fill a row up get zero."""
    if layout.places_BT is None:
        return grad_SX
    slots = sum(group.count * group.width for group in layout.groups)
    grad_PX = grad_SX.new_zeros(slots, *grad_SX.shape[1:])
    grad_PX[layout.places_BT] = grad_SX
    return grad_PX


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, code, ctx.scaling = inputs
    ctx.save_for_backward(query, key, value, *output, code)


def _backward(ctx: Any, grad_BTHD: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, out, sums, code = ctx.saved_tensors
    grads = segment_attention_backward(grad_BTHD.contiguous(), query, key, value, out, sums, code, ctx.scaling)
    return (*grads, None, None)


segment_attention.register_autograd(_backward, setup_context=_keep)
