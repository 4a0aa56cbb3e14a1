"""Losses: small pure functions on tensors. Every one returns a **sum**; only the loop divides.

Shapes: N supervised rows, D hidden width, V vocabulary, K outputs of a task head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

CHUNK_BYTES = 64 * 2**20
"""Logits of one chunk, which go through the matrix products together; a trained head's gradient may take as much."""
STRIP_BYTES = 8 * 2**20
"""Rows of a chunk that are float32 at once on a CPU: softmax and gradient pass over them eight times, in the cache.
Elsewhere they are all of the chunk: every pass over a strip is a kernel to start."""
TINY = 1e-30
"""Below this probability a loss is computed from the logits again: nearer to nothing, bfloat16 has no number for it."""

ROUND_ROWS = 32
"""Rows are filled up to a multiple of it with rows of weight zero on a CPU: oneDNN compiles, and keeps, three matrix
products for every new number of rows."""


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return Σ wᵢ · CE(softcap(scale · (W hᵢ + b)), tᵢ) in nats without ever holding the N × V logits.

    Rows go through in chunks. The gradient is made in the forward pass, in the place of a chunk's logits, so that
    nothing of size N × V is kept for backward; the head's gradient is summed in float32, and is not made at all when
    the head is frozen. The matrix products run in the dtype of `hidden_ND`; softmax and sums are float32, a strip of a
    chunk at a time. Plain bfloat16 logits on a CPU become their gradient where they lie (`_low_into_gradient`).

    Args:
        hidden_ND: final hidden states of the supervised rows only.
        weight_VD: the output layer; float32 masters are cast to the dtype of `hidden_ND` once per call.
        targets_N: int64 token ids.
        weights_N: float32 loss weights.
        scale: factor on the logits (Granite, Cohere).
        softcap: c in c·tanh(x/c) (Gemma 2), or None.
        chunk_rows: rows per chunk; default from CHUNK_BYTES.
    """
    if hidden_ND.shape[0] == 0:
        return hidden_ND.sum() * 0.0
    rows = chunk_rows or _chunk_rows(hidden_ND, weight_VD)
    # The dtype of hidden_ND decides; autocast would second-guess it.
    with torch.autocast(hidden_ND.device.type, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, bias_V, targets_N, weights_N, float(scale), softcap, rows
        )
    return total


def _chunk_rows(hidden_ND: Tensor, weight_VD: Tensor) -> int:
    """As many rows as a pass over a trained head's gradient is worth, which every chunk costs; a multiple."""
    vocabulary, width = weight_VD.shape
    room = CHUNK_BYTES // (vocabulary * hidden_ND.element_size())
    if weight_VD.requires_grad:
        room = max(room, width)
    return max(1, min(hidden_ND.shape[0] + ROUND_ROWS, room) // ROUND_ROWS) * ROUND_ROWS


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor,
        scale: float,
        softcap: float | None,
        rows: int,
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        weight = weight_VD.detach().to(hidden_ND.dtype)
        given = hidden_ND.shape[0]
        if hidden_ND.device.type == "cpu" and (missing := -given % ROUND_ROWS):
            hidden_ND = F.pad(hidden_ND, (0, 0, 0, missing))
            targets_N, weights_N = F.pad(targets_N, (0, missing)), F.pad(weights_N, (0, missing))
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias and bias_V is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        length, vocabulary = hidden_ND.shape[0], weight.shape[0]
        rows = min(rows, length)
        on_cpu, plain = weight.device.type == "cpu", bias_V is None and scale == 1.0 and softcap is None
        in_place = on_cpu and plain and weight.dtype == torch.bfloat16
        strip = max(1, min(rows, STRIP_BYTES // (4 * vocabulary))) if on_cpu and not in_place else rows
        # Every buffer is made once: a large block that is freed and made anew costs more than the arithmetic on it.
        chunk_RV = torch.empty(rows, vocabulary, dtype=weight.dtype, device=weight.device)
        lowered = weight.dtype != torch.float32
        widened = lowered and not in_place
        strip_SV = torch.empty(strip, vocabulary, dtype=torch.float32, device=weight.device) if widened else None
        product_VD = torch.empty_like(weight) if lowered and needs_weight else None
        for start in range(0, length, rows):
            hidden = hidden_ND[start : start + rows]
            logits_RV = chunk_RV[: len(hidden)]
            torch.mm(hidden, weight.T, out=logits_RV)
            for first in range(0, len(hidden), strip):
                part = slice(start + first, start + min(first + strip, len(hidden)))
                narrow = logits_RV[first : first + strip]
                if in_place:
                    total += _low_into_gradient(narrow, hidden_ND[part], weight, targets_N[part], weights_N[part])
                    continue
                wide = narrow if strip_SV is None else strip_SV[: len(narrow)].copy_(narrow)
                total += _into_gradient(wide, targets_N[part, None], weights_N[part, None], bias_V, scale, softcap)
                if grad_bias is not None:
                    grad_bias += wide.sum(dim=0)
                if wide is not narrow:
                    narrow.copy_(wide)
            if grad_hidden is not None:
                torch.mm(logits_RV, weight, out=grad_hidden[start : start + rows])
            if grad_weight is None:
                continue
            if product_VD is None:
                grad_weight.addmm_(logits_RV.T, hidden.detach())
            else:
                torch.mm(logits_RV.T, hidden.detach(), out=product_VD)
                grad_weight.add_(product_VD) if start else grad_weight.copy_(product_VD)
        if grad_hidden is not None:
            grad_hidden = grad_hidden[:given]
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_total,) = grads
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        # The saved gradients are used once: scaling them in place spares a copy of V × D.
        return (
            None if grad_hidden is None else grad_hidden.mul_(grad_total.to(grad_hidden.dtype)),
            None if grad_weight is None else grad_weight.mul_(grad_total).to(ctx.weight_dtype),
            None if grad_bias is None else grad_bias.mul_(grad_total),
            *(None,) * 5,
        )


def _low_into_gradient(
    logits_RV: Tensor, hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, weights_R: Tensor
) -> Tensor:
    """Put the gradient of the weighted loss in the place of bfloat16 products W h; return the loss.

    The softmax kernel computes a row in float32 and rounds it once, as the gradient would be rounded anyway: no float32
    copy is made, and of eight passes three are left. Only p − 1 at the target must not come from a rounded p, or
    nothing would be left of it where p is near 1: it is minus the sum of the row's other entries, and so is the loss.
    """
    places_R = torch.arange(len(logits_RV))
    torch.softmax(logits_RV, 1, out=logits_RV)
    chosen_R = logits_RV[places_R, targets_R].float()
    logits_RV[places_R, targets_R] = 0.0
    others_R = torch.mv(logits_RV, logits_RV.new_ones(logits_RV.shape[1]))
    logits_RV[places_R, targets_R] = -others_R
    loss_R = torch.where(chosen_R > 0.5, -torch.log1p(-others_R.float()), -chosen_R.log())
    weights_R = weights_R.float()
    if not isinstance(logits_RV, FakeTensor):  # a plan's dry run has no numbers to look at
        for row in torch.nonzero(chosen_R < TINY)[:, 0].tolist():
            loss_R[row] = F.cross_entropy(torch.mv(weight_VD, hidden_RD[row]).float(), targets_R[row])
        if not bool((weights_R == 1).all()):
            logits_RV *= weights_R[:, None].to(logits_RV.dtype)
    return (weights_R * loss_R).sum()


def _into_gradient(
    logits_SV: Tensor,
    targets_S1: Tensor,
    weights_S1: Tensor,
    bias_V: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Put the gradient of the weighted loss in the place of float32 products W h; return the loss."""
    weights_S1 = weights_S1.float()
    if bias_V is not None:
        logits_SV += bias_V.detach().float()
    if scale != 1.0:
        logits_SV *= scale
    slope = None
    if softcap is not None:
        logits_SV.div_(softcap).tanh_()
        slope = 1.0 - logits_SV.square()
        logits_SV *= softcap
    chosen = logits_SV.gather(1, targets_S1)
    peak = logits_SV.amax(dim=1, keepdim=True)
    norm = logits_SV.sub_(peak).exp_().sum(dim=1, keepdim=True)
    loss = (weights_S1 * (norm.log() + peak - chosen)).sum()
    logits_SV.mul_(weights_S1 / norm).scatter_add_(1, targets_S1, -weights_S1)
    if slope is not None:
        logits_SV *= slope
    if scale != 1.0:
        logits_SV *= scale
    return loss


def single_label(logits_NK: Tensor, targets_N: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return Σ cross-entropy of one class per example; smoothing as in Szegedy et al. 2016 (arXiv:1512.00567)."""
    return F.cross_entropy(logits_NK.float(), targets_N, reduction="sum", label_smoothing=label_smoothing)


def multi_label(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """Return Σ over examples of the mean binary cross-entropy over the K labels."""
    return F.binary_cross_entropy_with_logits(logits_NK.float(), targets_NK.float(), reduction="none").mean(1).sum()


def squared_error(outputs_N1: Tensor, targets_N: Tensor) -> Tensor:
    """Return Σ (output − target)² for regression; targets are standardised by the caller."""
    return (outputs_N1.float().squeeze(1) - targets_N.float()).square().sum()
