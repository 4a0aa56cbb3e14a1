"""What a run costs: memory and time, predicted from what this machine was measured to do, or measured on real steps."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from metier.actions.ahead import Ahead, dry_run, forward, method_loss
from metier.actions.compose import Parts, Progress
from metier.core import jobs
from metier.core.batch import Batch
from metier.models import duration, memory
from metier.models.policy import Policy
from metier.models.rates import accelerator_matmul, rates
from metier.models.trunk import Trunk, to_numpy
from metier.training import checkpoint, loop

MEASURED_STEPS = 5
FORWARD_SHARE = 1 / 3
"""Of the products of a step, those of its forward pass."""
ACCELERATOR_SHARE = 0.3
"""Share of an accelerator's matrix rate that training reaches: a guess, not measured here."""


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of all steps of a run, and of one evaluation during them."""

    training: float
    validation: float


def predict(parts: Parts, ahead: Ahead, *, kept: bool) -> tuple[memory.Estimate, Time]:
    """Return what a step needs, and how long a run takes; nothing is run on data.

    Args:
        kept: they read the frozen trunk from a cache.
    """
    policy, dtype = parts.policy, str(parts.policy.dtype).removeprefix("torch.")
    dry = dry_run(parts, dtype)

    def loss(policy: Policy, batch: Batch) -> torch.Tensor:
        return method_loss(parts, policy, batch)

    def forward_loss(policy: Policy, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return method_loss(parts, policy, batch)

    def seen(batch: Batch) -> Batch:
        return dry.behind_trunk(batch) if kept else batch

    validated = int(parts.validation.lengths.sum())
    on_cpu = policy.device.type == "cpu"
    large = memory.large_block(jobs.worker_environment())
    typical = [dry.run(seen(batch), loss, large=large) for batch in ahead.typical]
    validation = dry.run(ahead.widest, forward, large=large)
    estimate = memory.estimate(
        dry,
        seen(ahead.largest),
        loss,
        passes=ahead.passes,
        shapes=ahead.shapes,
        steps=parts.plan.steps,
        large=large,
        others=[*typical, validation],
        allocator=on_cpu,
        optimizer=parts.recipe.training.optimizer,
    )
    if not on_cpu:
        tokens = float(parts.train.lengths.mean()) * parts.recipe.training.batch_size * parts.plan.steps
        per_token = estimate.flops_per_token / (accelerator_matmul(policy.device, policy.dtype) * ACCELERATOR_SHARE)
        return estimate, Time(tokens * per_token, validated * per_token * FORWARD_SHARE)
    measured, threads = rates(dtype), torch.get_num_threads()
    muon = parts.recipe.training.optimizer == "muon"
    matrices = [(p.shape[0], p.shape[1]) for p in memory.hidden_matrices(dry)] if muon else []
    step = duration.step_seconds(
        [trace.work for trace in typical],
        per_step=ahead.per_step,
        num_trained=estimate.num_trained,
        held=estimate.heap * (1 + memory.HOLES) / loop.TRIM_STEPS,
        rates=measured,
        threads=threads,
        orthogonalised=matrices,
    )
    once = 0.0
    if kept:
        through = [sum(duration.pass_seconds(dry.trunk_work(b), measured, threads).values()) for b in ahead.typical]
        tokens = int(parts.train.lengths.sum() + parts.validation.lengths.sum())
        once = duration.WHOLE * sum(through) / sum(b.num_tokens for b in ahead.typical) * tokens
    training = once + step * parts.plan.steps + estimate.products * measured.compile
    widest = dry.run(seen(ahead.widest), forward_loss, large=large).work
    per_token = sum(duration.pass_seconds(widest, measured, threads).values()) / ahead.widest.num_tokens
    return estimate, Time(training, duration.WHOLE * per_token * validated)


def measure(parts: Parts, ahead: Ahead, trunk: Trunk | None, progress: Progress | None) -> tuple[int, Time]:
    """Take a few real steps and a real save; return the peak memory in bytes, and how long a run takes.

    The largest micro-batch ahead runs forward and backward, too, and the widest validation forward: the first steps
    need not hold them.

    Args:
        ahead: what the first steps consist of.
        trunk: the frozen part, where the run will compute it once per example: its time is taken apart.
    """
    through: list[tuple[float, int]] = []

    def seen(batch: Batch) -> Batch:
        if trunk is None:
            return batch
        began = time.perf_counter()
        batch = replace(batch, trunk=to_numpy(trunk.states(parts.policy, batch)))
        through.append((time.perf_counter() - began, batch.num_tokens))
        return batch

    def collate(positions: Sequence[int], rows: list[list[int]]) -> Batch:
        return seen(parts.train.collate(positions, rows))

    parts.policy.trunk = trunk
    state = loop.start(parts.policy, parts.plan)
    steps = loop.train(
        parts.policy,
        parts.method,
        lengths=parts.train.lengths,
        collate=collate,
        plan=parts.plan,
        state=state,
    )
    seconds, before = [], 0
    for info in steps:
        seconds.append(info.seconds - sum(one for one, _ in through[before:]))
        before = len(through)
        if progress:
            progress("measured steps", len(seconds), min(MEASURED_STEPS, parts.plan.steps))
        if len(seconds) == MEASURED_STEPS:
            break
    if state.micro_batch_tokens == parts.plan.micro_batch_tokens:  # else memory ran out: the peak was reached
        _run_largest(parts, seen(ahead.largest), ahead.passes)
        parts.policy.eval()
        with loop.memory_errors():
            forward(parts.policy, ahead.widest)
    validating = _validation_seconds(parts, seen(ahead.widest))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=parts.project.cache_dir) as folder:
        checkpoint.save(Path(folder), parts.policy, state, digests={}, figures={})
    saving = time.perf_counter() - began
    # The first step pays for warming up; the median of the rest is what a step takes.
    typical = float(np.median(seconds[1:] or seconds))
    saves = math.ceil(parts.plan.steps / parts.save_steps)
    once = 0.0
    if through:
        tokens = int(parts.train.lengths.sum() + parts.validation.lengths.sum())
        once = sum(one for one, _ in through) / sum(count for _, count in through) * tokens
    training = once + typical * parts.plan.steps + saving * saves
    return memory.peak_bytes(parts.policy.device), Time(training, validating)


def _validation_seconds(parts: Parts, batch: Batch) -> float:
    """Return the seconds of an evaluation during training, from one of its passes."""
    parts.policy.eval()
    began = time.perf_counter()
    with torch.no_grad(), parts.policy.computing():
        parts.method.measure(parts.policy, batch)
    return (time.perf_counter() - began) / batch.num_tokens * int(parts.validation.lengths.sum())


def _run_largest(parts: Parts, batch: Batch, passes: int) -> None:
    """Run a micro-batch as a step would, without taking the step.

    Raises:
        MachineError: E412, memory ran out.
    """
    parts.policy.train()
    with loop.memory_errors():
        for _ in range(passes):
            with parts.policy.computing():
                total = method_loss(parts, parts.policy, batch)
            total.backward()  # type: ignore[no-untyped-call]
    for parameter in parts.policy.trained().values():
        parameter.grad = None
