"""Attention without a dense mask, through transformers' own extension points.

Two functions are registered under the name `metier`: one that makes masks, one that attends. While a `layout` is
active, the mask function hands every layer a small `Segments` object in place of a B×T×T mask; the attention function
then runs plain attention inside each segment. Right-padded causal rows need not even that: padding stands behind every
real token, so causal attention never sees it. Outside a layout (generation, the reference path) both functions do what
transformers' `sdpa` does.

The mask travels as an argument of each layer, so that a recomputed layer (activation checkpointing) sees it again.
models/support.py proves on a few random tokens that a model gives the same hidden states either way.

Shapes: B rows, T positions, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from metier.models.fused import Kernel
from metier.models.segment_op import decode, encode, own_kernel, segment_attention
from metier.models.segments import ROUND_TOKENS, SHORT_TOKENS, Lengths, Rounding, Segments, by_segment

NAME = "metier"
_LAYOUT: ContextVar[Lengths | None] = ContextVar("metier_attention_layout", default=None)
_AS_TENSOR: ContextVar[bool] = ContextVar("metier_attention_as_tensor", default=False)
RIGHT_PADDED: Lengths = ()
"""The layout of rows with one segment each: no mask at all."""


@dataclass(frozen=True)
class Support:
    """What a model can do: `unmasked` = right-padded causal rows without a mask, `packing` = several segments in a row.

    `first_position` is added to the positions of packed rows: RoBERTa's kin count from behind the pad token's id.
    """

    unmasked: bool
    packing: bool
    reason: str
    first_position: int = 0


@contextlib.contextmanager
def layout(lengths: Sequence[Sequence[int]], *, as_tensor: bool = False) -> Iterator[None]:
    """Within this context the model attends inside the given segments of each row; `()` = right-padded rows.

    Args:
        as_tensor: hand the segments to the layers as a tensor (models/segment_op.py), for compiled blocks.
    """
    token, form = _LAYOUT.set(tuple(tuple(row) for row in lengths)), _AS_TENSOR.set(as_tensor)
    try:
        yield
    finally:
        _LAYOUT.reset(token)
        _AS_TENSOR.reset(form)


# ───────────────────────────────────────────────────────────────────────────── the mask function


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **rest: Any,
) -> Tensor | Segments | None:
    """Return what the layers get as their mask; the signature is that of transformers' AttentionMaskInterface."""
    from transformers.masking_utils import (
        and_masks,
        bidirectional_mask_function,
        causal_mask_function,
        sdpa_mask,
    )

    mask_function = mask_function or causal_mask_function
    lengths = _LAYOUT.get()
    if lengths is not None:
        causal = mask_function is causal_mask_function and allow_is_causal_skip
        two_way = mask_function is bidirectional_mask_function and allow_is_bidirectional_skip
        sliding = local_size is not None and _is_window(mask_function, local_size, rest.get("device", "cpu"))
        if lengths == RIGHT_PADDED and (causal or (sliding and q_length <= (local_size or 0))):
            return None
        if lengths != RIGHT_PADDED and (causal or two_way or sliding):
            window = local_size if sliding else None
            if not _AS_TENSOR.get():
                return Segments(lengths, window)
            if not two_way:
                return encode(lengths, window)
        if _AS_TENSOR.get():
            raise NotImplementedError("compiled blocks know causal and sliding attention")
        # Anything else (chunked attention, a family's own overlay) gets a dense mask that respects the segments.
        if lengths != RIGHT_PADDED:
            mask_function = and_masks(mask_function, _same_segment(lengths, rest.get("device", "cpu")))
        attention_mask, allow_is_causal_skip, allow_is_bidirectional_skip = None, False, False
    mask: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        **rest,
    )
    return mask


def _is_window(mask_function: Callable[..., Any], window: int, device: torch.device | str) -> bool:
    """Whether a mask function is `q - window < k <= q`, asked at the four corners of the band."""
    zero = torch.zeros(1, dtype=torch.long, device=device)
    query = zero + window + 3
    keys = torch.tensor([3, 4, window + 3, window + 4], device=device)
    seen: list[bool] = [bool(mask_function(zero, zero, query, key.view(1)).all()) for key in keys]
    return seen == [False, True, True, False]


