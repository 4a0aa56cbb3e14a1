"""Attention inside the segments of packed rows, computed in a few batches of near-equal length.

One kernel call per segment is mostly overhead: 32 sentences of twelve tokens in six layers are 192 calls forward and
192 backward. Segments of similar length are laid into rows of one width instead, a call per width; what is filled up
lies behind the segment, where causal attention does not look, and is masked where attention looks both ways.

Shapes: B rows, T positions, S segments, N segments of one group, W their width, P = Σ N·W, X anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Lengths = tuple[tuple[int, ...], ...]
SHORT_TOKENS = 224
"""Rows up to this length attend in float32 where a CPU trains in bfloat16: forward and backward of 32 to 170 positions
take 1.9 to 3.3 times as long in bfloat16, casts included; from 256 on bfloat16 is as fast or faster."""
ROUND_TOKENS = 64
"""Longer rows in bfloat16 are filled up on the right to a multiple of it: the kernel compiles matrix products for every
new length and keeps them, 2.4 MB per call with free lengths."""
NEAR_SHARE, NEAR_TOKENS = 0.75, 8
"""A segment joins a group when it is that near to the longest: its share of the width, or tokens short of it."""
GROUPED_TOKENS = 256
"""Longer segments join only their equals: their attention costs more than a call does."""


class Rounding(NamedTuple):
    """Widths above `above` are rounded up to a multiple of `multiple`, for kernels that compile per width."""

    multiple: int = 1
    above: int = 0

    def __call__(self, width: int) -> int:
        """Return the width to compute with."""
        return -(-width // self.multiple) * self.multiple if width > self.above else width


@dataclass(frozen=True, slots=True)
class Group:
    """Segments of one width: `lengths_N` on the right device, or None where all of them fill it."""

    count: int
    width: int
    lengths_N: Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the segments' positions lie: `slots_P` names the source of each slot, `places_BT` the slot of each source.

    Both are None where the groups' rows are the rows' own order already.
    """

    groups: tuple[Group, ...]
    slots_P: Tensor | None
    places_BT: Tensor | None


@dataclass(eq=False)
class Segments:
    """Stands in for an attention mask: the segment lengths of each row (their sum is T), and a sliding window."""

    lengths: Lengths
    window: int | None = None
    _layouts: dict[tuple[Rounding, torch.device], Layout] = field(default_factory=dict, repr=False)
    _masks: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)

    def layout(self, rounding: Rounding, device: torch.device) -> Layout:
        """Return the groups and where their slots lie."""
        key = (rounding, device)
        if key not in self._layouts:
            self._layouts[key] = _layout(self.lengths, rounding, device)
        return self._layouts[key]

    def mask(self, group: Group, causal: bool, device: torch.device) -> Tensor | None:
        """Return the Boolean mask of a group, broadcastable to (N, H, W, W); None where plain attention is right."""
        if causal:
            if self.window is None or group.width <= self.window:
                return None
            key: tuple[Any, ...] = ("band", group.width)
            if key not in self._masks:
                ones = torch.ones(group.width, group.width, dtype=torch.bool, device=device)
                self._masks[key] = ones.tril().triu(1 - self.window)
            return self._masks[key]
        if group.lengths_N is None:
            return None
        key = ("keys", id(group))
        if key not in self._masks:
            inside_NW = torch.arange(group.width, device=device) < group.lengths_N[:, None]
            self._masks[key] = inside_NW[:, None, None, :]
        return self._masks[key]


def by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    piece: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    *,
    causal: bool,
    rounding: Rounding,
) -> Tensor:
    """Attend inside each segment.

    Args:
        query, key, value: (B, heads, T, D).
        piece: (N, heads, W, D) three times and a mask → (N, W, heads, D).
        causal: nobody looks ahead.
        rounding: of the widths.

    Returns:
        (B, T, heads, D).
    """
    layout = segments.layout(rounding, query.device)
    batch, _, length, _ = query.shape
    flat = [gather(tensor.transpose(1, 2).flatten(0, 1), layout) for tensor in (query, key, value)]
    sizes = [group.count * group.width for group in layout.groups]
    outs = []
    for group, *qkv in zip(layout.groups, *(torch.split(tensor, sizes) for tensor in flat), strict=True):
        rows = [t.view(group.count, group.width, *t.shape[1:]).transpose(1, 2) for t in qkv]
        out_NWHD = piece(rows[0], rows[1], rows[2], segments.mask(group, causal, query.device))
        outs.append(out_NWHD.flatten(0, 1))
    joined = outs[0] if len(outs) == 1 else torch.cat(outs)
    return scatter(joined, layout).view(batch, length, *joined.shape[1:])


