"""Attention inside segments in a few batches of near-equal length equals one call per segment, both ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from metier.models.segments import Rounding, Segments, by_segment

HEADS, KV_HEADS, WIDTH = 4, 2, 8
PLAIN = Rounding()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    plain = causal and mask is None
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain, enable_gqa=True)
    return out.transpose(1, 2)


def one_by_one(q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool) -> Tensor:
    """The definition: every segment alone, with a dense mask of its own."""
    rows = []
    for b, lengths in enumerate(segments.lengths):
        start, outs = 0, []
        for n in lengths:
            part = slice(start, start + n)
            mask = torch.ones(n, n, dtype=torch.bool)
            if causal:
                mask = mask.tril()
                if segments.window is not None:
                    mask = mask.triu(1 - segments.window)
            outs.append(attend(q[b : b + 1, :, part], k[b : b + 1, :, part], v[b : b + 1, :, part], mask, False))
            start += n
        rows.append(torch.cat(outs, dim=1))
    return torch.cat(rows)


def tensors(segments: Segments) -> list[Tensor]:
    torch.manual_seed(1)
    shape = (len(segments.lengths), HEADS, sum(segments.lengths[0]), WIDTH)
    grouped = (shape[0], KV_HEADS, *shape[2:])
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (shape, grouped, grouped)]


def check(lengths: tuple[tuple[int, ...], ...], *, causal: bool, window: int | None, rounding: Rounding) -> Segments:
    segments = Segments(lengths, window)
    qkv = tensors(segments)
    found = by_segment(*qkv, segments, lambda *a: attend(*a, causal=causal), causal=causal, rounding=rounding)
    expected = one_by_one(*qkv, segments, causal)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    grads = torch.autograd.grad((found * direction).sum(), qkv)
    for grad, wanted in zip(grads, torch.autograd.grad((expected * direction).sum(), qkv), strict=True):
        torch.testing.assert_close(grad, wanted)
    return segments


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    cut=st.integers(0, 12),
    causal=st.booleans(),
    window=st.sampled_from([None, 3, 17]),
    rounding=st.sampled_from([PLAIN, Rounding(16), Rounding(16, above=10)]),
)
def test_equal_to_one_call_per_segment(
    lengths: list[int], cut: int, causal: bool, window: int | None, rounding: Rounding
) -> None:
    first, second = lengths[:cut], lengths[cut:]
    if not first or not second:
        rows: tuple[tuple[int, ...], ...] = (tuple(lengths),)
    else:  # rows are equally long: the shorter one ends in a segment of padding, as row_lengths makes it
        gap = sum(first) - sum(second)
        first, second = first + [-gap] * (gap < 0), second + [gap] * (gap > 0)
        rows = (tuple(first), tuple(second))
    check(rows, causal=causal, window=window if causal else None, rounding=rounding)


@pytest.mark.parametrize("causal", [True, False])
def test_segments_longer_than_the_grouping_bound(causal: bool) -> None:
    segments = check(((300, 280, 5, 300),), causal=causal, window=None, rounding=PLAIN)
    groups = segments.layout(PLAIN, torch.device("cpu")).groups
    assert [(g.count, g.width) for g in groups] == [(2, 300), (1, 280), (1, 5)]


def test_thirty_two_sentences_need_few_calls() -> None:
    lengths = tuple(range(6, 38))
    calls = 0

    def piece(*tensors: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return attend(*tensors, causal=True)  # type: ignore[misc]

    segments = Segments((lengths,))
    by_segment(*tensors(segments), segments, piece, causal=True, rounding=PLAIN)
    assert calls <= 4


@pytest.mark.parametrize("lengths", [((7, 7), (7, 7)), ((12,),), ((3,), (3,), (3,))])
def test_equal_segments_are_not_moved(lengths: tuple[tuple[int, ...], ...]) -> None:
    layout = Segments(lengths).layout(PLAIN, torch.device("cpu"))
    assert layout.slots_P is None and len(layout.groups) == 1


def test_widths_are_rounded_only_above_the_bound() -> None:
    groups = Segments(((70, 20),)).layout(Rounding(64, above=32), torch.device("cpu")).groups
    assert [g.width for g in groups] == [128, 20]
    assert [g.lengths_N is None for g in groups] == [False, True]
