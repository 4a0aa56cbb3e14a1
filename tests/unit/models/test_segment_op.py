"""Attention as one operation: the numbers and gradients of attention written out, whatever the segments are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metier.models.attention import attend, layout, make_mask
from metier.models.segment_op import decode, encode, segment_attention
from metier.models.segments import SHORT_TOKENS, Lengths, Segments

LAYOUTS = [
    pytest.param(((3, 9, 2), (14,)), None, id="rows of several segments"),
    pytest.param(((5, 5, 4), (5, 5, 4)), 3, id="a window"),
    pytest.param(((1, 1, 1),), None, id="single tokens"),
    pytest.param(((SHORT_TOKENS + 44, 40),), None, id="long and short"),
    pytest.param(((SHORT_TOKENS + 44, 40),), 16, id="long and short, a window"),
]


def written_out(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, window: int | None) -> Tensor:
    """Attention by a dense mask and a softmax, float64."""
    query, key, value = (tensor.double() for tensor in (query, key, value))
    groups = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    numbers_BT = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths])
    places = torch.arange(query.shape[1])
    back = places[:, None] - places[None, :]
    seen_BTT = (numbers_BT[:, :, None] == numbers_BT[:, None, :]) & (back >= 0) & (back < (window or len(places)))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * 0.3
    weights = scores.masked_fill(~seen_BTT[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


def drawn(lengths: Lengths, dtype: torch.dtype, *, heads: int = 4, groups: int = 2) -> list[Tensor]:
    """Query, key, value and a direction for the gradient."""
    draw = torch.Generator().manual_seed(3)
    shapes = [(len(lengths), sum(lengths[0]), n, 8) for n in (heads, groups, groups, heads)]
    return [torch.randn(shape, generator=draw).to(dtype).requires_grad_(at < 3) for at, shape in enumerate(shapes)]


@pytest.mark.parametrize(("lengths", "window"), LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_numbers_and_gradients_are_those_of_attention_written_out(
    lengths: Lengths, window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    *inputs, direction = drawn(lengths, dtype)
    out, sums_SH = segment_attention(*inputs, encode(lengths, window), 0.3)
    found = torch.autograd.grad((out * direction).sum(), inputs)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted_out = written_out(wide[0], wide[1], wide[2], lengths, window)
    wanted = torch.autograd.grad((wanted_out * direction.double()).sum(), wide)
    assert out.dtype == dtype and sums_SH.dtype == torch.float32
    for one, other in zip((out, *found), (wanted_out, *wanted), strict=True):
        gap = (one.double() - other).norm() / other.norm().clamp(min=1)  # one token alone: no gradient for its query
        assert gap < tolerance, f"{float(gap):.2g} of its length"


def test_the_compiler_sees_the_shapes_that_come() -> None:
    *inputs, _ = drawn(((3, 9, 2), (14,)), torch.float32)
    torch.library.opcheck(segment_attention, (*inputs, encode(((3, 9, 2), (14,)), None), 0.3))


@pytest.mark.parametrize(("lengths", "window"), LAYOUTS)
def test_segments_survive_being_a_tensor(lengths: Lengths, window: int | None) -> None:
    found = decode(encode(lengths, window))
    assert (found.lengths, found.window) == (lengths, window)


class Module(torch.nn.Module):
    is_causal = True


def test_a_block_that_the_compiler_gave_up_attends_all_the_same() -> None:
    lengths = ((3, 9, 2), (14,))
    query, key, value, _ = (tensor.transpose(1, 2) for tensor in drawn(lengths, torch.float32))
    found, _none = attend(Module(), query, key, value, encode(lengths, None), scaling=0.3)
    wanted, _none = attend(Module(), query, key, value, Segments(lengths, None), scaling=0.3)
    assert torch.equal(found, wanted)


def mask(**more: object) -> object:
    return make_mask(1, 14, 14, device="cpu", **more)  # type: ignore[arg-type]


def test_blocks_get_a_tensor_where_positions_look_back_only() -> None:
    from transformers.masking_utils import bidirectional_mask_function

    with layout([[3, 9, 2]], as_tensor=True):
        found = mask()
        assert isinstance(found, Tensor) and decode(found).lengths == ((3, 9, 2),)
        with pytest.raises(NotImplementedError, match="causal"):
            mask(mask_function=bidirectional_mask_function, allow_is_bidirectional_skip=True)
