"""Temperature scaling: one number, fitted on validation, that makes a task head's confidences mean what they say.

The outputs are divided by T before the softmax (or the sigmoids): no answer changes, only how sure it is. T minimises
the negative log-likelihood of the validation rows, which is convex in 1/T (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017). The targets are softened by 1 / (N + 2), as Platt (1999) does, so that rows that are all right do
not ask for endless confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from metier.models.policy import Policy
from metier.training.feed import Feed

MIN_ROWS = 50
"""From so many validation rows on a temperature is fitted; fewer say too little about confidences."""
LARGEST = 20.0
"""T lies between 1 / LARGEST and LARGEST."""
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Calibration:
    """T, and the mean loss of the validation rows in nats without it and with it."""

    temperature: float
    loss_before: float
    loss_after: float
    rows: int


def calibrate(policy: Policy, feed: Feed, *, budget_tokens: int, packing: bool) -> Calibration | None:
    """Fit the temperature of the policy's head on a feed, and set it.

    Returns:
        None where there is nothing to fit: no head, a number as target, or fewer than MIN_ROWS rows.
    """
    if policy.head is None or policy.head.problem_type == "regression" or len(feed) < MIN_ROWS:
        return None
    policy.eval()
    outputs, targets = [], []
    with torch.no_grad(), policy.computing():
        for batch in feed.batches(budget_tokens=budget_tokens, packing=packing):
            assert batch.targets is not None
            outputs.append(policy.head_logits(batch).cpu().double())
            targets.append(torch.from_numpy(batch.targets))
    outputs_NK, targets_N = torch.cat(outputs), torch.cat(targets)
    several = policy.head.problem_type == "multi_label"
    temperature = fit_temperature(outputs_NK, targets_N, several=several)
    policy.head.temperature = temperature
    return Calibration(
        temperature,
        loss_before=_loss(outputs_NK, targets_N, several),
        loss_after=_loss(outputs_NK / temperature, targets_N, several),
        rows=len(feed),
    )


def fit_temperature(outputs_NK: Tensor, targets: Tensor, *, several: bool) -> float:
    """Return T for outputs (N, K).

    Args:
        targets: (N,) label indices, or (N, K) indicators where `several` labels may be right at once.
    """
    z_NK = outputs_NK.double()
    soft = 1.0 / (len(z_NK) + 2)
    if several:
        wanted_NK = targets.double() * (1 - 2 * soft) + soft
    else:
        num_labels = z_NK.shape[1]
        wanted_NK = torch.full_like(z_NK, soft / max(1, num_labels - 1))
        wanted_NK.scatter_(1, targets.long().unsqueeze(1), 1 - soft)
    wanted = float((wanted_NK * z_NK).sum())

    def slope(inverse: float) -> float:
        """The loss's derivative with respect to 1/T: it only rises."""
        scaled_NK = z_NK * inverse
        found_NK = scaled_NK.sigmoid() if several else scaled_NK.softmax(1)
        return float((found_NK * z_NK).sum()) - wanted

    low, high = 1 / LARGEST, LARGEST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / math.sqrt(low * high))


def _loss(outputs_NK: Tensor, targets: Tensor, several: bool) -> float:
    if several:
        return float(F.binary_cross_entropy_with_logits(outputs_NK, targets.double()))
    return float(F.cross_entropy(outputs_NK, targets.long()))
