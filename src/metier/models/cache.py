"""Key-value caches for inference: what generation and scoring share.

Two layouts exist. A *plain* family (full attention in every layer, positions given from outside) may leave gaps in
the cache: rows are padded on the right and a mask hides the padding, so the prefill runs with plain causal attention
and no mask. Every other family (sliding windows, recurrent layers, ALiBi) is only ever fed rows of equal length, so
that no gap exists.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

Ids = Sequence[int]
SHARED_PREFIX_TOKENS = 16
"""A common prefix shorter than this is not worth a forward pass of its own."""


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Run a block in evaluation mode, without gradients, and under an attention that honours masks and caches.

    Training attention for packed rows has no mask function in transformers, so that a padding mask would be dropped
    without a word; it is exchanged for the plain one and put back afterwards. Modules that were in training mode
    return to it, and only those.
    """
    training = [module for module in model.modules() if module.training]
    before = getattr(model.config, "_attn_implementation", None)
    swapped = before is not None and before not in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()
    try:
        for module in training:
            module.training = False
        if swapped:
            model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", True) else "eager")
        with torch.no_grad():
            yield
    finally:
        if swapped:
            model.set_attn_implementation(before)
        for module in training:
            module.training = True


def accepts(model: Any, argument: str) -> bool:
    """Return whether the model's forward takes this argument."""
    return argument in inspect.signature(model.forward).parameters


def is_plain(model: Any) -> bool:
    """Return whether gaps in the cache are harmless: full attention everywhere and positions given from outside."""
    if not accepts(model, "position_ids") or getattr(model.config, "alibi", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def context_window(model: Any) -> int | None:
    """Return the model's limit in tokens, or None where the configuration states none."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None


def fork(cache: Any, rows: int) -> Any:
    """Return a copy of a one-row cache with that many equal rows; the original stays as it is."""
    branch = copy.deepcopy(cache)
    if rows > 1:
        branch.batch_repeat_interleave(rows)
    return branch


def common_prefix(rows: Sequence[Ids]) -> list[int]:
    """Return the tokens with which every row starts."""
    first, last = min(rows, key=tuple), max(rows, key=tuple)  # all others lie between these two, tokens shared included
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return list(first[:length])


def shared_prefix(rows: Sequence[Ids]) -> list[int]:
    """Return the common prefix that is worth computing once: long enough, and each row keeps at least one token."""
    if len(rows) < 2:
        return []
    prefix = common_prefix(rows)[: min(map(len, rows)) - 1]
    return prefix if len(prefix) >= SHARED_PREFIX_TOKENS else []


def prefill(model: Any, rows: Sequence[Ids], *, pad_id: int) -> tuple[Any, torch.Tensor]:
    """Compute the keys and values of the rows and return the cache with a mask of its real columns (B, S).

    Rows of unequal length are padded on the right; only plain families may be given those. Equal rows are computed
    once, and so is a common prefix. Empty rows are allowed.
    """
    device = model.get_input_embeddings().weight.device
    cache: Any = DynamicCache(config=model.config)
    distinct = list(dict.fromkeys(tuple(row) for row in rows))  # in the order of the rows, which the cache keeps
    prefix = shared_prefix(distinct)
    if prefix:
        _feed(model, torch.tensor([prefix], device=device), cache)
        cache = fork(cache, len(distinct))
    longest = max(map(len, distinct))
    if longest > len(prefix):
        padded = [[*row[len(prefix) :], *[pad_id] * (longest - len(row))] for row in distinct]
        _feed(model, torch.tensor(padded, device=device), cache)
    if longest and len(distinct) < len(rows):
        where = {row: index for index, row in enumerate(distinct)}
        cache.batch_select_indices(torch.tensor([where[tuple(row)] for row in rows], device=device))
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=device)
    return cache, torch.arange(longest, device=device)[None, :] < lengths_B1


def _feed(model: Any, tokens_BT: torch.Tensor, cache: Any) -> None:
    # The head is wasted on one position per row, which is cheaper than knowing how each family reaches its trunk.
    options = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    model(input_ids=tokens_BT, past_key_values=cache, use_cache=True, **options)
