"""plan: what a recipe will take, in numbers, before anything slow starts.

Tokens, masking and leakage are counted on the real rows. Memory and time come from steps on tensors without data
(models/dryrun.py), priced by what this machine was measured to do (models/memory.py, models/duration.py). With
`measure`, a few real steps, the largest micro-batch and a real save replace both. The plan is kept in the run, and the
report shows it beside what happened.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, computed_field

from metier.actions import compiling
from metier.actions.ahead import Ahead, dry_run, forward, look_ahead, method_loss
from metier.actions.compose import Parts, Progress, compose
from metier.actions.ladder import disk_bytes, disk_ladder, gigabytes, memory_ladder
from metier.actions.train import check_figures, check_recipe
from metier.actions.trunk import choose
from metier.core import jobs
from metier.core.batch import Batch
from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.core.types import Split
from metier.data.batching import steps_per_epoch
from metier.evaluation.predict import num_unread
from metier.evaluation.protocols import silent
from metier.governance import permission
from metier.models import duration, memory, probe
from metier.models.policy import Policy
from metier.models.rates import accelerator_matmul, rates
from metier.models.trunk import Trunk, to_numpy
from metier.training import checkpoint, loop

MEASURED_STEPS = 5
TIGHT_SHARE = 0.85
"""From this share of the free memory on (±15 % is the plan's promise), a step gives every freed block back (up to a
third less, 40 % slower), and no block is compiled."""
SPREAD = (0.75, 1.5)
"""Range of a predicted time, as factors: the prediction was 0.92 to 1.19 times the measured CPU time of seven recipes
(LOG.md, 2026-11-21); a machine that others use is slower, never faster."""
FORWARD_SHARE = 1 / 3
"""Of the products of a step, those of its forward pass."""
ACCELERATOR_SHARE, ACCELERATOR_SPREAD = 0.3, (0.3, 3.0)
"""Share of an accelerator's matrix rate that training reaches: a guess, not measured here, hence the range."""


