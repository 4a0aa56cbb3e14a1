"""What the first steps of a run consist of, and its policy without data to try them on: what a plan is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from metier.actions.compose import Parts
from metier.core.batch import Batch
from metier.data.batching import micro_batches, step_examples
from metier.models.dryrun import DryRun
from metier.models.policy import Policy
from metier.training.feed import Feed

LOOKED_AT_STEPS = 200
"""Steps whose micro-batches are looked at: which is the largest, what is typical, how many shapes there are."""
LOOKED_AT_ROWS = 4096
"""Rows of a split that are looked at for the largest pass without a gradient."""
TYPICAL = (1 / 6, 1 / 2, 5 / 6)
"""Micro-batches at these places, ordered by what attention costs, stand for all of them."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the first steps of a run consist of."""

    largest: Batch
    typical: list[Batch]
    widest: Batch
    """A pass without a gradient, over whole splits: a validation, or the making of the trunk's cache. Short steps leave
    much of the token budget free, and these do not."""
    per_step: float
    """Micro-batches in a step."""
    shapes: int
    padding: float

    @property
    def passes(self) -> int:
        """Passes that show the peak: gradients that add up over several are there while the next one runs."""
        return 2 if self.per_step > 1 else 1


def look_ahead(parts: Parts) -> Ahead:
    """Return what the first 200 steps consist of, as the loop will divide them."""
    training, feed = parts.recipe.training, parts.train
    found: list[tuple[float, list[int], list[list[int]], tuple[int, int]]] = []
    steps = min(parts.plan.steps, LOOKED_AT_STEPS)
    tokens = 0
    for step in range(steps):
        positions = step_examples(step, n=len(feed), batch_size=training.batch_size, seed=training.seed)
        lengths = feed.lengths[positions]
        tokens += int(lengths.sum())
        for rows in micro_batches(
            lengths, budget_tokens=parts.plan.micro_batch_tokens, packing=parts.plan.training.packing
        ):
            attended = float(sum(int(lengths[i]) ** 2 for row in rows for i in row))
            found.append((attended, positions.tolist(), rows, feed.shape(positions, rows)))
    found.sort(key=lambda one: one[0])
    largest = max(found, key=lambda one: one[3][0] * one[3][1])
    slots = sum(rows * width for *_, (rows, width) in found)
    return Ahead(
        largest=feed.collate(largest[1], largest[2]),
        typical=[feed.collate(*found[int(len(found) * place)][1:3]) for place in TYPICAL],
        widest=_widest(parts.validation if len(parts.validation) else feed, parts),
        per_step=len(found) / steps,
        shapes=len({shape for *_, shape in found}),
        padding=1 - tokens / slots,
    )


def _widest(feed: Feed, parts: Parts) -> Batch:
    """Return the largest pass over (the first rows of) a split."""
    lengths = feed.lengths[:LOOKED_AT_ROWS]
    passes = micro_batches(lengths, budget_tokens=parts.plan.micro_batch_tokens, packing=parts.plan.training.packing)
    places = np.arange(len(lengths))
    return feed.collate(places.tolist(), max(passes, key=lambda rows: math.prod(feed.shape(places, rows))))


def forward(policy: Policy, batch: Batch) -> torch.Tensor:
    """Return hidden states or the head's outputs, without a gradient: what a validation computes."""
    with torch.no_grad():
        return policy.hidden(batch) if policy.head is None else policy.head_logits(batch)


def dry_run(parts: Parts, dtype: str) -> DryRun:
    """Return the parts' policy without data, computing in this precision.

    Raises:
        ConfigError: E210, E211 or E260, the adapter or its options.
    """
    return DryRun(
        parts.base.model.config,
        adapter=parts.recipe.adapter.kind,
        options=parts.recipe.adapter.options,
        kind=parts.base.kind,
        head=parts.method.head(),
        dtype=dtype,
        support=parts.base.attention,
    )


def method_loss(parts: Parts, policy: Policy, batch: Batch) -> torch.Tensor:
    """Return what the parts' method takes the gradient of, undivided."""
    return torch.stack([term.total * term.coefficient for term in parts.method.loss(policy, batch)]).sum()
