"""plan: what a recipe will take, in numbers, before anything slow starts.

Tokens, masking and leakage are counted on the real rows. Memory and time come from steps on tensors without data
(models/dryrun.py), priced by what this machine was measured to do (models/memory.py, models/duration.py). With
`measure`, a few real steps and a real save replace both. The plan is kept in the run, and the report shows it beside
what happened.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from metier.actions.compose import Parts, Progress, compose
from metier.actions.train import check_kinds
from metier.core import jobs
from metier.core.batch import Batch
from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.data.batching import micro_batches, step_examples, steps_per_epoch
from metier.models import duration, memory
from metier.models.dryrun import DryRun
from metier.models.policy import Policy
from metier.models.rates import accelerator_matmul, rates
from metier.training import checkpoint, loop

MEASURED_STEPS = 5
LOOKED_AT_STEPS = 200
"""Steps whose micro-batches are looked at: which is the largest, what is typical, how many shapes there are."""
TYPICAL = (1 / 6, 1 / 2, 5 / 6)
"""Micro-batches at these places, ordered by what attention costs, stand for all of them."""
SPREAD = (0.75, 1.5)
"""Range of a predicted time, as factors: the prediction was 0.92 to 1.19 times the measured CPU time of seven recipes
(LOG.md, 2026-11-21); a machine that others use is slower, never faster."""
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
    disk_bytes: int
    disk_free_bytes: int
    measured: bool
    choices: dict[str, str]
    permission: list[str]
    ladder: list[str]

    @property
    def fits(self) -> bool:
        """Whether what lives at the peak stays within the memory that is free now.

        What the allocator would keep beyond that does not count: where memory is tight, a run gives it back at once.
        """
        return self.memory_bytes - self.memory_parts.get("allocator", 0) <= self.memory_available_bytes

    def to_text(self) -> str:
        """Return the plan as the lines a terminal shows."""
        cut = f"{self.cut_rows:,} rows cut at max_length={self.max_length}" if self.cut_rows else "no row cut"
        dropped = f"   {self.dropped_rows:,} rows without a supervised token left" if self.dropped_rows else ""
        parts = " · ".join(f"{name} {_gb(size)}" for name, size in self.memory_parts.items() if size >= 1e7)
        how = f"{MEASURED_STEPS} measured steps" if self.measured else "estimated; --measure takes real steps"
        width = max(10, *(len(k) for k in ("leakage", "parameters")))
        leak = f"{self.groups_on_both_sides} groups on both sides"
        if self.given_test:
            leak += f" (given test file: {sum(self.leaks.values())} rows also in train; both scores are shown)"
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
            "memory": f"{_gb(self.memory_bytes)} of {_gb(self.memory_available_bytes)} GB ({parts})"
            + ("" if self.measured else " ±15 %"),
            "time": f"{_span(self.seconds_low)}–{_span(self.seconds_high)} ({how})",
            "disk": f"{_gb(self.disk_bytes)} of {_gb(self.disk_free_bytes)} GB",
            "policy": "   ".join(self.permission),
        }
        shown = [f"{name:<{width}} {text}" for name, text in lines.items() if text]
        if not self.fits:
            shown.append(f"{'does not fit':<{width}} " + "; or ".join(self.ladder))
        return "\n".join(shown)


def plan(recipe: Recipe, project: Project, *, measure: bool = False, progress: Progress | None = None) -> Plan:
    """Return the plan of a recipe.

    Args:
        measure: take a few real optimiser steps and a real save in a temporary directory.

    Raises:
        MetierError: whatever would stop the run itself: the recipe, the rows, the base model, the machine.
    """
    check_kinds(recipe)
    return plan_parts(compose(recipe, project, progress=progress), measure=measure)


def plan_parts(parts: Parts, *, measure: bool = False) -> Plan:
    """Return the plan of composed parts; with `measure` their policy has been trained for a few steps afterwards."""
    recipe, manifest = parts.recipe, parts.dataset.manifest
    lengths = parts.train.lengths
    report = parts.lengths
    ahead = _look_ahead(parts)
    estimate, seconds = _predict(parts, ahead)
    shown = ("weights", "gradients", "optimizer", "activations", "runtime")
    memory_parts = {name: int(getattr(estimate, name)) for name in shown}
    memory_parts["allocator"] = estimate.held - estimate.peak
    peak = estimate.held
    epochs = parts.plan.steps / steps_per_epoch(len(parts.train), recipe.training.batch_size)
    spread = SPREAD if parts.policy.device.type == "cpu" else ACCELERATOR_SPREAD
    if measure:
        seconds, peak = _measure(parts)
        memory_parts["allocator"] = 0  # what it keeps after a few steps is part of the measured peak
        spread = (0.85, 1.2)
    proof = manifest.get("split_proof", {})
    free = shutil.disk_usage(parts.project.root).free
    return Plan(
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
        memory_available_bytes=available_memory_bytes(),
        trainable_parameters=estimate.num_trained,
        total_parameters=estimate.num_parameters,
        seconds=seconds,
        seconds_low=seconds * spread[0],
        seconds_high=seconds * spread[1],
        disk_bytes=_disk(recipe, estimate),
        disk_free_bytes=free,
        measured=measure,
        choices=parts.choices,
        permission=_permission(recipe),
        ladder=_ladder(recipe, parts.plan.micro_batch_tokens),
    )


def available_memory_bytes() -> int:
    """Return the memory this process may take: of the device where there is one, else what the system has free."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory_bytes() -> int:
    """Return the high-water mark of this process's memory: of the device where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return memory.peak_resident_bytes()


# ───────────────────────────────────────────────────────────────────────────── inside


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What the first steps of a run consist of."""

    largest: Batch
    typical: list[Batch]
    per_step: float
    """Micro-batches in a step."""
    shapes: int
    padding: float