class Plan(BaseModel):
    """The plan of a run; `to_text` is what a terminal shows, the fields are what `--json` prints."""

    model_config = ConfigDict(extra="forbid")

    rows: dict[str, int]
    tokens: int
    tokens_p50: int
    tokens_p99: int
    tokens_max: int
    cut_rows: int
    dropped_rows: int
    max_length: int
    supervised_share: float
    leaks: dict[str, int]
    groups_on_both_sides: int
    given_test: bool
    quarantined: int
    steps: int
    batch_size: int
    epochs: float
    padding: float
    memory_bytes: int
    memory_parts: dict[str, int]
    memory_available_bytes: int
    trainable_parameters: int
    total_parameters: int
    seconds: float
    seconds_low: float
    seconds_high: float
    validations: int
    """Evaluations during training, where nothing stops it early."""
    validation_seconds: float
    """What all of them take together, on top of `seconds`; nothing is predicted for the evaluation at the end."""
    tested_rows: int
    """Rows that the run and its base are measured on at the end."""
    written_rows: int
    """Of these, how many both answer in free text, where a task has any."""
    unread_rows: int = 0
    """Of those that are measured by likelihood, how many have none: max_length leaves no token of a reply."""
    max_new_tokens: int
    disk_bytes: int
    disk_free_bytes: int
    measured: bool
    choices: dict[str, str]
    permission: list[str]
    ladder: list[str]
    """Where it does not fit: what to change, each with what it would take then."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fits(self) -> bool:
        """Whether the run finds the memory and the disk it needs."""
        return self.fits_memory and self.fits_disk

    @property
    def fits_memory(self) -> bool:
        """Whether what lives at the peak stays within the memory that the run may take.

        What the allocator would keep beyond that does not count: where memory is tight, a run gives it back at once.
        """
        return self.memory_bytes - self.memory_parts.get("allocator", 0) <= self.memory_available_bytes

    @property
    def fits_disk(self) -> bool:
        """Whether the checkpoints, and what is kept of a frozen trunk, find room."""
        return self.disk_bytes <= self.disk_free_bytes

    def to_text(self) -> str:
        """Return the plan as the lines a terminal shows."""
        cut = f"{self.cut_rows:,} rows cut at max_length={self.max_length}" if self.cut_rows else "no row cut"
        dropped = f"   {self.dropped_rows:,} rows without a supervised token left" if self.dropped_rows else ""
        parts = " · ".join(f"{name} {gigabytes(size)}" for name, size in self.memory_parts.items() if size >= 1e7)
        how = f"{MEASURED_STEPS} measured steps" if self.measured else "estimated; --measure takes real steps"
        width = max(10, *(len(k) for k in ("leakage", "parameters")))
        leak = f"{self.groups_on_both_sides} groups on both sides"
        if self.given_test:
            num = sum(self.leaks.values())
            leak += f" (given test file: {num} rows also in train or validation; both scores are shown)"
        lines = {
            "data": " · ".join(f"{n:,} {s}" for s, n in self.rows.items())
            + f"   p50 {self.tokens_p50:,} p99 {self.tokens_p99:,} tokens   {cut}{dropped}",
            "masking": f"loss on {self.supervised_share:.0%} of {self.tokens:,} tokens"
            "   see: metier data preview --tokens 3"
            if self.supervised_share
            else f"loss on the label of each row   {self.tokens:,} tokens are read",
            "leakage": leak,
            "steps": f"{self.steps:,} of {self.batch_size} examples   {self.epochs:.3g} epochs"
            f"   padding {self.padding:.1%}",
            "parameters": f"{self.trainable_parameters:,} of {self.total_parameters:,} train",
            "memory": f"{gigabytes(self.memory_bytes)} of {gigabytes(self.memory_available_bytes)} GB ({parts})"
            + ("" if self.measured else " ±15 %"),
            "time": f"training {_span(self.seconds_low)}–{_span(self.seconds_high)}{self._validating()} ({how})",
            "then": self._testing(),
            "disk": f"{gigabytes(self.disk_bytes)} of {gigabytes(self.disk_free_bytes)} GB",
            "policy": "   ".join(self.permission),
        }
        shown = [f"{name:<{width}} {text}" for name, text in lines.items() if text]
        if not self.fits:
            shown.append(f"{'does not fit':<{width}} " + "; or ".join(self.ladder))
        return "\n".join(shown)

    def _validating(self) -> str:
        if not self.validations:
            return ""
        scale = (self.seconds_low / self.seconds, self.seconds_high / self.seconds) if self.seconds else (1.0, 1.0)
        low, high = (_span(self.validation_seconds * factor) for factor in scale)
        times = "one evaluation" if self.validations == 1 else f"{self.validations:,} evaluations"
        return f" + {times} on validation {low}–{high}"

    def _testing(self) -> str:
        if not self.tested_rows:
            return ""
        text = f"the run and its untouched base on {self.tested_rows:,} held-out rows"
        if self.written_rows:
            text += f"; {self.written_rows:,} answers of up to {self.max_new_tokens} tokens are written by each"
        if self.unread_rows:
            text += (
                f"; {self.unread_rows:,} have no token of a reply within max_length={self.max_length}: no likelihood"
            )
        return f"{text}: not in the time above"


def plan(recipe: Recipe, project: Project, *, measure: bool = False, progress: Progress | None = None) -> Plan:
    """Return the plan of a recipe.

    Args:
        measure: take a few real optimiser steps and a real save in a temporary directory.

    Raises:
        MetierError: whatever would stop the run itself: the recipe, the rows, the base model, the machine.
    """
    check_recipe(recipe, project)
    parts = compose(recipe, project, progress=progress)
    check_figures(recipe, parts.dataset)
    return plan_parts(parts, measure=measure, progress=progress)


def plan_parts(parts: Parts, *, measure: bool = False, progress: Progress | None = None) -> Plan:
    """Return the plan of composed parts; with `measure` their policy has been trained for a few steps afterwards.

    Raises:
        DataError: E350–E358, a row that the evaluation at the end could not read.
    """
    recipe, manifest = parts.recipe, parts.dataset.manifest
    lengths = parts.train.lengths
    report = parts.lengths
    tested_split: Split = "test" if parts.dataset.count("test") else "validation"
    unread = num_unread(
        parts.encoder,
        parts.dataset.iterate(tested_split),
        head=parts.policy.head is not None,
        by_label=recipe.objective.task == "classify" and manifest.get("problem_type") == "single_label",
        progress=progress or silent,
    )
    if progress:
        progress("what a step takes", 0, None)
    ahead = look_ahead(parts)
    trunk, device = choose(parts), parts.policy.device
    estimate, seconds, validation = _predict(parts, ahead, kept=trunk.trunk is not None)
    shown = ("weights", "gradients", "optimizer", "activations", "runtime")
    memory_parts = {name: int(getattr(estimate, name)) for name in shown}
    memory_parts["allocator"] = estimate.held - estimate.peak
    peak = estimate.held
    epochs = parts.plan.steps / steps_per_epoch(len(parts.train), recipe.training.batch_size)
    spread = SPREAD if device.type == "cpu" else ACCELERATOR_SPREAD
    if measure:
        seconds, validation, peak = _measure(parts, ahead, trunk.trunk, progress)
        memory_parts["allocator"] = 0  # what it keeps after a few steps is part of the measured peak
        spread = (0.85, 1.2)
    available = available_memory_bytes(device)
    if trunk.trunk is None and not compiling.untried(parts, seconds):
        compiler = memory.COMPILER_BYTES
        # Where memory is tight, the run does without, unless it is told to.
        if recipe.training.torch_compile is True or peak + compiler <= TIGHT_SHARE * available:
            memory_parts["compiler"] = compiler
            peak += compiler
    proof = manifest.get("split_proof", {})
    validations = math.ceil(parts.plan.steps / parts.every_steps) if len(parts.validation) else 0
    tested = parts.dataset.count(tested_split)
    made = Plan(
        rows={s: parts.dataset.count(s) for s in ("train", "validation", "test")},
        tokens=int(lengths.sum()),
        tokens_p50=int(np.percentile(lengths, 50)),
        tokens_p99=int(np.percentile(lengths, 99)),
        tokens_max=report.longest,
        cut_rows=report.cut_rows,
        dropped_rows=report.dropped_rows,
        max_length=parts.encoder.max_length,
        supervised_share=report.share_supervised,
        leaks={k: int(v) for k, v in proof.get("leaks", {}).items()},
        groups_on_both_sides=int(proof.get("groups_on_both_sides", 0)),
        given_test=any(s.get("split") == "test" for s in manifest.get("sources", [])),
        quarantined=int(manifest.get("quarantine", {}).get("rows", 0)),
        steps=parts.plan.steps,
        batch_size=recipe.training.batch_size,
        epochs=epochs,
        padding=ahead.padding,
        memory_bytes=int(peak),
        memory_parts=memory_parts,
        memory_available_bytes=available,
        trainable_parameters=estimate.num_trained,
        total_parameters=parts.policy.num_parameters,
        seconds=seconds,
        seconds_low=seconds * spread[0],
        seconds_high=seconds * spread[1],
        validations=validations,
        validation_seconds=validation * validations,
        tested_rows=tested,
        written_rows=min(tested, recipe.evaluation.max_examples or tested) if _writes(parts) else 0,
        unread_rows=unread,
        max_new_tokens=recipe.evaluation.max_new_tokens,
        disk_bytes=disk_bytes(parts, estimate, recipe.training.save_total_limit) + trunk.num_bytes,
        disk_free_bytes=shutil.disk_usage(parts.project.root).free,
        measured=measure,
        choices={**parts.choices, **({"trunk": trunk.reason} if trunk.reason else {})},
        permission=permission.marks(manifest["sources"]),
        ladder=[],
    )
    if not made.fits_disk:
        made.ladder += disk_ladder(parts, estimate, trunk.num_bytes)
    if not made.fits_memory:
        made.ladder += memory_ladder(parts, estimate.peak, made.memory_available_bytes, kept=trunk.trunk is not None)
    return made


def available_memory_bytes(device: torch.device) -> int:
    """Return the memory that this process may take, with what it has taken already: of a GPU, else of the system."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    return probe.free_memory_bytes()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the high-water mark of this process's memory: of a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_resident_bytes()


# ───────────────────────────────────────────────────────────────────────────── inside


def _writes(parts: Parts) -> bool:
    """Whether the evaluation at the end lets the run and its base write: neither heads nor texts that go on do."""
    return parts.policy.head is None and "text" not in parts.dataset.manifest["kinds"]


def _predict(parts: Parts, ahead: Ahead, *, kept: bool) -> tuple[memory.Estimate, float, float]:
    """Return what a step needs, and the seconds of all steps and of one evaluation during them.

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
        return estimate, tokens * per_token, validated * per_token * FORWARD_SHARE
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
    return estimate, training, duration.WHOLE * per_token * validated


def _measure(parts: Parts, ahead: Ahead, trunk: Trunk | None, progress: Progress | None) -> tuple[float, float, int]:
    """Take a few real steps and a real save; return seconds of the training and of an evaluation, and the peak memory.

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
    return training, validating, peak_memory_bytes(parts.policy.device)


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


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_plan(path: Path, made: Plan) -> None:
    """Keep the plan in a run directory."""
    write_json(path, made.model_dump(mode="json"))
