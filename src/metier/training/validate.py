"""Validation during training: loss and accuracy, and the verdict on overfitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from metier.core.errors import DataError
from metier.models.policy import Policy
from metier.training.feed import Feed
from metier.training.method import Method


def validate(policy: Policy, method: Method, feed: Feed, *, budget_tokens: int, packing: bool) -> dict[str, float]:
    """Return the mean of each of the method's measures over the feed, in evaluation mode, without a gradient.

    Raises:
        DataError: E371, a figure is not finite: such weights are never saved or called the best. Names the rows.
    """
    policy.eval()
    sums: dict[str, float] = {}
    weight = 0.0
    with torch.no_grad(), policy.computing():
        for batch in feed.batches(budget_tokens=budget_tokens, packing=packing):
            for name, value in method.measure(policy, batch).items():
                if not math.isfinite(value):
                    raise _not_finite(name, batch.example_ids)
                sums[name] = sums.get(name, 0.0) + value
            weight += batch.weights[method.weight_key]
    return {name: value / weight for name, value in sums.items()} if weight else {}


@dataclass(slots=True)
class Watch:
    """Best evaluation so far, and how long ago: decides on early stopping.

    Args:
        metric: which figure of the evaluation decides; `loss` falls, everything else rises.
        patience: evaluations without improvement before `done` is True; 0 = never.
        first_step: no stop before this step: a model that has not seen every row once has not been given its chance.
    """

    metric: str
    patience: int
    first_step: int = 0
    last_step: int = 0
    best_step: int = 0
    best_value: float | None = None
    since_best: int = 0

    def see(self, step: int, figures: dict[str, float]) -> bool:
        """Record an evaluation; return whether it is the best so far."""
        value = figures[self.metric]
        self.last_step = step
        better = self.best_value is None or (
            value < self.best_value if self.metric in ("loss", "absolute_error") else value > self.best_value
        )
        if better:
            self.best_step, self.best_value, self.since_best = step, value, 0
        else:
            self.since_best += 1
        return better

    @property
    def done(self) -> bool:
        """Whether patience has run out."""
        return self.patience > 0 and self.since_best >= self.patience and self.last_step >= self.first_step


def overfitting(train_losses: Sequence[tuple[int, float]], validation_losses: Sequence[tuple[int, float]]) -> str:
    """Say in words whether validation loss turned while training loss went on falling.

    Args:
        train_losses: (step, mean loss since the evaluation before).
        validation_losses: (step, loss), at the same steps.
    """
    if len(validation_losses) < 3:
        return "too few evaluations to tell"
    best_step, best = min(validation_losses, key=lambda pair: pair[1])
    last_step, last = validation_losses[-1]
    rise = (last - best) / max(abs(best), 1e-12)
    if best_step == last_step or rise < 0.01:
        return "none: validation loss was still at its best at the end"
    by_step = dict(train_losses)
    fell = by_step.get(best_step, 0.0) > by_step.get(last_step, 0.0)
    if not fell:
        return f"none: validation loss rose {rise:.1%} after step {best_step}, and training loss rose with it"
    return (
        f"after step {best_step} validation loss rose by {rise:.1%} while training loss went on falling; "
        "the checkpoint of the best evaluation is the one kept"
    )


def _not_finite(name: str, rows: Sequence[str]) -> DataError:
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return DataError(
        371,
        f"The {name.replace('_', ' ')} on validation is not finite; the checkpoints before are untouched",
        received=f"rows {', '.join(rows[:8])}{more}",
        fix="a lower training.learning_rate, or metier data preview of these rows; then metier runs resume",
    )