def _look_ahead(parts: Parts) -> _Ahead:
    training, feed = parts.recipe.training, parts.train
    found: list[tuple[float, list[int], list[list[int]], tuple[int, int]]] = []
    steps = min(parts.plan.steps, LOOKED_AT_STEPS)
    tokens = 0
    for step in range(steps):
        positions = step_examples(step, n=len(feed), batch_size=training.batch_size, seed=training.seed)
        lengths = feed.lengths[positions]
        tokens += int(lengths.sum())
        for rows in micro_batches(lengths, budget_tokens=parts.plan.micro_batch_tokens, packing=training.packing):
            attended = float(sum(int(lengths[i]) ** 2 for row in rows for i in row))
            found.append((attended, positions.tolist(), rows, feed.shape(positions, rows)))
    found.sort(key=lambda one: one[0])
    largest = max(found, key=lambda one: one[3][0] * one[3][1])
    slots = sum(rows * width for *_, (rows, width) in found)
    return _Ahead(
        largest=feed.collate(largest[1], largest[2]),
        typical=[feed.collate(*found[int(len(found) * place)][1:3]) for place in TYPICAL],
        per_step=len(found) / steps,
        shapes=len({shape for *_, shape in found}),
        padding=1 - tokens / slots,
    )


def _predict(parts: Parts, ahead: _Ahead) -> tuple[memory.Estimate, float]:
    """Return what a step needs, and the seconds of all steps."""
    policy, dtype = parts.policy, str(parts.policy.dtype).removeprefix("torch.")
    dry = DryRun(
        parts.base.model.config,
        adapter=parts.recipe.adapter.kind,
        options=parts.recipe.adapter.options,
        kind=parts.base.kind,
        head=parts.method.head(),
        dtype=dtype,
        support=parts.base.attention,
    )

    def loss(policy: Policy, batch: Batch) -> torch.Tensor:
        return torch.stack([term.total * term.coefficient for term in parts.method.loss(policy, batch)]).sum()

    on_cpu = policy.device.type == "cpu"
    passes = 2 if ahead.per_step > 1 else 1
    large = memory.large_block(jobs.worker_environment())
    # A block of the largest micro-batch has smaller ones of its kind in the others, which may stay in the heap.
    smaller = sum(batch.num_slots for batch in ahead.typical) / len(ahead.typical) / ahead.largest.num_slots
    estimate = memory.estimate(
        dry,
        ahead.largest,
        loss,
        passes=passes,
        shapes=ahead.shapes,
        large=large / smaller,
        allocator=on_cpu,
    )
    if not on_cpu:
        tokens = float(parts.train.lengths.mean()) * parts.recipe.training.batch_size * parts.plan.steps
        rate = accelerator_matmul(policy.device, policy.dtype)
        return estimate, tokens * estimate.flops_per_token / (rate * ACCELERATOR_SHARE)
    measured = rates(dtype)
    step = duration.step_seconds(
        [dry.run(batch, loss, large=large).work for batch in ahead.typical],
        per_step=ahead.per_step,
        num_trained=estimate.num_trained,
        held=estimate.heap * (1 + memory.HOLES) / loop.TRIM_STEPS,
        rates=measured,
        threads=torch.get_num_threads(),
    )
    return estimate, step * parts.plan.steps + estimate.products * measured.compile


def _measure(parts: Parts) -> tuple[float, int]:
    """Take a few real steps and a real save; return seconds of the whole training and the peak memory."""
    state = loop.start(parts.policy, parts.plan)
    steps = loop.train(
        parts.policy,
        parts.method,
        lengths=parts.train.lengths,
        collate=parts.train.collate,
        plan=parts.plan,
        state=state,
    )
    seconds = []
    for info in steps:
        seconds.append(info.seconds)
        if len(seconds) == MEASURED_STEPS:
            break
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=parts.project.cache_dir) as folder:
        checkpoint.save(Path(folder), parts.policy, state, digests={}, figures={})
    saving = time.perf_counter() - began
    # The first step pays for warming up; the median of the rest is what a step takes.
    typical = float(np.median(seconds[1:] or seconds))
    saves = math.ceil(parts.plan.steps / parts.save_steps)
    return typical * parts.plan.steps + saving * saves, peak_memory_bytes()


def _disk(recipe: Recipe, estimate: memory.Estimate) -> int:
    # Weights and two moments in float32 per checkpoint; the newest ones, the best, and the one being written.
    return 12 * estimate.num_trained * (recipe.training.save_total_limit + 2)


def _permission(recipe: Recipe) -> list[str]:
    stated = [s.permission for s in recipe.data.sources]
    known = [p for p in stated if p is not None]
    licensed = sum(p.license is not None for p in known)
    personal = sum(p.personal_data is not False for p in known) + (len(stated) - len(known))
    return [
        f"license stated for {licensed}/{len(stated)} sources",
        f"permission stated for {len(known)}/{len(stated)}",
        f"personal data possible in {personal}",
    ]


def _ladder(recipe: Recipe, tokens: int) -> list[str]:
    steps = [f"training.micro_batch_tokens={max(256, tokens // 4)} (an execution key: the result is the same)"]
    if recipe.adapter.kind == "full":
        steps.append("adapter.kind=lora")
    steps.append(f"training.max_length={max(64, recipe.training.max_length // 2)}")
    steps.append("a smaller model.name_or_path")
    return steps


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:.1f}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_plan(path: Path, made: Plan) -> None:
    """Keep the plan in a run directory."""
    write_json(path, made.model_dump(mode="json"))
