"""Keep what leaves the frozen part of a run's model: whether it pays, the proof on a probe, the cache on disk."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

import metier
from metier.actions.compose import Parts, Progress, feed_key
from metier.core.batch import Batch
from metier.core.page import size
from metier.core.project import digest_json
from metier.core.types import Split
from metier.models.trunk import Trunk
from metier.training.feed import Feed
from metier.training.trunk_cache import DISK_SHARE, KEPT_AFTERWARDS, TrunkCache, num_bytes, worth

PROBE_ROWS, PROBE_TOKENS = 8, 512
RECIPE_SAYS_NO = "off because the recipe says so"


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the trunk is kept (None: it is not), why, and how much disk that takes."""

    trunk: Trunk | None
    reason: str = ""
    num_bytes: int = 0


def choose(parts: Parts) -> Choice:
    """Decide by rule; nothing is computed yet. A policy without a frozen part has no reason either.

    What an earlier start of the same run chose (`parts.choices`) stays, however full the disk is now: states that are
    made in other batches differ in their last bits.
    """
    before = parts.choices.get("trunk", "")
    trunk = Trunk.of(parts.policy)
    training = parts.recipe.training
    if trunk is None:
        return Choice(None)
    if not training.cache_frozen:
        return Choice(None, RECIPE_SAYS_NO)
    if before.startswith("off") and before != RECIPE_SAYS_NO:  # a resume may turn it on
        return Choice(None, before)
    if not worth(
        examples=parts.plan.steps * training.batch_size,
        train=len(parts.train),
        validations=parts.plan.steps // parts.every_steps,
        validation=len(parts.validation),
    ):
        return Choice(None, "off because the run passes over its rows too seldom")
    needed = sum(_size(parts, trunk, feed) for _, feed in _feeds(parts))
    free = shutil.disk_usage(parts.project.root).free
    if needed > DISK_SHARE * free and not before:
        return Choice(None, f"off because its {size(needed)} are over a quarter of the free disk")
    what = "the whole base is" if trunk.pooled else f"{trunk.depth} of {len(trunk.blocks)} blocks are"
    return Choice(trunk, f"kept because {what} frozen; {size(needed)} on disk", needed)


def keep(parts: Parts, progress: Progress) -> int:
    """Make or open the caches that `choose` asks for; the feeds of the parts read from them afterwards.

    Returns:
        Their bytes on disk; 0 where nothing is kept.

    Raises:
        MachineError: E420–E422, the disk is full or not writable.
    """
    choice = choose(parts)
    if choice.trunk is None:
        if choice.reason:
            parts.choices["trunk"] = choice.reason
        return 0
    if not choice.trunk.holds(parts.policy, _probe(parts)):
        parts.choices["trunk"] = "off because on a probe a pass that starts behind it differs from a whole one"
        return 0
    for split, feed in _feeds(parts):
        folder, key = _place(parts, choice.trunk, split)
        cache = TrunkCache.cached(
            folder,
            key,
            parts.policy,
            choice.trunk,
            feed,
            budget_tokens=parts.plan.micro_batch_tokens,
            dataset=parts.dataset.digest,
            progress=functools.partial(progress, f"frozen part over {split}"),
        )
        setattr(parts, split, replace(feed, trunk=cache))
    parts.policy.trunk = choice.trunk
    parts.choices["trunk"] = choice.reason
    return sum(feed.trunk.num_bytes for _, feed in _feeds(parts) if feed.trunk is not None)


def bytes_there(parts: Parts) -> int:
    """Return how much of what `choose` asks for lies on the disk already, from an earlier start or another run."""
    choice = choose(parts)
    folders = [_place(parts, choice.trunk, split)[0] for split, _ in _feeds(parts)] if choice.trunk else []
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*"))


def clear(parts: Parts) -> None:
    """Remove the caches that are too large to wait for another run, once the training is over."""
    for split, feed in _feeds(parts):
        if feed.trunk is not None:
            setattr(parts, split, replace(feed, trunk=None))
            if feed.trunk.num_bytes > KEPT_AFTERWARDS:
                shutil.rmtree(feed.trunk.dir, ignore_errors=True)


def _feeds(parts: Parts) -> list[tuple[Split, Feed]]:
    found = (("train", parts.train), ("validation", parts.validation))
    return [(cast(Split, split), feed) for split, feed in found if len(feed)]


def _size(parts: Parts, trunk: Trunk, feed: Feed) -> int:
    return num_bytes(trunk, feed, width=parts.policy.width, dtype=parts.policy.dtype)


def _place(parts: Parts, trunk: Trunk, split: Split) -> tuple[Path, str]:
    head = parts.policy.head
    key = digest_json(
        {
            "base": [parts.base.digest, parts.base.config_digest],
            "tokens": feed_key(split, parts.dataset, parts.method, parts.encoder),
            "adapter": parts.recipe.adapter.kind,
            "depth": trunk.depth,
            "pooling": head.pooling if trunk.pooled and head is not None else None,
            "dtype": str(parts.policy.dtype),
            "metier": metier.__version__,
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": parts.policy.device.type,
        }
    )
    return parts.project.cache_dir / "trunk" / key[:32], key


def _probe(parts: Parts) -> Batch:
    """A small batch of the run's own rows, in the layout of its training."""
    taken: list[int] = []
    for index, length in enumerate(parts.train.lengths.tolist()):
        if taken and (len(taken) == PROBE_ROWS or sum(parts.train.lengths[taken]) + length > PROBE_TOKENS):
            break
        taken.append(index)
    places = list(range(len(taken)))
    return parts.train.collate(taken, [places] if parts.plan.training.packing else [[place] for place in places])