def _same_segment(lengths: Lengths, device: torch.device | str) -> Callable[..., Tensor]:
    numbers_BT = torch.stack(
        [
            torch.repeat_interleave(torch.arange(len(row), device=device), torch.tensor(row, device=device))
            for row in lengths
        ]
    )

    def same(batch_idx: Tensor, head_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return numbers_BT[batch_idx, q_idx] == numbers_BT[batch_idx, kv_idx]

    return same


# ───────────────────────────────────────────────────────────────────────────── the attention function


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Segments | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend; the signature is that of transformers' AttentionInterface.

    Args:
        query: (B, H, T, D). key, value: (B, G, T, D).
        attention_mask: Segments, a Boolean or additive mask (B, 1, T, T), or None for plain causal (or two-way) rows.

    Returns:
        (B, T, H, D), and None for the weights.
    """
    if torch.compiler.is_compiling():
        return _attend_compiled(module, query, key, value, attention_mask, dropout, scaling, kwargs), None
    if isinstance(attention_mask, Tensor) and attention_mask.dtype == torch.int64:
        attention_mask = decode(attention_mask)  # a block that should run compiled, beyond the compiler's limit
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    softcap, sinks_H = kwargs.get("softcap"), kwargs.get("s_aux")
    explicit = softcap is not None or sinks_H is not None
    lowered = _autocast_dtype(query)
    causal = _is_causal(module, kwargs)
    plain = not explicit and not dropout and kwargs.get("position_bias") is None
    kernel = _kernel_for(query, key, value, lowered) if plain else None
    masked = attention_mask is not None and not isinstance(attention_mask, Segments)
    if kernel is not None and not masked and type(query) is Tensor:
        return _attend_fused(query, key, value, attention_mask, causal, scaling, lowered), None
    if not explicit and not isinstance(attention_mask, Segments):
        options = {"dropout": dropout, "scaling": scaling, **kwargs}
        if attention_mask is not None or kwargs.get("position_bias") is not None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0], None
        prepared = _prepared(query, key, value, lowered, round_up=causal, kernel=kernel)
        with torch.autocast(query.device.type, enabled=False), _kept_narrow(prepared, (query, key, value)):
            out_BTHD = sdpa_attention_forward(module, *prepared, None, **options)[0]
        return out_BTHD[:, : query.shape[2]].to(query.dtype), None

    def piece(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if explicit:
            return _explicit(q, k, v, mask, causal, scaling, dropout, softcap, sinks_H).transpose(1, 2)
        if kernel is not None:  # without data (models/dryrun.py): it would need no mask
            mask = None
        plain = causal and mask is None and q.shape[2] > 1
        prepared = _prepared(q, k, v, lowered, round_up=plain, kernel=kernel)
        with torch.autocast(q.device.type, enabled=False), _kept_narrow(prepared, (q, k, v)):
            out = F.scaled_dot_product_attention(
                *prepared,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=plain,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        return out[:, :, : q.shape[2]].transpose(1, 2).to(q.dtype)

    if not isinstance(attention_mask, Segments):
        return piece(query, key, value, attention_mask), None
    rounding = Rounding()
    if query.device.type == "cpu" and lowered == torch.bfloat16 and kernel is None:
        rounding = Rounding(ROUND_TOKENS, above=SHORT_TOKENS if _trains(query, key, value) else 0)
    return by_segment(query, key, value, attention_mask, piece, causal=causal, rounding=rounding), None


def _kernel_for(query: Tensor, key: Tensor, value: Tensor, lowered: torch.dtype) -> Kernel | None:
    """Our own kernel where it is in use and attends here: whole rows in bfloat16 on the CPU, of one even width."""
    here = query.device.type == "cpu" and lowered == torch.bfloat16 and query.shape[2] == key.shape[2] > 1
    width = query.shape[3]
    return own_kernel() if here and width % 2 == 0 and width == key.shape[3] == value.shape[3] else None


def _attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Any,
    causal: bool,
    scaling: float | None,
    lowered: torch.dtype,
) -> Tensor:
    """Attend by our own kernel; segments as `attend` gets them."""
    whole = ((query.shape[2],),) * query.shape[0]
    lengths, window = (whole, None) if segments is None else (segments.lengths, segments.window)
    parts = [tensor.to(lowered).transpose(1, 2) for tensor in (query, key, value)]
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in parts]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):
        out_BTHD: Tensor = segment_attention(*parts, encode(lengths, window, causal), scale)[0]
    return out_BTHD.to(query.dtype)


def _attend_compiled(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    code: Any,
    dropout: float,
    scaling: float | None,
    more: dict[str, Any],
) -> Tensor:
    """Attend in a block that is being compiled: one operation that the compiler does not look into."""
    if dropout or any(more.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("attention with dropout, soft-capped scores or sinks")
    if not _is_causal(module, more):
        raise NotImplementedError("two-way attention")
    if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
        raise NotImplementedError("values of another width than keys")
    # Rotary positions may have made float32 of q and k; v says in what precision the block computes.
    parts = [tensor.to(value.dtype).transpose(1, 2).contiguous() for tensor in (query, key, value)]
    out_BTHD: Tensor = segment_attention(*parts, code, query.shape[-1] ** -0.5 if scaling is None else scaling)[0]
    return out_BTHD


def _is_causal(module: nn.Module, more: dict[str, Any]) -> bool:
    flag = more.get("is_causal")
    return bool(getattr(module, "is_causal", True) if flag is None else flag)


def _autocast_dtype(query: Tensor) -> torch.dtype:
    """Return the precision in which attention would run here: autocast's where it is on, else the tensor's own."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _prepared(
    query: Tensor, key: Tensor, value: Tensor, dtype: torch.dtype, *, round_up: bool, kernel: Kernel | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tensors in the precision, and where `round_up` allows at the length, that a CPU computes fastest.

    SHORT_TOKENS and ROUND_TOKENS say which and why; what is filled up on the right a causal row does not see. Our own
    kernel wants neither: where it would attend if the tensors had data (models/dryrun.py), they stay as they are.
    """
    if query.device.type != "cpu" or kernel is not None:
        return query.to(dtype), key.to(dtype), value.to(dtype)
    if dtype == torch.bfloat16 and _trains(query, key, value) and query.shape[2] <= SHORT_TOKENS:
        dtype = torch.float32
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    missing = -query.shape[2] % ROUND_TOKENS
    whole = query.shape[2] == key.shape[2] > 1
    if round_up and missing and whole and dtype == torch.bfloat16:
        query, key, value = (F.pad(tensor, (0, 0, 0, missing)) for tensor in (query, key, value))
    return query, key, value


@contextlib.contextmanager
def _kept_narrow(wide: Sequence[Tensor], given: Sequence[Tensor]) -> Iterator[None]:
    """Within this context the graph keeps the narrow tensors that were cast up, not their casts: the same numbers."""
    pairs = [(w, g.detach()) for w, g in zip(wide, given, strict=True) if w.dtype.itemsize > g.dtype.itemsize]
    if not pairs or not torch.is_grad_enabled():
        yield
        return

    def pack(saved: Tensor) -> Any:
        for cast, source in pairs:
            same = saved.untyped_storage()._cdata == cast.untyped_storage()._cdata
            if same and saved.shape == cast.shape and saved.stride() == cast.stride():
                return source, saved.dtype
        return saved.detach()  # an output that its own node kept would never be freed where no backward pass follows

    def unpack(saved: Any) -> Tensor:
        found: Tensor = saved if isinstance(saved, Tensor) else saved[0].to(saved[1])
        return found

    with saved_tensors_hooks(pack, unpack):
        yield


def _trains(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """Attention written out, for what the fused kernel cannot do: soft-capped scores (Gemma 2), sinks (GPT-OSS)."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    length, total = query.shape[2], key.shape[2]
    if mask is None and causal and length > 1:
        mask = torch.ones(length, total, dtype=torch.bool, device=query.device).tril(total - length)
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    if sinks_H is not None:
        sinks = sinks_H.to(scores.dtype).reshape(1, -1, 1, 1).expand(scores.shape[0], -1, length, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.float().softmax(dim=-1).to(query.dtype)[..., :total]
    return F.dropout(weights, dropout) @ value if dropout else weights @ value


# ───────────────────────────────────────────────────────────────────────────── registering


@cache
def register() -> str:
    """Make the two functions known to transformers, once per process; return their name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, make_mask)
    return NAME


def last_hidden(model: Any, tokens_BT: Tensor, **inputs: Any) -> Tensor:
    """Return the hidden states (B, T, width) of the model without its output head."""
    body = model.base_model
    if model.get_output_embeddings() is not None:  # a decoder would copy every key and value for later
        inputs["use_cache"] = False
    out = body(input_ids=tokens_BT, **inputs)
    hidden_BTE: Tensor = out.last_hidden_state
    return hidden_BTE
