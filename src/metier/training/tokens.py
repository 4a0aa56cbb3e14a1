"""Next-token loss of a policy on a batch: what `sft` and `cpt` share.

Shapes: B rows, T positions, D hidden width, V vocabulary, N supervised tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metier.training.losses import CHUNK_BYTES, linear_cross_entropy

if TYPE_CHECKING:
    from metier.core.batch import Batch
    from metier.models.policy import Policy


ROW_MULTIPLE = 64


def supervised(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return flat positions of the *predicting* tokens, the ids they must predict, and the loss weights, each (N,).

    N is rounded up with entries of weight 0.

    The token at position t is predicted from position t − 1 of the same row. The first token of a segment is never
    supervised (Encoder's promise), so the position before it never belongs to another segment.
    """
    mask = torch.from_numpy(batch.loss_mask_BT)
    flat = torch.from_numpy(np.flatnonzero(batch.loss_mask_BT))  # counted here: the plan's dry run has no values
    targets = torch.from_numpy(batch.tokens_BT).view(-1)[flat]
    weights = mask.view(-1)[flat]
    # Positions are filled up with weightless ones to a multiple, so that few different shapes occur (training/feed.py).
    missing = -len(flat) % ROW_MULTIPLE
    positions = functional.pad(flat - 1, (0, missing))
    targets, weights = functional.pad(targets, (0, missing)), functional.pad(weights, (0, missing))
    return positions.to(device), targets.to(device), weights.to(device)


def _rows(policy: Policy, batch: Batch, positions: Tensor) -> Tensor:
    hidden_BTD = policy.hidden(batch)
    return hidden_BTD.reshape(-1, hidden_BTD.shape[-1]).index_select(0, positions).to(policy.dtype)


def cross_entropy(policy: Policy, batch: Batch) -> Tensor:
    """Return the summed weighted cross-entropy in nats; logits are made for supervised rows only."""
    positions, targets, weights = supervised(batch, policy.device)
    layer = policy.output_layer()
    if layer is None:
        losses_N = functional.cross_entropy(_own_rows(policy, batch, positions), targets, reduction="none")
        return (losses_N * weights).sum()
    rows_ND = _rows(policy, batch, positions)
    return linear_cross_entropy(
        rows_ND, layer.weight, targets, weights, bias_V=layer.bias, scale=layer.scale, softcap=layer.softcap
    )


def _own_rows(policy: Policy, batch: Batch, positions: Tensor) -> Tensor:
    """Logits (N, V) by the model's own head, which computes those of every token."""
    logits_BTV = policy.own_logits(batch)
    return logits_BTV.reshape(-1, logits_BTV.shape[-1]).index_select(0, positions)


@torch.no_grad()
def measure_tokens(policy: Policy, batch: Batch) -> dict[str, float]:
    """Return {"loss": summed cross-entropy, "accuracy": weighted count of tokens whose id has the highest logit}."""
    positions, targets, weights = supervised(batch, policy.device)
    layer = policy.output_layer()
    if layer is None:
        logits_NV = _own_rows(policy, batch, positions)
        losses_N = functional.cross_entropy(logits_NV, targets, reduction="none")
        right = ((logits_NV.argmax(1) == targets) * weights).sum()
        return {"loss": float((losses_N * weights).cpu().double().sum()), "accuracy": float(right)}
    rows_ND = _rows(policy, batch, positions)
    weight_VD = layer.weight.to(rows_ND.dtype)
    sums_2 = torch.zeros(2, dtype=torch.float64)  # on the CPU: not every accelerator has float64
    step = max(32, CHUNK_BYTES // (4 * weight_VD.shape[0]))
    for start in range(0, rows_ND.shape[0], step):
        part = slice(start, start + step)
        logits_NV = (rows_ND[part] @ weight_VD.T).float()
        if layer.bias is not None:
            logits_NV += layer.bias.float()
        logits_NV *= layer.scale
        if layer.softcap is not None:
            logits_NV = layer.softcap * torch.tanh(logits_NV / layer.softcap)
        chosen = logits_NV.gather(1, targets[part, None]).squeeze(1)
        loss = ((logits_NV.logsumexp(1) - chosen) * weights[part]).sum()
        right = ((logits_NV.argmax(1) == targets[part]) * weights[part]).sum()
        sums_2 += torch.stack([loss, right]).cpu().double()
    return {"loss": float(sums_2[0]), "accuracy": float(sums_2[1])}
