"""What a training step will need, before it runs: bytes by component and FLOPs per token.

Instead of a formula per model family, the step itself is carried out on tensors without data (models/dryrun.py), and
the highest sum of what lives at once is the figure. Added by rule: the optimizer's state, the buffer of a save, and
what Python and its libraries take before any tensor exists.

    peak = runtime + weights + optimizer + max(gradients + activations, save)        what lives
    held = peak + holes + compiled                                                   what the process holds

glibc keeps small freed blocks for itself, and steps of differing lengths leave holes between them that the next step
cannot use: the heap grows to nearly twice of what lives in it. From which size on a block goes back to the system
depends on the process's environment (core/jobs.py gives a worker its own): `large_block` reads it. oneDNN compiles each
low-precision matrix product for each shape, and keeps the last 1,024.

FLOPs are those of speed.md: 2 per multiply-add and weight forward, as much again for each gradient that is really
made, and attention by the causal half.
"""

from __future__ import annotations

import ctypes
import math
import platform
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metier.core.batch import Batch
from metier.models.dryrun import LARGE_BYTES, DryRun, Loss, Trace, Work

RUNTIME_BYTES = 450 * 2**20
"""Resident memory of Python after one step of a tiny model, everything imported: 451 MiB measured (Linux, CPU)."""
COMPILER_BYTES = 500 * 2**20
"""What PyTorch's compiler adds, imported and used for the blocks of a model: resident memory went from 811 to 1,310 MiB
while metier/nano's were compiled (LOG.md, 2026-11-21)."""
STATE_BYTES = 8
"""AdamW: two float32 moments per trained weight; Muon keeps one."""
HOLES = 0.85
"""Free bytes in glibc's heap per live byte in it, at the worst moment between two calls of `trim_heap`: 0.6 to 1.1 in
seven recipes after 60 to 300 steps under glibc's defaults (LOG.md, 2026-11-21)."""
HOLES_STEPS = 15
"""The holes come with the steps: 1 − exp(−steps / 15) of them are there. Half of what MiniLM's process grew by in 100
steps it had grown by after 10 to 20 (LOG.md, 2026-11-21), and five steps of a 0.5 B model left a third."""
COMPILED_BYTES = 2 * 258_376
"""A compiled matrix product: two buffers for machine code (seen by logging malloc; oneDNN of PyTorch 2.13)."""
COMPILED_KEPT = 1024
"""Compiled products that oneDNN keeps (its ONEDNN_PRIMITIVE_CACHE_CAPACITY)."""
M_MMAP_THRESHOLD = -3
"""The number of this setting in glibc's malloc.h."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of one training step, by component, and FLOPs per token."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Highest sum of live tensors in forward, loss and backward, beyond weights and all gradients."""
    save: int
    """What a checkpoint adds while it is written: one tensor at a time, which from a GPU comes to the host's memory."""
    runtime: int
    holes: int
    """Freed memory that the allocator keeps."""
    compiled: int
    """Machine code of the matrix products, for all shapes of the run."""
    num_parameters: int
    num_trained: int
    flops_per_token: float
    """Forward and backward, per non-padding token."""
    work: Work
    """What the operations of the micro-batch do (models/duration.py)."""
    products: int
    """Matrix products that are compiled over the run."""
    heap: int
    """Live bytes in blocks that the allocator keeps when they are freed, at the peak of the micro-batch with most."""

    @property
    def peak(self) -> int:
        """The largest sum of bytes that live at once."""
        step = self.gradients + self.activations
        return self.runtime + self.weights + self.optimizer + max(step, self.save)

    @property
    def held(self) -> int:
        """The largest resident size of the process."""
        return self.peak + self.holes + self.compiled


