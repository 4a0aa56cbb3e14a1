"""The one loop: a generator of optimiser steps. Saving, printing, evaluating and stopping stand outside.

The order of examples is a pure function of (seed, step), and so is every random number: the generators are seeded
anew for each micro-batch from (seed, step, index). A resume therefore needs the weights, the optimiser's state and
the step, and nothing else can drift.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from metier.core.batch import Batch
from metier.core.errors import DataError, MachineError
from metier.core.sections import Training
from metier.data.batching import micro_batches, step_examples
from metier.models.memory import trim_heap
from metier.models.policy import Policy
from metier.training.method import Method
from metier.training.optim import Optimizer, clip, make_optimizer, schedule

TRIM_STEPS = 10
"""On a CPU, the heap's free pages go back to the system every so many steps."""

Collate = Callable[[Sequence[int], list[list[int]]], Batch]
"""(positions of the step's examples, rows of indices into them) → Batch; made by training/feed.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the loop will do; everything automatic has been decided."""

    steps: int
    peak_learning_rate: float
    warmup_steps: int
    micro_batch_tokens: int
    training: Training
    head_multiplier: float = 1.0


@dataclass(slots=True)
class State:
    """What changes from step to step, besides the weights."""

    optimizer: Optimizer
    step: int = 0
    tokens: int = 0
    supervised: int = 0
    examples: int = 0
    slots: int = 0
    seconds: float = 0.0
    micro_batch_tokens: int = 0
    planned_micro_batch_tokens: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """One optimiser step, after it was taken. `loss` is the mean per weight unit, in nats for cross-entropy."""

    step: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    grad_norm: float
    tokens: int
    slots: int
    supervised: int
    examples: int
    micro_batches: int
    seconds: float


def start(policy: Policy, plan: Plan) -> State:
    """Return the state before the first step."""
    optimizer = make_optimizer(
        policy.trained(),
        plan.training,
        peak=plan.peak_learning_rate,
        head_multiplier=plan.head_multiplier,
        hidden_matrices=policy.hidden_matrices(),
    )
    tokens = plan.micro_batch_tokens
    return State(optimizer, micro_batch_tokens=tokens, planned_micro_batch_tokens=tokens)


