"""Schedules, parameter groups, clipping, the automatic learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metier.core.sections import Training
from metier.training.optim import clip, learning_rate, make_optimizer, schedule


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_schedules_rise_to_one_and_never_exceed_it(kind: str) -> None:
    factor = schedule(kind, steps=100, warmup_steps=10)
    values = [factor(s) for s in range(100)]
    assert values[0] == pytest.approx(0.1) and max(values) <= 1.0
    assert values[9] == pytest.approx(1.0)
    assert all(v > 0 for v in values), "no step may be wasted on a rate of zero"
    assert factor(100) == 0.0


def test_shapes_of_the_schedules() -> None:
    assert schedule("linear", steps=110, warmup_steps=10)(60) == pytest.approx(0.5)
    assert schedule("cosine", steps=110, warmup_steps=10)(60) == pytest.approx(0.5)
    assert schedule("wsd", steps=100, warmup_steps=0)(79) == 1.0
    assert schedule("wsd", steps=100, warmup_steps=0)(90) == pytest.approx(0.5)
    assert schedule("constant", steps=5, warmup_steps=0)(4) == 1.0


def test_groups_decay_matrices_only_and_the_head_has_its_own_rate() -> None:
    trained = {
        "adapter.w": nn.Parameter(torch.ones(2, 2)),
        "adapter.b": nn.Parameter(torch.ones(2)),
        "head.w": nn.Parameter(torch.ones(2, 2)),
    }
    optimizer = make_optimizer(trained, Training(weight_decay=0.1), peak=1e-3, head_multiplier=10)
    by_name = {n: g for g in optimizer.groups for n in g["names"]}
    assert by_name["adapter.w"]["weight_decay"] == 0.1 and by_name["adapter.b"]["weight_decay"] == 0.0
    optimizer.set_learning_rate(5e-4)
    assert by_name["head.w"]["lr"] == pytest.approx(5e-3) and by_name["adapter.w"]["lr"] == pytest.approx(5e-4)
    assert [part.defaults["fused"] for part in optimizer.parts] == [True]


def test_muon_steps_hidden_matrices_by_one_length_in_every_direction_and_adamw_the_rest() -> None:
    torch.manual_seed(0)
    trained = {name: nn.Parameter(torch.randn(24, 16)) for name in ("adapter.w", "adapter.table", "head.w")}
    trained["adapter.b"] = nn.Parameter(torch.randn(16))
    before = {name: p.detach().clone() for name, p in trained.items()}
    training = Training(optimizer="muon", weight_decay=0.0)
    optimizer = make_optimizer(trained, training, peak=1e-2, head_multiplier=2.0, hidden_matrices={"adapter.w"})
    gradient = torch.randn(24, 16) @ torch.diag(torch.logspace(0, -1, 16))  # some directions ten times steeper
    for parameter in trained.values():
        parameter.grad = gradient.clone() if parameter.ndim == 2 else gradient[0].clone()
    optimizer.step()
    moved = {name: before[name] - p.detach() for name, p in trained.items()}
    # Five iterations bring singular values to between 0.7 and 1.2; the step's size is AdamW's, 0.2 √max(rows, columns).
    spread = torch.linalg.svdvals(moved["adapter.w"]) / (1e-2 * 0.2 * 24**0.5)
    assert float(spread.min()) > 0.6 and float(spread.max()) < 1.3
    assert torch.allclose(moved["adapter.table"], 1e-2 * gradient.sign(), rtol=1e-3), "AdamW's first step is the sign"
    assert torch.allclose(moved["head.w"], 2e-2 * gradient.sign(), rtol=1e-3)
    state = optimizer.state()
    assert {name: set(fields) for name, fields in state.items()} == {
        "adapter.w": {"momentum_buffer"},
        **{name: {"step", "exp_avg", "exp_avg_sq"} for name in ("adapter.table", "head.w", "adapter.b")},
    }


def test_matrices_decay_under_muon_as_under_adamw() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = make_optimizer(
        {"adapter.w": weight}, Training(optimizer="muon", weight_decay=0.5), peak=0.1, hidden_matrices={"adapter.w"}
    )
    weight.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))


def test_clip_scales_to_the_norm_and_returns_the_norm_before() -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([3.0, 4.0, 0.0])
    assert clip({"w": weight}, 1.0) == pytest.approx(5.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    weight.grad = torch.tensor([0.3, 0.4, 0.0])
    assert clip({"w": weight}, 1.0) == pytest.approx(0.5)
    assert float(weight.grad.norm()) == pytest.approx(0.5)
    weight.grad = torch.tensor([3.0, 4.0, 0.0])
    assert clip({"w": weight}, 0.0) == pytest.approx(5.0)
    assert float(weight.grad.norm()) == pytest.approx(5.0), "0 means never"


def test_clip_leaves_a_gradient_that_is_not_finite_for_the_caller_to_see() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([math.inf, 1.0])
    assert not math.isfinite(clip({"w": weight}, 1.0))


def test_automatic_rate_gives_a_reason_and_falls_with_width() -> None:
    small = learning_rate(Training(), adapter="lora", method="sft", width=256)
    large = learning_rate(Training(), adapter="lora", method="sft", width=4096)
    full = learning_rate(Training(), adapter="full", method="sft", width=256)
    assert small.value > large.value > 0 and small.value > full.value
    assert "lora" in small.reason and "256" in small.reason
    assert learning_rate(Training(learning_rate=0.5), adapter="lora", method="sft", width=1).value == 0.5