def estimate(
    run: DryRun,
    batch: Batch,
    loss: Loss | None = None,
    *,
    passes: int = 1,
    shapes: int = 1,
    steps: int | None = None,
    large: int = LARGE_BYTES,
    others: Sequence[Trace] = (),
    allocator: bool = True,
    optimizer: str = "adamw",
) -> Estimate:
    """Return what one training step needs.

    Args:
        run: the policy without data.
        batch: the largest micro-batch.
        loss: what is trained on; None ends at the hidden states.
        passes: 1 where a step is one micro-batch, 2 where gradients add up over several.
        shapes: different shapes of micro-batches in the run.
        steps: optimiser steps of the run; None: so many that the heap has its final holes.
        large: bytes from which on the allocator gives a freed block back to the system.
        others: other passes of the run. What is a large block in the largest micro-batch may be a small one in another,
            and leave a hole; a validation fills the whole token budget where steps are short.
        allocator: count what glibc's allocator and compiled matrix products hold; False for memory of a GPU.
        optimizer: the recipe's `training.optimizer`.
    """
    trace = run.run(batch, loss, passes=passes, large=large)
    heap = max(each.heap for each in (trace, *others))
    most = max(each.peak for each in (trace, *others))
    products = trace.products * shapes + max((each.products for each in others), default=0)
    base, trained = run.policy.base, run.trained
    everything = {id(t): t for t in [*base.model.parameters(), *base.model.buffers(), *trained]}
    num_trained = sum(p.numel() for p in trained)
    gradients = 4 * num_trained
    by_muon = sum(p.numel() for p in hidden_matrices(run)) if optimizer == "muon" else 0
    grown = 1.0 if steps is None else 1 - math.exp(-steps / HOLES_STEPS)
    glibc = allocator and platform.libc_ver()[0] == "glibc"
    return Estimate(
        weights=sum(t.numel() * t.element_size() for t in everything.values()),
        gradients=gradients,
        optimizer=STATE_BYTES * num_trained - STATE_BYTES // 2 * by_muon,
        activations=max(0, most - gradients),
        save=max((4 * p.numel() for p in trained), default=0),
        runtime=RUNTIME_BYTES,
        holes=int(HOLES * heap * grown) if glibc else 0,
        compiled=COMPILED_BYTES * min(COMPILED_KEPT, products) if allocator else 0,
        num_parameters=sum(p.numel() for p in run.own.values()),
        num_trained=num_trained,
        flops_per_token=_flops(run, batch),
        work=trace.work,
        products=products,
        heap=heap,
    )


def hidden_matrices(run: DryRun) -> list[Tensor]:
    """Return the trained matrices between hidden states, which Muon may step."""
    trained = run.policy.trained()
    return [trained[name] for name in sorted(run.policy.hidden_matrices())]


def large_block(environment: Mapping[str, str]) -> int:
    """Return from how many bytes on the allocator of a process with this environment gives freed blocks back."""
    set_by_user = re.search(r"glibc\.malloc\.mmap_threshold=(\d+)", environment.get("GLIBC_TUNABLES", ""))
    return int(set_by_user[1]) if set_by_user else LARGE_BYTES


def peak_resident_bytes() -> int:
    """Return the high-water mark of this process's resident memory.

    On Linux not getrusage: its `ru_maxrss` of a new process begins with what its parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_bytes(device: torch.device) -> int:
    """Return the high-water mark of this process's memory: of a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def trim_heap() -> bool:
    """Give the free pages of glibc's heap back to the system; return whether it did.

    Steps of differing lengths leave holes that the next step cannot use: without this, a small model's process grew by
    5 MB a step (LOG.md, 2026-11-21). A call takes about 50 ms.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and malloc_trim(0) == 1


def release_freed_memory(threshold_bytes: int = 2**20) -> bool:
    """Make glibc give every freed block of at least this size back to the system; return whether it did.

    Call it once, early in a process that trains on the CPU. Measured on a 15 M model: peak memory 17–34 % lower and
    equal to the estimate, system time per step up by about 0.3 s in 6. False on systems without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_THRESHOLD, threshold_bytes) == 1


# ───────────────────────────────────────────────────────────────────────────── arithmetic


def _flops(run: DryRun, batch: Batch) -> float:
    """Return forward and backward FLOPs per token.

    A weight costs 2 forward, 2 for the gradient of its input where something below it trains, 2 for its own gradient
    where it trains itself. Attention costs 4·ctx·heads·width per layer forward, half of it causal, and twice that
    backward.
    """
    base, trained = run.policy.base, run.trained
    config = base.model.config.get_text_config()
    output: Any = None
    if base.kind == "causal" and run.policy.head is None:
        output = base.model.get_output_embeddings()
    trains = {id(p) for p in trained}
    skipped = {id(base.model.get_input_embeddings().weight)} | ({id(output.weight)} if output is not None else set())
    total, below = 0.0, id(base.model.get_input_embeddings().weight) in trains
    for parameter in base.model.parameters():
        if id(parameter) in skipped:
            continue
        here = id(parameter) in trains
        if parameter.ndim == 2:
            total += parameter.numel() * (2.0 + 2.0 * (below or here) + 2.0 * here)
        below = below or here
    if output is not None:
        share = batch.num_supervised / batch.num_tokens
        total += share * output.weight.numel() * (2.0 + 2.0 * bool(trained) + 2.0 * (id(output.weight) in trains))
    heads = int(getattr(config, "num_attention_heads", 0))
    head_width = getattr(config, "head_dim", None) or int(config.hidden_size) // max(1, heads)
    context = _context(batch) * (0.5 if base.kind == "causal" else 1.0)
    return total + 4.0 * context * heads * head_width * int(config.num_hidden_layers) * (3.0 if trained else 1.0)


def _context(batch: Batch) -> float:
    """Return how long the segment of a token is, on average over the tokens."""
    lengths = np.array([n for row in batch.segments_BT for n in np.unique(row[row > 0], return_counts=True)[1]])
    return float((lengths**2).sum() / lengths.sum())
