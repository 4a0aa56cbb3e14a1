"""What to change where a plan does not fit, what changes the result least first, each rung with what it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from metier.actions.ahead import dry_run, forward, look_ahead, method_loss
from metier.actions.compose import Parts
from metier.core.batch import Batch
from metier.core.errors import ConfigError
from metier.data.encoded import Encoded
from metier.models import memory, probe
from metier.models.policy import Policy
from metier.training.feed import Feed

MICRO_BATCH, MAX_LENGTH = "training.micro_batch_tokens", "training.max_length"
WORTHWHILE = 0.99
"""A change that leaves more than this share of the peak is not named."""


def gigabytes(size: float) -> str:
    """Return a size in GB as the plan shows it."""
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:.1f}"


def disk_bytes(parts: Parts, estimate: memory.Estimate, keep: int) -> int:
    """Return what the checkpoints of a run take at most.

    Args:
        keep: `training.save_total_limit`.
    """
    steps, every = parts.plan.steps, (parts.save_steps, *([parts.every_steps] if len(parts.validation) else []))
    saves = len({steps, *(step for each in every for step in range(each, steps, each))})
    # The newest ones, the best, and the one being written: weights and the optimizer's moments in float32 each.
    return (4 * estimate.num_trained + estimate.optimizer) * min(keep + 2, saves)


def disk_ladder(parts: Parts, estimate: memory.Estimate, trunk_bytes: int) -> list[str]:
    """Return the changes that lower what is written, each with what would be written then."""
    keep = parts.recipe.training.save_total_limit
    needed, rungs = disk_bytes(parts, estimate, keep) + trunk_bytes, []
    if trunk_bytes:
        rungs.append(f"training.cache_frozen=false → predicted {gigabytes(needed - trunk_bytes)} GB of disk")
    least = disk_bytes(parts, estimate, 1) + trunk_bytes
    if least < needed:
        rungs.append(f"training.save_total_limit=1 → predicted {gigabytes(least)} GB of disk")
    return [*rungs, "a project on a disk with more room"]


def memory_ladder(parts: Parts, now_bytes: int, available_bytes: int, *, kept: bool) -> list[str]:
    """Return the changes that lower the peak, each with what would live then; together where none alone is enough.

    Each costs a dry run.

    Args:
        now_bytes: what lives at the peak as it is.
        available_bytes: what may.
        kept: the run reads its frozen trunk from a cache.
    """
    found = [(change, _live_bytes(parts, change, kept=kept)) for change in _changes(parts)]
    rungs = [(change, live) for change, live in found if live is not None and live < WORTHWHILE * now_bytes]
    if len(rungs) > 1 and all(live > available_bytes for _, live in rungs):
        every = {name: value for change, _ in rungs for name, value in change.items()}
        together = _live_bytes(parts, every, kept=kept)
        rungs += [(every, together)] if together is not None else []
    told = []
    for change, live in rungs:
        keys = " ".join(f"{name}={value}" for name, value in change.items())
        same = " (an execution key: the result is the same)" if set(change) == {MICRO_BATCH} else ""
        told.append(f"{keys}{same} → predicted {gigabytes(live)} GB" + (", too much" if live > available_bytes else ""))
    return [*told, "a smaller model.name_or_path"]


def _changes(parts: Parts) -> list[dict[str, Any]]:
    """Return what may lower the peak, what changes the result least first."""
    recipe = parts.recipe
    found: list[dict[str, Any]] = []
    tokens = max(256, parts.plan.micro_batch_tokens // 4)
    if tokens < parts.plan.micro_batch_tokens:
        found.append({MICRO_BATCH: tokens})
    # Only where `auto` would choose it: emulated, bfloat16 is hundreds of times slower.
    if recipe.model.dtype == "float32" and probe.choose_dtype("auto", str(parts.policy.device)).value == "bfloat16":
        found.append({"model.dtype": "bfloat16"})
    if recipe.adapter.kind == "full":
        found.append({"adapter.kind": "lora"})
    shorter = max(64, parts.encoder.max_length // 2)
    if recipe.training.truncation != "error" and shorter < parts.train.lengths.max():
        found.append({MAX_LENGTH: shorter})
    return found


def _live_bytes(parts: Parts, change: Mapping[str, Any], *, kept: bool) -> int | None:
    """Return what would live at the peak with these keys of the recipe; None where they do not suit the base."""
    dtype = change.get("model.dtype", str(parts.policy.dtype).removeprefix("torch."))
    train, validation = parts.train, parts.validation
    if MAX_LENGTH in change:
        most, truncation = change[MAX_LENGTH], parts.recipe.training.truncation
        train, validation = (_shortened(feed, most, truncation=truncation) for feed in (train, validation))
    changed = replace(
        parts,
        recipe=parts.recipe.with_values(change),
        plan=replace(parts.plan, micro_batch_tokens=change.get(MICRO_BATCH, parts.plan.micro_batch_tokens)),
        train=train,
        validation=validation,
    )
    try:
        dry = dry_run(changed, dtype)
    except ConfigError:  # no layer of this family that lora knows
        return None
    ahead = look_ahead(changed)
    batch = dry.behind_trunk(ahead.largest) if kept else ahead.largest

    def loss(policy: Policy, batch: Batch) -> Tensor:
        return method_loss(changed, policy, batch)

    others = [dry.run(ahead.widest, forward)]
    return memory.estimate(
        dry, batch, loss, passes=ahead.passes, others=others, optimizer=changed.recipe.training.optimizer
    ).peak


def _shortened(feed: Feed, most: int, *, truncation: str) -> Feed:
    items = _Shortened(feed.items, most, left=truncation == "left")
    return replace(feed, items=items, lengths=np.minimum(feed.lengths, most))


@dataclass(frozen=True, slots=True)
class _Shortened(Sequence[Encoded]):
    """Rows as a smaller `max_length` would leave them: how many tokens, and which have a loss."""

    items: Sequence[Encoded]
    most: int
    left: bool

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        item = self.items[index]
        stays = slice(-self.most, None) if self.left else slice(self.most)
        loss_mask = item.loss_mask[stays].copy()
        loss_mask[:1] = 0  # nothing predicts the first token
        return replace(item, token_ids=item.token_ids[stays], loss_mask=loss_mask)
