"""Does this model compute the same with our attention, norms and gated layers? Asked once, proved on a few tokens.

A family that does not follow transformers' extension points keeps its own attention, and the reason is told: its rows
get a mask, and packed rows are taken apart. Windows and long rows are beyond a few tokens: `packed_gap` asks again, on
rows of the run.

Shapes: T positions, S tokens of a batch, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from metier.models import gates, norms
from metier.models.attention import RIGHT_PADDED, Support, last_hidden, layout, register
from metier.models.parts import put_all
from metier.models.rows import bounds

if TYPE_CHECKING:
    from metier.core.batch import Batch
    from metier.models.policy import Policy


@torch.no_grad()
def install(model: Any, *, causal: bool) -> Support:
    """Give the model our norms, gated layers and attention, where it computes the same with them; say what it supports.

    The proof is one row of seven random tokens, alone and as two packed segments of three and four, against the
    model's own attention. It leaves the global random state alone.
    """
    own = model.config._attn_implementation
    was_training = model.training
    model.eval()
    try:
        tokens_1T = probe_tokens(model)
        whole = last_hidden(model, tokens_1T, attention_mask=torch.ones_like(tokens_1T))
        parts = [
            last_hidden(model, part, attention_mask=torch.ones_like(part)) for part in torch.split(tokens_1T, [3, 4], 1)
        ]
        for replace in (norms.replace, gates.replace):
            before = replace(model)
            if before and not same(last_hidden(model, tokens_1T, attention_mask=torch.ones_like(tokens_1T)), whole):
                put_all(model, before)
        if not _switch(model, register()):
            return Support(False, False, f"the model's own ({own}): the family has no attention interface")
        ones = torch.ones_like(tokens_1T)
        with layout(RIGHT_PADDED if causal else [(tokens_1T.shape[1],)]):
            unmasked = same(last_hidden(model, tokens_1T, attention_mask=ones), whole)
        if not unmasked or not same(last_hidden(model, tokens_1T, attention_mask=ones), whole):
            _switch(model, own)
            return Support(False, False, f"the model's own ({own}): ours gave other hidden states on a probe")
        for first in dict.fromkeys((0, first_position(model))):
            positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=tokens_1T.device) + first
            with layout([(3, 4)]):
                packed = last_hidden(model, tokens_1T, attention_mask=ones, position_ids=positions)
            if same(packed, torch.cat(parts, dim=1)):
                return Support(True, True, "ours: packed rows equal the model's own attention on a probe", first)
        return Support(True, False, "ours, without packing: packed rows gave other hidden states on a probe")
    finally:
        model.train(was_training)


@torch.enable_grad()
def packed_gap(policy: Policy, batch: Batch) -> float:
    """Return how far the hidden states of packed rows are from those of each segment alone, at the worst token.

    The difference of two vectors as a share of the second's length. Alone, a segment has the masks that transformers
    makes for the family. Gradients are on, since attention takes another path without them; nothing is kept for a
    backward pass, which would hold every layer at once.
    """
    with saved_tensors_hooks(lambda _: None, _never):
        return _packed_gap(policy, batch)


def _never(_: None) -> Tensor:
    raise AssertionError("no backward pass follows")


def _packed_gap(policy: Policy, batch: Batch) -> float:
    policy.eval()
    tokens_BT = torch.from_numpy(batch.tokens_BT).to(policy.device)
    inside = torch.from_numpy(np.flatnonzero(batch.segments_BT > 0)).to(policy.device)
    packed_SD = policy.hidden(batch).flatten(0, 1)[inside].detach().float()
    alone = []
    with policy.computing():
        for start, end in zip(*bounds(batch.segments_BT), strict=True):
            tokens_1T = tokens_BT.flatten()[None, start:end]
            hidden = last_hidden(policy.base.model, tokens_1T, attention_mask=torch.ones_like(tokens_1T))
            alone.append(hidden[0].detach().float())
    alone_SD = torch.cat(alone)
    return float(((packed_SD - alone_SD).norm(dim=1) / alone_SD.norm(dim=1).clamp(min=1e-6)).max())


def _switch(model: Any, name: str) -> bool:
    """Set the attention by name; False where the family does not take it."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # it has no types
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns where we ask and answer ourselves
    try:
        model.set_attn_implementation(name)
    except (ValueError, KeyError, ImportError):
        return False
    finally:
        logging.set_verbosity(level)
    return bool(model.config._attn_implementation == name)


def first_position(model: Any) -> int:
    """What a family adds to positions: its table of positions has a padding row, and counting starts behind it."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def probe_tokens(model: Any) -> Tensor:
    """Return seven random token ids (1, 7), none of them the pad token."""
    size = int(model.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(7)
    tokens_1T = torch.randint(0, size, (1, 7), generator=generator)
    pad = getattr(model.config, "pad_token_id", None)
    if size > 1 and pad is not None:  # some families take positions from the tokens that are not the pad token
        tokens_1T = torch.where(tokens_1T == pad, (tokens_1T + 1) % size, tokens_1T)
    return tokens_1T.to(model.get_input_embeddings().weight.device)


def same(found: Tensor, wanted: Tensor, *, coarse: bool | None = None) -> bool:
    """Whether two results of the same computation agree, up to the rounding of float32 (or, `coarse`, bfloat16)."""
    coarse = found.dtype != torch.float32 if coarse is None else coarse
    gap = (found.float() - wanted.float()).abs().max()
    return bool(gap <= (5e-2 if coarse else 1e-4) * wanted.float().abs().max().clamp(min=1e-6))
