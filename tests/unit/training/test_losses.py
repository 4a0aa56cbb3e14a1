"""linear_cross_entropy against PyTorch's own cross-entropy on full logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from metier.training import losses
from metier.training.losses import linear_cross_entropy, multi_label, single_label, squared_error


def problem(rows: int = 37, width: int = 16, vocabulary: int = 53) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    bias = torch.randn(vocabulary, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,))
    weights = torch.rand(rows)
    return hidden, weight, bias, targets, weights


def plain(hidden, weight, bias, targets, weights, scale, softcap):  # type: ignore[no-untyped-def]
    logits = (hidden @ weight.T + bias) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("scale,softcap", [(1.0, None), (0.3, None), (1.0, 5.0), (2.0, 7.0)])
@pytest.mark.parametrize("chunk", [5, 37, 1000])
def test_value_and_every_gradient_equal_the_plain_loss(scale: float, softcap: float | None, chunk: int) -> None:
    hidden, weight, bias, targets, weights = problem()
    expected = plain(hidden, weight, bias, targets, weights, scale, softcap)
    wanted = torch.autograd.grad(expected * 0.37, (hidden, weight, bias))
    got_loss = linear_cross_entropy(
        hidden, weight, targets, weights, bias_V=bias, scale=scale, softcap=softcap, chunk_rows=chunk
    )
    got = torch.autograd.grad(got_loss * 0.37, (hidden, weight, bias))
    torch.testing.assert_close(got_loss, expected, rtol=1e-6, atol=1e-5)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    hidden, weight, _, targets, weights = problem()
    weight = weight.detach()
    loss = linear_cross_entropy(hidden, weight, targets, weights)
    assert loss.grad_fn is not None
    saved = [t.shape for t in loss.grad_fn.saved_tensors if t is not None]
    assert saved == [hidden.shape], "only the gradient of the hidden states may be kept"
    loss.backward()
    assert weight.grad is None and hidden.grad is not None


def test_bfloat16_hidden_states_keep_a_float32_head_gradient() -> None:
    hidden, weight, _, targets, weights = problem(rows=400)
    low = hidden.detach().bfloat16().requires_grad_()
    linear_cross_entropy(low, weight, targets, weights, chunk_rows=64).backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    wanted = torch.autograd.grad(plain(hidden, weight, torch.zeros(53), targets, weights, 1.0, None), weight)[0]
    cosine = F.cosine_similarity(weight.grad.flatten(), wanted.flatten(), dim=0)
    assert cosine > 0.9995


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strips_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets, weights = problem(rows=70)
    low = hidden.detach().to(dtype).requires_grad_()

    def found() -> tuple[torch.Tensor, ...]:
        loss = linear_cross_entropy(low, weight, targets, weights, bias_V=bias, softcap=5.0, chunk_rows=32)
        return loss, *torch.autograd.grad(loss, (low, weight, bias))

    whole = found()
    monkeypatch.setattr(losses, "STRIP_BYTES", 5 * 4 * 53)  # five rows: they divide neither a chunk nor its rest
    for one, other in zip(found(), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_chunk_is_worth_a_pass_over_a_trained_heads_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_BYTES", 64 * 53 * 4)
    hidden, weight, *_ = problem(rows=400, width=128)
    assert losses._chunk_rows(hidden, weight.detach()) == 64
    assert losses._chunk_rows(hidden, weight) == 128, "as many as the width"
    assert losses._chunk_rows(hidden[:40], weight) == 64, "no more than there are, filled up"


@pytest.mark.parametrize("boost", [0.0, 4.0, 12.0, -120.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_softmax_in_the_place_of_its_logits_is_as_exact_as_one_rounding(boost: float, weighted: bool) -> None:
    torch.manual_seed(0)
    rows, vocabulary = 90, 501
    targets, weights = torch.randint(0, vocabulary, (rows,)), torch.rand(rows) if weighted else torch.ones(rows)
    weight = torch.eye(vocabulary, dtype=torch.bfloat16)  # the hidden states are the logits
    low = torch.randn(rows, vocabulary)
    low[torch.arange(rows), targets] += boost * torch.rand(rows).sqrt()
    low = low.bfloat16().requires_grad_()
    exact = low.detach().float().requires_grad_()
    wanted_R = F.cross_entropy(exact, targets, reduction="none")
    (wanted,) = torch.autograd.grad((wanted_R * weights).sum(), exact)
    loss = linear_cross_entropy(low, weight, targets, weights, chunk_rows=32)
    (got,) = torch.autograd.grad(loss, low)
    assert float(loss.detach()) == pytest.approx(float((wanted_R * weights).sum().detach()), rel=2e-3)
    gap = (got.float() - wanted).abs()
    places = (torch.arange(rows), targets)
    assert (gap[places] <= 0.012 * wanted[places].abs()).all(), "also where the target's probability is near 1"
    assert float(gap.norm() / wanted.norm()) < 4e-3


def test_losses_of_hopeless_targets_are_told_exactly() -> None:
    low = torch.zeros(3, 7, dtype=torch.bfloat16)
    low[:, 0] = 160.0  # exp(-160) has no float32
    head = torch.eye(7, dtype=torch.bfloat16)
    loss = linear_cross_entropy(low.requires_grad_(), head, torch.ones(3).long(), torch.ones(3))
    assert float(loss.detach()) == pytest.approx(480.0)


def test_no_supervised_row_is_a_zero_with_a_gradient_path() -> None:
    hidden = torch.randn(0, 8, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(5, 8), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    loss.backward()
    assert float(loss.detach()) == 0.0 and hidden.grad is not None


def test_head_losses_are_sums() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 4)
    targets = torch.randint(0, 4, (6,))
    torch.testing.assert_close(single_label(logits, targets), 6 * F.cross_entropy(logits, targets))
    many = (torch.rand(6, 4) > 0.5).float()
    torch.testing.assert_close(multi_label(logits, many), 6 * F.binary_cross_entropy_with_logits(logits, many))
    assert float(squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))) == 5.0
