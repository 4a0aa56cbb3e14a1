"""Schedules, parameter groups, clipping, the automatic learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metier.core.recipe import Training
from metier.training.optim import clip, learning_rate, make_optimizer, schedule, set_learning_rate


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
    by_name = {n: g for g in optimizer.param_groups for n in g["names"]}
    assert by_name["adapter.w"]["weight_decay"] == 0.1 and by_name["adapter.b"]["weight_decay"] == 0.0
    set_learning_rate(optimizer, 5e-4)
    assert by_name["head.w"]["lr"] == pytest.approx(5e-3) and by_name["adapter.w"]["lr"] == pytest.approx(5e-4)
    assert optimizer.defaults["fused"] is True


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
