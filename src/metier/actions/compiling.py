"""Whether a run compiles the blocks of its model: by rule it might pay, and a trial on the run's own rows shows it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metier.actions.compose import Parts, Progress
from metier.core.batch import Batch
from metier.core.errors import ConfigError
from metier.data.batching import micro_batches, step_examples
from metier.models import memory
from metier.models.compiled import CompiledBlocks
from metier.models.fused_choice import no_compiler
from metier.models.probe import BEGAN_WITH, Choice
from metier.training import loop

LEAST_SECONDS = 240.0
"""Compiling takes ten to thirty seconds and saves a tenth to a quarter: below it, a run ends before that has paid."""
REPEATS = 3
GAIN = 0.97
"""Compiled passes must take at most this share of the plain ones' time."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest difference of the gradient, as a share of its length."""
KEY = "torch_compile"
BY_RECIPE = "off because the recipe says so"


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial found. Seconds are those of one forward and backward pass; `gap` is the gradients' difference."""

    plain_seconds: float
    compiled_seconds: float
    compiling_seconds: float
    gap: float


def untried(parts: Parts, seconds: float) -> str:
    """Return why a run that trains for so long will not try to compile; empty where it will.

    Args:
        parts: of the run.
        seconds: of training, as predicted.
    """
    said = parts.recipe.training.torch_compile
    if said is False:
        return BY_RECIPE
    short = f"the training is shorter than {LEAST_SECONDS / 60:.0f} minutes"
    return _not_at_all(parts) or (short if said == "auto" and seconds < LEAST_SECONDS else "")


def choose(
    parts: Parts, *, seconds_left: float, pinned: Mapping[str, str], progress: Progress, room: bool = True
) -> Choice:
    """Decide, after a trial where the rule says that it may pay; on `on`, the policy's passes run compiled from now on.

    Args:
        parts: of the run, before its next step; the frozen trunk has been put behind a cache, if it will be.
        seconds_left: of training, as the plan sees it.
        pinned: what an earlier start of the same run chose, which stays: compiled sums round differently.
        room: whether the memory holds the compiler, too.

    Raises:
        ConfigError: E279, the recipe says `torch_compile: true` and it cannot be done.
    """
    said = parts.recipe.training.torch_compile
    if said is False:
        return Choice("off", BY_RECIPE)
    before = pinned.get(KEY) if said == "auto" else None
    reason = parts.choices.get(KEY, f"{before} {BEGAN_WITH}")
    why_not = _not_at_all(parts) if before else untried(parts, seconds_left)
    if said == "auto" and before is None and not why_not and not room:
        why_not = f"memory is tight, and the compiler takes {memory.COMPILER_BYTES / 1e9:.1f} GB"
    if before == "off":
        return Choice("off", reason)
    if not why_not:
        progress("compiling the model's blocks", 0, None)
        batch = _probe(parts)
        blocks = CompiledBlocks(parts.policy)
        try:
            found = try_out(parts, blocks, batch, timed=before is None)
        except Exception as error:  # whatever the compiler or the family cannot do: the plain way is always there
            parts.policy.compiled = None
            why_not = f"the blocks cannot be compiled ({type(error).__name__})"
        else:
            tells = (
                f"a pass takes {found.compiled_seconds:.2f} s instead of {found.plain_seconds:.2f}, after "
                f"{found.compiling_seconds:.0f} s of compiling; its gradient differs by {found.gap:.1g} of its length"
            )
            if not found.gap <= TOLERANCE[parts.policy.dtype]:  # a NaN compares false
                why_not = f"the compiled blocks' gradient differs by {found.gap:.2g} of its length on a probe"
            elif before == "on":
                parts.policy.compiled = blocks
                return Choice("on", reason)
            elif said is True or found.compiled_seconds <= GAIN * found.plain_seconds:
                parts.policy.compiled = blocks
                return Choice("on", f"on because {tells}")
            else:
                why_not = f"in a trial {tells}"
    if said is True:
        raise ConfigError(
            279,
            "The blocks of this model cannot be compiled here",
            place=parts.recipe.place("training.torch_compile"),
            received=why_not,
            fix="training.torch_compile=auto",
        )
    return Choice("off", f"off because {why_not}")


def try_out(parts: Parts, blocks: CompiledBlocks, batch: Batch, *, timed: bool = True) -> Trial:
    """Run one micro-batch forward and backward both ways; weights, gradients and counters stay as they were."""
    policy = parts.policy
    trained = policy.trained()

    def once(compiled: CompiledBlocks | None) -> float:
        policy.train()
        policy.compiled = compiled
        began = time.perf_counter()
        loop.accumulate(policy, parts.method, [batch], parts.plan.training.seed, 0)
        return time.perf_counter() - began

    def forget() -> None:
        policy.compiled = None
        for parameter in trained.values():
            parameter.grad = None

    try:
        once(None)
        wanted = {name: p.grad.to(policy.dtype) for name, p in trained.items() if p.grad is not None}
        forget()
        compiling = once(blocks)
        gap = _gap({name: trained[name].grad for name in wanted}, wanted)
        wanted.clear()
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(REPEATS if timed else 0):
            for way in (True, False):
                seconds[way].append(once(blocks if way else None))
        plain, compiled = (min(seconds[way], default=math.nan) for way in (False, True))
        return Trial(plain, compiled, compiling, gap)
    finally:
        forget()


def _not_at_all(parts: Parts) -> str:
    """Why nothing needs to be tried; empty where it may be."""
    policy = parts.policy
    if policy.device.type != "cpu":
        return "only blocks on a CPU are compiled yet"
    if policy.base.kind != "causal" or not policy.base.attention.packing:
        return "only decoders with our attention are compiled yet"
    if policy.trunk is not None:
        return "the frozen part of the model is kept, and little is left to compile"
    if not policy.adapter.trainable():
        return "no block trains"
    return no_compiler()


def _probe(parts: Parts) -> Batch:
    """The widest micro-batch of the first step: the same in every start of a run, since kernels are made for it."""
    training = parts.plan.training
    positions = step_examples(0, n=len(parts.train), batch_size=training.batch_size, seed=training.seed)
    rows = micro_batches(
        parts.train.lengths[positions], budget_tokens=parts.plan.micro_batch_tokens, packing=training.packing
    )
    batches = [parts.train.collate(positions.tolist(), micro) for micro in rows]
    return max(batches, key=lambda batch: batch.num_slots)


def _gap(found: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor]) -> float:
    """Return the length of the difference of two gradients as a share of the second's."""
    apart = sum(float((_float(found[name], like) - like.float()).square().sum()) for name, like in wanted.items())
    length = sum(float(like.float().square().sum()) for like in wanted.values())
    return math.sqrt(apart / max(length, 1e-30))


def _float(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float32) if gradient is None else gradient.float()
