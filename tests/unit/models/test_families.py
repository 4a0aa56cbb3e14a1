"""The fast path of every family, from packed rows to the gradients, against the family's own forward pass.

Ours: packed segments, attention without a mask, one norm node, the low-rank sum's own backward pass, logits of
supervised rows in chunks. Theirs: one segment at a time through the untouched model, eager attention, all logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from metier.core.batch import Batch
from metier.models.base import Base
from metier.models.policy import build
from metier.training.tokens import cross_entropy

from .conftest import FAMILIES, make_model, random_batch

ROWS = [[3, 9, 2], [6], [1, 11]]


def own_loss(model: Any, weights: dict[str, Tensor], batch: Batch) -> Tensor:
    """Summed cross-entropy of the supervised tokens, by the model's own logits with these weights."""
    total = torch.zeros(())
    for row, segments in enumerate(ROWS):
        start = 0
        for length in segments:
            place = slice(start, start + length)
            tokens = torch.from_numpy(batch.tokens_BT[row, place])
            mask = torch.from_numpy(batch.loss_mask_BT[row, place])
            out = functional_call(model, weights, (tokens[None],), {"use_cache": False}).logits[0]
            losses = functional.cross_entropy(out[:-1], tokens[1:], reduction="none")
            total = total + (losses * mask[1:]).sum()
            start += length
    return total


def masked_batch() -> Batch:
    batch = random_batch(ROWS)
    batch.loss_mask_BT[0, 4:7] = 0  # a prompt inside a packed row
    return batch


def assert_gradients_agree(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> None:
    largest = max(float(g.abs().max()) for g in wanted.values() if g is not None)
    for name, grad in wanted.items():
        if grad is None:
            assert found[name] is None or not found[name].any(), name  # type: ignore[union-attr]
        else:
            assert torch.allclose(found[name], grad, rtol=1e-4, atol=1e-5 * largest), name  # type: ignore[arg-type]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_loss_and_gradients_of_full_tuning_are_the_familys_own(family: str, make_base: Callable[..., Base]) -> None:
    policy, batch = build(make_base(family), "full", {}), masked_batch()
    loss = cross_entropy(policy, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    plain = make_model(family).eval()
    plain.set_attn_implementation("eager")
    named = dict(plain.named_parameters())
    wanted = own_loss(plain, {}, batch)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    theirs = dict(zip(named, torch.autograd.grad(wanted, list(named.values()), allow_unused=True), strict=True))
    ours = {name.removeprefix("adapter."): p.grad for name, p in policy.trained().items()}
    assert ours.keys() == theirs.keys()
    assert_gradients_agree(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_loss_and_gradients_of_lora_are_those_of_the_sum_written_out(
    family: str, options: dict[str, Any], make_base: Callable[..., Base]
) -> None:
    policy, batch = build(make_base(family), "lora", {"r": 4, "lora_alpha": 8, **options}), masked_batch()
    draw = torch.Generator().manual_seed(4)
    for name, parameter in policy.trained().items():
        if name.endswith("lora_B"):  # zero at the start, where A would have no gradient
            torch.nn.init.normal_(parameter, std=0.2, generator=draw)
    loss = cross_entropy(policy, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    ours = {name.removeprefix("adapter."): p.grad for name, p in policy.trained().items()}

    plain = make_model(family).eval().requires_grad_(False)
    plain.set_attn_implementation("eager")
    leaves = {n.removeprefix("adapter."): p.detach().clone().requires_grad_() for n, p in policy.trained().items()}
    weights: dict[str, Tensor] = {}
    for module in sorted({name.rpartition(".")[0] for name in leaves}):
        layer = plain.get_submodule(module)
        transposed = isinstance(layer, Conv1D)
        base = layer.weight.T if transposed else layer.weight
        whole = base + 8 / 4 * leaves[f"{module}.lora_B"] @ leaves[f"{module}.lora_A"]
        if options:  # the length of a row is a constant for the gradient (DoRA, section 4.3)
            whole = whole * (leaves[f"{module}.magnitude"] / whole.norm(dim=1).detach())[:, None]
        weights[f"{module}.weight"] = whole.T if transposed else whole
    wanted = own_loss(plain, weights, batch)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    theirs = dict(zip(leaves, torch.autograd.grad(wanted, list(leaves.values())), strict=True))
    assert_gradients_agree(ours, theirs)  # type: ignore[arg-type]