def train(
    policy: Policy,
    method: Method,
    *,
    lengths: npt.NDArray[np.int64],
    collate: Collate,
    plan: Plan,
    state: State,
) -> Iterator[StepInfo]:
    """Take optimiser steps from `state.step` to `plan.steps`, yielding after each.

    Raises:
        DataError: E370, a loss or gradient that is not finite; raised before the optimiser step, names the rows.
        MachineError: E412, memory ran out even with the smallest micro-batch.
    """
    rate = schedule(plan.training.lr_scheduler_type, steps=plan.steps, warmup_steps=plan.warmup_steps)
    trained = policy.trained()
    options = plan.training
    policy.train()
    while state.step < plan.steps:
        began = time.perf_counter()
        if not policy.base.model.training:  # a validation came between; to walk through all modules costs a short step
            policy.train()
        positions = step_examples(state.step, n=len(lengths), batch_size=options.batch_size, seed=options.seed)
        batches, terms = _gradients(policy, method, positions, lengths[positions], collate, plan, state)
        loss = sum(terms.values())
        norm = clip(trained, options.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            state.optimizer.zero_grad()
            raise _not_finite(policy, method, positions.tolist(), collate, state.step)
        factor = rate(state.step)
        state.optimizer.set_learning_rate(plan.peak_learning_rate * factor)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if policy.device.type == "cpu" and (state.step + 1) % TRIM_STEPS == 0:
            trim_heap()
        seconds = time.perf_counter() - began
        info = StepInfo(
            step=state.step + 1,
            loss=loss,
            terms=terms,
            learning_rate=plan.peak_learning_rate * factor,
            grad_norm=norm,
            tokens=sum(b.num_tokens for b in batches),
            slots=sum(b.num_slots for b in batches),
            supervised=sum(b.num_supervised for b in batches),
            examples=len(positions),
            micro_batches=len(batches),
            seconds=seconds,
        )
        state.step += 1
        state.tokens += info.tokens
        state.slots += info.slots
        state.supervised += info.supervised
        state.examples += info.examples
        state.seconds += seconds
        yield info


def _gradients(
    policy: Policy,
    method: Method,
    positions: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    collate: Collate,
    plan: Plan,
    state: State,
) -> tuple[list[Batch], dict[str, float]]:
    """Run the step's micro-batches forward and backward; when memory runs out, halve them and begin the step again."""
    while True:
        rows = micro_batches(lengths, budget_tokens=state.micro_batch_tokens, packing=plan.training.packing)
        batches = [collate(positions.tolist(), micro) for micro in rows]
        try:
            return batches, accumulate(policy, method, batches, plan.training.seed, state.step)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            state.optimizer.zero_grad()
            if len(batches) >= len(positions):
                raise MachineError(
                    412,
                    f"Memory ran out at step {state.step + 1} with one example per micro-batch",
                    received=f"longest example {int(lengths.max())} tokens",
                    fix="a shorter training.max_length, a smaller model, or adapter.kind=lora",
                ) from error
            state.micro_batch_tokens = max(1, state.micro_batch_tokens // 2)
            state.notes.append(
                f"memory ran out at step {state.step + 1}: training.micro_batch_tokens is now "
                f"{state.micro_batch_tokens}; the batch of an optimiser step stays as it was"
            )


def accumulate(policy: Policy, method: Method, batches: list[Batch], seed: int, step: int) -> dict[str, float]:
    """Run micro-batches forward and backward, gradients adding up; return each term's mean per weight unit."""
    weights: dict[str, float] = {}
    for batch in batches:
        for key, value in batch.weights.items():
            weights[key] = weights.get(key, 0.0) + value
    sums: dict[str, torch.Tensor] = {}
    for index, batch in enumerate(batches):
        seed_everything(seed, step, index)
        with policy.computing():
            terms = method.loss(policy, batch)
        parts = [t.total * (t.coefficient / max(weights[t.weight_key], 1e-12)) for t in terms]
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        for term, part in zip(terms, parts, strict=True):
            sums[term.name] = sums.get(term.name, torch.zeros(())) + part.detach().cpu()
    return {name: float(total) for name, total in sums.items()}


MEMORY_IS_OUT = (
    "DefaultCPUAllocator: can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # a library of CUDA takes memory of its own, past PyTorch's allocator
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What an error says that is not of PyTorch's own type for it."""


def seed_everything(*parts: int) -> None:
    """Seed python, numpy and torch from a tuple of integers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little")
    random.seed(value)
    np.random.seed(value % 2**32)
    # Not torch.manual_seed: it writes down the whole stack for a GPU that nobody has used yet, in every step.
    torch.default_generator.manual_seed(value % 2**63)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value % 2**63)
    if torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        torch.xpu.manual_seed_all(value % 2**63)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value % 2**63)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn an allocator's refusal outside of a micro-batch (loading, optimiser state, validation, saving) into E412.

    Raises:
        MachineError: E412.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise MachineError(
            412,
            "Memory ran out outside of a training step; the checkpoints before are untouched",
            fix="a smaller training.micro_batch_tokens (metier runs resume takes it), adapter.kind=lora, or a smaller "
            "model",
        ) from error


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(said in str(error) for said in MEMORY_IS_OUT)


def _not_finite(policy: Policy, method: Method, positions: list[int], collate: Collate, step: int) -> DataError:
    """Find the rows whose loss is not finite, one example at a time, so that the error can name them."""
    guilty: list[str] = []
    with torch.no_grad(), policy.computing():
        for index in range(len(positions)):
            batch = collate(positions, [[index]])
            if not all(math.isfinite(float(t.total)) for t in method.loss(policy, batch)):
                guilty.extend(batch.example_ids)
    where = f"rows {', '.join(guilty[:8])}" + (f" and {len(guilty) - 8} more" if len(guilty) > 8 else "")
    return DataError(
        370,
        f"The loss or its gradient is not finite at step {step + 1}; the step was not taken and nothing is lost",
        received=where if guilty else "every loss is finite, a gradient is not",
        fix="a lower training.learning_rate, or metier data preview of these rows; then metier runs resume",
    )
