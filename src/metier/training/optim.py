"""AdamW and Muon, their parameter groups, the schedules, and the automatic learning rate with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metier.core.sections import Training

HEAD_PREFIX = "head."
MUON_MOMENTUM = 0.95
"""As Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/) use it, with Nesterov's step."""


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


class Optimizer:
    """PyTorch's optimisers over disjoint parameters, stepping as one.

    Args:
        parts: each group carries `names` beside its `params`, and `scale`, its factor on the learning rate.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Change the parameters by their gradients."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def set_learning_rate(self, value: float) -> None:
        """Set the rate of every group to `value` times the group's scale."""
        for group in self.groups:
            group["lr"] = value * group["scale"]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the state by parameter name and field (`exp_avg`, `momentum_buffer`, …); not copied.

        Every parameter that is trained has its key, with nothing in it before the first step.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for part in self.parts:
            for group in part.param_groups:
                for name, parameter in zip(group["names"], group["params"], strict=True):
                    found[name] = dict(part.state.get(parameter, {}))
        return found

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned."""
        for part in self.parts:
            for group in part.param_groups:
                for name, parameter in zip(group["names"], group["params"], strict=True):
                    if name in state:
                        # Fused AdamW keeps its step count on the parameter's device.
                        part.state[parameter] = {k: v.to(parameter.device) for k, v in state[name].items()}


def make_optimizer(
    trained: Mapping[str, nn.Parameter],
    training: Training,
    *,
    peak: float,
    head_multiplier: float = 1.0,
    hidden_matrices: Collection[str] = (),
) -> Optimizer:
    """Return the recipe's optimiser with named groups.

    AdamW is the fused one (on CPU too, where PyTorch defaults to a loop). Matrices decay, vectors (norms, biases) do
    not. Parameters under `head.` get `head_multiplier` times the rate.

    Args:
        hidden_matrices: names of what `muon` steps by Muon: the momentum, orthogonalised by Newton–Schulz iterations
            and scaled to the size of an AdamW step, so that both share one learning rate (Liu et al. 2025,
            arXiv:2502.16982). All else is AdamW's.
    """
    by_muon = {n: p for n, p in trained.items() if training.optimizer == "muon" and n in hidden_matrices}
    parts: list[torch.optim.Optimizer] = []
    if by_muon:
        parts.append(
            torch.optim.Muon(
                [{**_group(list(by_muon.items())), "weight_decay": training.weight_decay, "scale": 1.0, "lr": peak}],
                lr=peak,
                momentum=MUON_MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    buckets: dict[tuple[bool, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in trained.items():
        if name not in by_muon:
            buckets.setdefault((parameter.ndim >= 2, name.startswith(HEAD_PREFIX)), []).append((name, parameter))
    if buckets:
        groups = [
            {
                **_group(members),
                "weight_decay": training.weight_decay if decays else 0.0,
                "scale": head_multiplier if is_head else 1.0,
                "lr": peak * (head_multiplier if is_head else 1.0),
            }
            for (decays, is_head), members in sorted(buckets.items(), reverse=True)
        ]
        betas = (training.adam_beta1, training.adam_beta2)
        parts.append(torch.optim.AdamW(groups, lr=peak, betas=betas, eps=training.adam_epsilon, fused=True))
    return Optimizer(parts)


def _group(members: Sequence[tuple[str, nn.Parameter]]) -> dict[str, Any]:
    return {"params": [p for _, p in members], "names": [n for n, _ in members]}


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
