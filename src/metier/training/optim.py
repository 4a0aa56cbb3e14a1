"""AdamW, its parameter groups, the schedules, and the automatic learning rate with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from metier.core.recipe import Training

HEAD_PREFIX = "head."


@dataclass(frozen=True, slots=True)
class Choice:
    """An automatic choice with its reason, as environment.json and the report show it."""

    value: float
    reason: str


def learning_rate(training: Training, *, adapter: str, method: str, width: int) -> Choice:
    """Return the peak learning rate: the recipe's, or one by rule.

    The rule: adapters stand a tenfold higher rate than full weights (Hu et al. 2021, arXiv:2106.09685), and the
    usable rate falls with the model's width (Yang et al. 2022, arXiv:2203.03466), here as 1/√ around 768.
    """
    if training.learning_rate != "auto":
        return Choice(float(training.learning_rate), "set in the recipe")
    base = {"full": 5e-5, "layers": 1e-4, "none": 1e-4}.get(adapter, 4e-4)
    if method == "cpt" and adapter == "full":
        base = 2e-4
    value = base * math.sqrt(768 / width)
    value = float(f"{value:.2g}")
    return Choice(
        value, f"rule: {base:g} for method {method} with adapter {adapter}, times √(768/{width}) for the width"
    )


def schedule(kind: str, *, steps: int, warmup_steps: int) -> Callable[[int], float]:
    """Return the factor on the peak learning rate for a step counted from 0; it is 0 only after the last step."""

    def warm(step: int) -> float:
        return min(1.0, (step + 1) / max(1, warmup_steps))

    def left(step: int) -> float:
        return max(0.0, (steps - step) / max(1, steps - warmup_steps)) if step >= warmup_steps else 1.0

    shapes: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "linear": left,
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * (1 - left(step)))),
        # Warm-up, stable, decay: Hu et al. 2024 (arXiv:2404.06395).
        "wsd": lambda step: min(1.0, (steps - step) / max(1.0, 0.2 * steps)),
    }
    shape = shapes[kind]
    return lambda step: warm(step) * shape(step) if step < steps else 0.0


def make_optimizer(
    trained: Mapping[str, nn.Parameter], training: Training, *, peak: float, head_multiplier: float = 1.0
) -> torch.optim.AdamW:
    """Return fused AdamW (on CPU too, where PyTorch defaults to a loop) with named groups.

    Matrices decay, vectors (norms, biases) do not. Parameters under `head.` get `head_multiplier` times the rate.
    Groups carry `names`, in the order of `trained`, so that a checkpoint can name each state tensor.
    """
    buckets: dict[tuple[bool, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in trained.items():
        buckets.setdefault((parameter.ndim >= 2, name.startswith(HEAD_PREFIX)), []).append((name, parameter))
    groups = [
        {
            "params": [p for _, p in members],
            "names": [n for n, _ in members],
            "weight_decay": training.weight_decay if decays else 0.0,
            "scale": head_multiplier if is_head else 1.0,
            "lr": peak * (head_multiplier if is_head else 1.0),
        }
        for (decays, is_head), members in sorted(buckets.items(), reverse=True)
    ]
    return torch.optim.AdamW(
        groups,
        lr=peak,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the rate of every group to `value` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["scale"]


def clip(trained: Mapping[str, nn.Parameter], max_norm: float) -> float:
    """Scale gradients so that their total norm is at most `max_norm` (0 = never); return the norm before.

    A non-finite norm is returned and nothing is scaled: the caller stops before the optimiser step.
    """
    parameters = [p for p in trained.values() if p.grad is not None]
    if not parameters:
        return 0.0
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    value = float(norm)
    if max_norm > 0 and math.isfinite(value) and value > max_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return value
