"""The proof of our attention kernel: the numbers of attention written out, in less time than PyTorch's takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metier.models.fused import Kernel, Scope
from metier.models.rates import attention_seconds
from metier.models.segments import SHORT_TOKENS

TILES = (64, 128)
LARGEST_GAP = 0.01
"""Of a result or gradient, as a share of its length; rounding to bfloat16 alone is 0.002 to 0.004."""
WORTHWHILE = 1.1
"""How many times as fast as PyTorch's it must be, at 1,024 positions and at 64."""
CASES: tuple[tuple[tuple[int, ...], int, int, int, int | None, bool], ...] = (
    ((300, 17, 1, 130), 4, 2, 64, None, True),
    ((90, 60), 3, 1, 48, 20, True),
    ((700, 40), 2, 1, 32, 100, True),
    ((600,), 1, 1, 64, None, True),
    ((33, 128, 200), 2, 2, 32, None, False),
)
"""Lengths of segments, heads of queries and of keys, their width, window, causal."""


def prove(path: str) -> None:
    """Print the verdict on a built kernel as JSON: `tile` and `gains`, or why it is `unfit`."""
    found: list[tuple[int, tuple[float, float]]] = []
    for tile in TILES:
        kernel = Kernel.load(Path(path), tile)
        torch.set_num_threads(2)
        gap = largest_gap(kernel)
        torch.set_num_threads(1)
        if not gap <= LARGEST_GAP:
            print(json.dumps({"unfit": f"the fused kernel is off by {gap:.2g} of a result's length"}))  # noqa: T201
            return
        found.append((tile, (_gain(kernel, 1024), _gain(kernel, 64))))
    tile, gains = max(found, key=lambda one: (min(one[1]) >= WORTHWHILE, math.prod(one[1])))
    verdict: dict[str, Any] = {"tile": tile, "gains": gains}
    if min(gains) < WORTHWHILE:
        told = f"{gains[0]:.1f}× at 1,024 positions, {gains[1]:.1f}× at 64"
        verdict = {"unfit": f"the fused kernel is no faster than PyTorch's ({told})"}
    print(json.dumps(verdict))  # noqa: T201


def largest_gap(kernel: Kernel, *, seed: int = 0) -> float:
    """Return the largest difference of a result or gradient from attention in float64, as a share of its length."""
    draw = torch.Generator().manual_seed(seed)
    worst = 0.0
    for lengths, heads, groups, width, window, causal in CASES:
        starts = [sum(lengths[:at]) for at in range(len(lengths))]
        spans = torch.tensor([(0, start, length) for start, length in zip(starts, lengths, strict=True)])
        scope, scaling = Scope(spans, window, causal), width**-0.5
        q, k, v, grad = (
            torch.randn(1, sum(lengths), n, width, generator=draw).to(torch.bfloat16)
            for n in (heads, groups, groups, heads)
        )
        out, sums = kernel.forward(q, k, v, scope, scaling)
        found = (out, *kernel.backward(grad, q, k, v, out, sums, scope, scaling))
        exact = [tensor.double().requires_grad_() for tensor in (q, k, v)]
        wanted = written_out(exact[0], exact[1], exact[2], lengths, window, causal)
        for ours, other in zip(found, (wanted, *torch.autograd.grad(wanted, exact, grad.double())), strict=True):
            gap = float(((ours.double() - other).norm() / other.norm()).detach())
            worst = max(worst, math.inf if math.isnan(gap) else gap)
    return worst


def written_out(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], window: int | None, causal: bool
) -> Tensor:
    """Attention by a dense mask and a softmax, of rows (B, T, heads, D) that are divided alike."""
    repeats = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(repeats, 2), value.repeat_interleave(repeats, 2)
    number_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place_T = torch.arange(len(number_T))
    back_TT = place_T[:, None] - place_T
    seen_TT = number_T[:, None] == number_T
    if causal:
        seen_TT = seen_TT & (back_TT >= 0)
    if window is not None:
        seen_TT = seen_TT & (back_TT < window)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~seen_TT, -math.inf).softmax(-1), value)


def _gain(kernel: Kernel, length: int) -> float:
    """How many times as fast as PyTorch's, forward and backward, on rows of one length.

    PyTorch gets short rows in float32, casts not counted, since that is how it is used (models/segments.py).
    """
    kind = "float32" if length <= SHORT_TOKENS else "bfloat16"
    theirs = sum(attention_seconds(length, length, 64, kind, True, None))
    return theirs / sum(attention_seconds(length, length, 64, "bfloat16", True, kernel))
