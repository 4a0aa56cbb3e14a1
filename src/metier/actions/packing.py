"""Whether a run packs its rows: the recipe asks, and some of its own rows prove that nothing leaks between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from metier.core.batch import Batch
from metier.data.batching import collate
from metier.data.encoded import Encoded
from metier.models.policy import Policy
from metier.models.probe import BEGAN_WITH, Choice
from metier.models.support import packed_gap
from metier.training.feed import Feed
from metier.training.loop import Plan

PROBE_ROWS, PROBE_TOKENS = 16, 1536
LONGEST_SHARE = 2 / 3
"""What one row may take of the probe, so that at least a second stands beside it."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference of a token's hidden states, as a share of their length."""


def choose(policy: Policy, train: Feed, plan: Plan, kept: Mapping[str, str]) -> Choice:
    """Return `on` or `off`, and why.

    Where packed rows cannot be kept apart in one pass, each segment would become a row as wide as the longest: without
    packing, rows of near-equal length share a pass instead.

    Args:
        policy: before its first step.
        train: the rows of the training.
        plan: of the loop, with what the recipe says.
        kept: what an earlier start of the same run chose.
    """
    if not plan.training.packing:
        return Choice("off", "off because the recipe says so")
    if not policy.base.attention.packing:
        return Choice("off", "off because the family's attention cannot keep packed rows apart")
    if "packing" in kept:
        return Choice(kept["packing"], f"{kept['packing']} {BEGAN_WITH}")
    batch = _probe(train, plan.micro_batch_tokens)
    if batch is None:
        return Choice("on", "on because the recipe says so; there is but one row")
    gap = packed_gap(policy, batch)
    value = "on" if gap <= TOLERANCE[policy.dtype] else "off"  # a NaN compares false
    told = f"the hidden states of {len(batch.example_ids)} of the run's own rows, packed, differ by {gap:.2g} of their"
    return Choice(value, f"{value} because {told} length from those of each row alone")


def _probe(train: Feed, micro_batch_tokens: int) -> Batch | None:
    """Pack the longest row and the first ones, cut where they would not fit; None where nothing is packed.

    It is never larger than a pass of the training.
    """
    longest = int(train.lengths.argmax())
    room = min(PROBE_TOKENS, max(micro_batch_tokens, int(train.lengths[longest])))
    most = max(1, int(room * LONGEST_SHARE))
    taken: list[Encoded] = []
    rows = [longest, *(i for i in range(min(len(train), PROBE_ROWS)) if i != longest)]
    for index in rows[:PROBE_ROWS]:
        end = min(int(train.lengths[index]), most, room)
        if end:
            item = train.items[index]
            taken.append(replace(item, token_ids=item.token_ids[:end], loss_mask=item.loss_mask[:end]))
            room -= end
    if len(taken) < 2:
        return None
    return collate(taken, [list(range(len(taken)))], pad_id=train.pad_id)
