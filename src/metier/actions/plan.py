"""plan: what a recipe will take, in numbers, before anything slow starts.

Tokens, masking and leakage are counted on the real rows; memory comes from a step on tensors without data
(models/memory.py); time from FLOPs and this machine's measured matrix rate. With `measure`, a few real steps and a
real save replace both. The plan is kept in the run, and the report shows it beside what happened.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from metier.actions.compose import Parts, Progress, compose
from metier.actions.train import check_kinds
from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.data.batching import micro_batches, step_examples, steps_per_epoch
from metier.models import memory, probe
from metier.training import checkpoint, loop

EFFICIENCY = 0.30
"""Share of the matrix rate that a whole training step reaches; benchmarks/ holds the measured shares."""
MEASURED_STEPS = 5


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
        """Whether the predicted peak stays within the memory that is free now."""
        return self.memory_bytes <= self.memory_available_bytes

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
    shape = _micro_batch_shape(parts)
    estimate = memory.estimate(
        parts.base.model.config,
        adapter=recipe.adapter.kind,
        options=recipe.adapter.options,
        rows=shape["rows"],
        length=shape["length"],
        dtype=str(parts.policy.dtype).removeprefix("torch."),
        kind=parts.base.kind,
        supervised_share=report.share_supervised,
        num_outputs=parts.policy.head.num_outputs if parts.policy.head is not None else 0,
    )
    shown = ("weights", "gradients", "optimizer", "activations", "head", "runtime")
    peak, memory_parts = estimate.peak, {name: int(getattr(estimate, name)) for name in shown}
    epochs = parts.plan.steps / steps_per_epoch(len(parts.train), recipe.training.batch_size)
    trained_tokens = int(lengths.sum() * epochs)
    rate = probe.matmul_rate(str(parts.policy.dtype).removeprefix("torch."))
    seconds = trained_tokens * estimate.flops_per_token / (rate * EFFICIENCY)
    spread = (0.6, 1.7)
    if measure:
        seconds, peak = _measure(parts)
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
        padding=shape["padding"],
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
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


# ───────────────────────────────────────────────────────────────────────────── inside


def _micro_batch_shape(parts: Parts) -> dict[str, Any]:
    """The largest micro-batch of the first steps, and the padding over them."""
    training = parts.recipe.training
    rows = length = slots = tokens = 0
    for step in range(min(parts.plan.steps, 20)):
        chosen = parts.train.lengths[
            step_examples(step, n=len(parts.train), batch_size=training.batch_size, seed=training.seed)
        ]
        for micro in micro_batches(chosen, budget_tokens=parts.plan.micro_batch_tokens, packing=training.packing):
            longest = max(sum(int(chosen[i]) for i in row) for row in micro)
            slots += len(micro) * longest
            tokens += sum(int(chosen[i]) for row in micro for i in row)
            if len(micro) * longest > rows * length:
                rows, length = len(micro), longest
    return {"rows": rows, "length": length, "padding": 1 - tokens / slots}


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