def _layout(lengths: Lengths, rounding: Rounding, device: torch.device) -> Layout:
    width = sum(lengths[0])
    spans = [(b * width + sum(row[:i]), n) for b, row in enumerate(lengths) for i, n in enumerate(row)]
    spans.sort(key=lambda span: -span[1])  # stable: equal segments stay in the rows' order
    groups: list[Group] = []
    slots: list[npt.NDArray[np.int64]] = []
    places = np.empty(width * len(lengths), dtype=np.int64)
    used = start = 0
    while start < len(spans):
        longest = spans[start][1]
        least = longest if longest > GROUPED_TOKENS else min(longest * NEAR_SHARE, longest - NEAR_TOKENS)
        end = start
        while end < len(spans) and spans[end][1] >= least:
            end += 1
        firsts_N, lengths_N = np.array(spans[start:end], dtype=np.int64).T
        along_W = np.arange(rounding(longest))
        inside_NW = along_W < lengths_N[:, None]
        sources_NW = firsts_N[:, None] + np.minimum(along_W, lengths_N[:, None] - 1)
        places[sources_NW[inside_NW]] = used + np.flatnonzero(inside_NW)
        slots.append(sources_NW.ravel())
        filled = None if inside_NW.all() else torch.from_numpy(lengths_N.copy()).to(device)
        groups.append(Group(end - start, len(along_W), filled))
        used += inside_NW.size
        start = end
    if used == len(places) and np.array_equal(places, np.arange(used)):
        return Layout(tuple(groups), None, None)
    slots_P, places_S = torch.from_numpy(np.concatenate(slots)), torch.from_numpy(places)
    return Layout(tuple(groups), slots_P.to(device), places_S.to(device))


def gather(source_SX: Tensor, layout: Layout) -> Tensor:
    """Return the slots (P, …) of a source (S, …)."""
    if layout.slots_P is None or layout.places_BT is None:
        return source_SX
    moved: Tensor = _Gather.apply(source_SX, layout.slots_P, layout.places_BT)  # type: ignore[no-untyped-call]
    return moved


def scatter(slots_PX: Tensor, layout: Layout) -> Tensor:
    """Return the source's order (S, …) of slots (P, …)."""
    if layout.places_BT is None:
        return slots_PX
    moved: Tensor = _Scatter.apply(slots_PX, layout.places_BT)  # type: ignore[no-untyped-call]
    return moved


class _Gather(torch.autograd.Function):
    """index_select whose gradient is an index_select, too: PyTorch's own adds row by row.

    Exact because a filled-up slot gets no gradient: nobody reads its output, and no query attends to it.
    """

    @staticmethod
    def forward(ctx: Any, source_SX: Tensor, slots_P: Tensor, places_S: Tensor) -> Tensor:
        ctx.save_for_backward(places_S)
        return source_SX.index_select(0, slots_P)

    @staticmethod
    def backward(ctx: Any, grad_PX: Tensor) -> tuple[Tensor, None, None]:
        (places_S,) = ctx.saved_tensors
        return grad_PX.index_select(0, places_S), None, None


class _Scatter(torch.autograd.Function):
    """Read every place from its slot; filled-up slots get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, slots_PX: Tensor, places_S: Tensor) -> Tensor:
        ctx.save_for_backward(places_S)
        ctx.slots = slots_PX.shape[0]
        return slots_PX.index_select(0, places_S)

    @staticmethod
    def backward(ctx: Any, grad_SX: Tensor) -> tuple[Tensor, None]:
        (places_S,) = ctx.saved_tensors
        grad_PX = grad_SX.new_zeros(ctx.slots, *grad_SX.shape[1:])
        grad_PX[places_S] = grad_SX
        return grad_PX, None
