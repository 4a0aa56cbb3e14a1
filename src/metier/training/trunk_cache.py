"""Frozen-trunk cache: what leaves the frozen part of a policy, computed once per example and read from then on.

    <folder>/  manifest.json  states.bin

Epochs after the first, and every validation, then cost the trained part alone. The states are made in one pass over the
feed, in batches by length: they depend on the feed and the policy, not on the step, so that a resume that has to make
them again makes the same. The key is whatever decides them (base, tokens, where the trunk ends, precision).
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from metier.core.errors import ConfigError
from metier.core.project import digest_file, disk_errors, fsync_directory, read_json, write_json
from metier.data.batching import micro_batches
from metier.models.trunk import Kept, Trunk, to_numpy

if TYPE_CHECKING:
    from metier.models.policy import Policy
    from metier.training.feed import Feed

STATES = "states.bin"
WORTH = 1.1
"""So many passes through the trunk a run must save per pass that making the cache takes."""
DISK_SHARE = 0.25
"""Of the free disk, at most."""
KEPT_AFTERWARDS = 2**30
"""Bytes up to which a cache stays for the next run with the same base and rows."""


class TrunkCache:
    """States of every example of a feed, through a memory map. Use `cached`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], lengths: npt.NDArray[np.int64]) -> None:
        self.dir = folder
        self.pooled = bool(manifest["pooled"])
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._states: Kept = np.memmap(
            folder / STATES, dtype=manifest["dtype"], mode="r", shape=tuple(manifest["shape"])
        )

    @property
    def num_bytes(self) -> int:
        """Size of the states."""
        return int(self._states.nbytes)

    def gather(self, indices: Sequence[int], rows: Sequence[Sequence[int]], width: int) -> Kept:
        """Return the states of one batch: (N, D), or (B, T, D) with zeros as padding.

        Args:
            indices: the step's examples as places in the feed; `rows` index into them.
            width: T.
        """
        if self.pooled:
            pooled_ND: Kept = self._states[[indices[i] for row in rows for i in row]]
            return pooled_ND  # fancy indexing copies: an array of its own
        out_BTD: Kept = np.zeros((len(rows), width, self._states.shape[1]), dtype=self._states.dtype)
        for b, places, kept in _segments([[indices[i] for i in row] for row in rows], self._offsets):
            out_BTD[b, places] = self._states[kept]
        return out_BTD

    @classmethod
    def cached(
        cls,
        folder: Path,
        key: str,
        policy: Policy,
        trunk: Trunk,
        feed: Feed,
        *,
        budget_tokens: int,
        dataset: str = "",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> TrunkCache:
        """Open the cache of a feed, or make it where there is none that fits and is whole.

        Args:
            dataset: digest of the version that the feed is of, by which an erasure finds caches of none.
            progress: called with (examples done, examples in all).

        Raises:
            MachineError: E420–E422, the disk is full or not writable.
        """
        found = _manifest(folder, key)
        if found is None:
            about = {"kind": "trunk", "key": key, "dataset": dataset}
            found = _build(folder, about, policy, trunk, feed, budget_tokens=budget_tokens, progress=progress)
        return cls(folder, found, feed.lengths)


def num_bytes(trunk: Trunk, feed: Feed, *, width: int, dtype: torch.dtype) -> int:
    """Return the size of a feed's cache."""
    vectors = len(feed) if trunk.pooled else int(feed.lengths.sum())
    return vectors * width * (4 if trunk.pooled else dtype.itemsize)


def worth(*, examples: int, train: int, validations: int, validation: int) -> bool:
    """Whether a run passes through the trunk often enough for a cache.

    Args:
        examples: that the run's steps take, repetitions counted.
        train, validation: examples in the two splits.
        validations: how often the second is passed through.
    """
    return examples + validations * validation >= WORTH * (train + validation)


def _manifest(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        manifest = read_json(folder / "manifest.json")
    except (ConfigError, NotADirectoryError):
        return None
    whole = manifest.get("key") == key and (folder / STATES).is_file()
    return manifest if whole and digest_file(folder / STATES) == manifest["digest"] else None


def _build(
    folder: Path,
    of: dict[str, str],
    policy: Policy,
    trunk: Trunk,
    feed: Feed,
    *,
    budget_tokens: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(folder):
        temporary.mkdir(parents=True)
        try:
            about = _write(temporary, policy, trunk, feed, budget_tokens, progress)
            manifest = {**of, **about, "digest": digest_file(temporary / STATES)}
            write_json(temporary / "manifest.json", manifest)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            fsync_directory(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _write(
    folder: Path,
    policy: Policy,
    trunk: Trunk,
    feed: Feed,
    budget_tokens: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    offsets = np.concatenate([[0], np.cumsum(feed.lengths)])
    everything = list(range(len(feed)))
    states: Any = None
    done = 0
    with policy.computing():
        # Not packed: in a whole feed rows of one length fill a pass, and attention has nothing to take apart.
        for rows in micro_batches(feed.lengths, budget_tokens=budget_tokens, packing=False):
            made = to_numpy(trunk.states(policy, feed.collate(everything, rows)))
            if states is None:
                shape = (len(feed) if trunk.pooled else int(offsets[-1]), made.shape[-1])
                _reserve(folder / STATES, math.prod(shape) * made.itemsize)
                states = np.memmap(folder / STATES, dtype=made.dtype, mode="r+", shape=shape)
            if trunk.pooled:
                states[[i for row in rows for i in row]] = made
            else:
                for b, places, kept in _segments(rows, offsets):
                    states[kept] = made[b, places]
            done += sum(map(len, rows))
            progress(done, len(feed))
    states.flush()
    return {"pooled": trunk.pooled, "dtype": str(states.dtype), "shape": list(states.shape)}


def _segments(rows: Sequence[Sequence[int]], offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, slice, slice]]:
    """Yield, per example of a batch, its row, its positions there, and its vectors in the file."""
    for b, row in enumerate(rows):
        start = 0
        for i in row:
            first, last = int(offsets[i]), int(offsets[i + 1])
            yield b, slice(start, start + last - first), slice(first, last)
            start += last - first


def _reserve(path: Path, size: int) -> None:
    """Take the space at once: a disk that fills up under a memory map is a signal that ends the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
