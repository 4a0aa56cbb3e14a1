"""plan: what a recipe will take, in numbers, before anything slow starts.

Tokens, masking and leakage are counted on the real rows. Memory and time come from steps on tensors without data
(models/dryrun.py), priced by what this machine was measured to do (models/memory.py, models/duration.py). With
`measure`, a few real steps, the largest micro-batch and a real save replace both. The plan is kept in the run, and the
report shows it beside what happened.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, computed_field

from metier.actions import compiling, costs
from metier.actions.ahead import look_ahead
from metier.actions.compose import Parts, Progress, compose
from metier.actions.ladder import disk_bytes, disk_ladder, gigabytes, memory_ladder
from metier.actions.train import check_figures, check_recipe, to_be_measured
from metier.actions.trunk import choose
from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.core.types import SPLITS
from metier.data.batching import steps_per_epoch
from metier.evaluation import protocols
from metier.evaluation.predict import num_unread
from metier.governance import permission
from metier.models import memory, probe

TIGHT_SHARE = 0.85
"""From this share of the free memory on (±15 % is the plan's promise), a step gives every freed block back (up to a
third less, 40 % slower), and no block is compiled."""
SPREAD = (0.75, 1.5)
"""Range of a predicted time, as factors: the prediction was 0.92 to 1.19 times the measured CPU time of seven recipes
(LOG.md, 2026-11-21); a machine that others use is slower, never faster."""
ACCELERATOR_SPREAD = (0.3, 3.0)
"""What it reaches there is a guess (costs.ACCELERATOR_SHARE), hence the range."""
MEASURED_SPREAD = (0.85, 1.2)


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
        how = f"{costs.MEASURED_STEPS} measured steps" if self.measured else "estimated; --measure takes real steps"
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
        DataError: E326, E361, nothing can be measured; E350–E358, a row that the evaluation at the end could not read.
    """
    recipe = parts.recipe
    held_out = _held_out(parts, progress or protocols.silent)
    if progress:
        progress("what a step takes", 0, None)
    ahead = look_ahead(parts)
    trunk, device = choose(parts), parts.policy.device
    estimate, seconds = costs.predict(parts, ahead, kept=trunk.trunk is not None)
    shown = ("weights", "gradients", "optimizer", "activations", "runtime")
    memory_parts = {name: int(getattr(estimate, name)) for name in shown}
    memory_parts["allocator"] = estimate.held - estimate.peak
    peak = estimate.held
    spread = SPREAD if device.type == "cpu" else ACCELERATOR_SPREAD
    if measure:
        peak, seconds = costs.measure(parts, ahead, trunk.trunk, progress)
        memory_parts["allocator"] = 0  # what it keeps after a few steps is part of the measured peak
        spread = MEASURED_SPREAD
    available = available_memory_bytes(device)
    if trunk.trunk is None and not compiling.untried(parts, seconds.training):
        compiler = memory.COMPILER_BYTES
        # Where memory is tight, the run does without, unless it is told to.
        if recipe.training.torch_compile is True or peak + compiler <= TIGHT_SHARE * available:
            memory_parts["compiler"] = compiler
            peak += compiler
    validations = math.ceil(parts.plan.steps / parts.every_steps) if len(parts.validation) else 0
    made = Plan(
        **_data(parts),
        steps=parts.plan.steps,
        batch_size=recipe.training.batch_size,
        epochs=parts.plan.steps / steps_per_epoch(len(parts.train), recipe.training.batch_size),
        padding=ahead.padding,
        memory_bytes=int(peak),
        memory_parts=memory_parts,
        memory_available_bytes=available,
        trainable_parameters=estimate.num_trained,
        total_parameters=parts.policy.num_parameters,
        seconds=seconds.training,
        seconds_low=seconds.training * spread[0],
        seconds_high=seconds.training * spread[1],
        validations=validations,
        validation_seconds=seconds.validation * validations,
        **held_out,
        max_new_tokens=recipe.evaluation.max_new_tokens,
        disk_bytes=disk_bytes(parts, estimate, recipe.training.save_total_limit) + trunk.num_bytes,
        disk_free_bytes=shutil.disk_usage(parts.project.root).free,
        measured=measure,
        choices={**parts.choices, **({"trunk": trunk.reason} if trunk.reason else {})},
        permission=permission.marks(parts.dataset.manifest["sources"]),
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


def _data(parts: Parts) -> dict[str, Any]:
    """Return what the rows are: how many, their tokens, and what of them the division and max_length took."""
    manifest, lengths, report = parts.dataset.manifest, parts.train.lengths, parts.lengths
    proof = manifest.get("split_proof", {})
    return {
        "rows": {split: parts.dataset.count(split) for split in SPLITS},
        "tokens": int(lengths.sum()),
        "tokens_p50": int(np.percentile(lengths, 50)),
        "tokens_p99": int(np.percentile(lengths, 99)),
        "tokens_max": report.longest,
        "cut_rows": report.cut_rows,
        "dropped_rows": report.dropped_rows,
        "max_length": parts.encoder.max_length,
        "supervised_share": report.share_supervised,
        "leaks": {kind: int(num) for kind, num in proof.get("leaks", {}).items()},
        "groups_on_both_sides": int(proof.get("groups_on_both_sides", 0)),
        "given_test": any(source.get("split") == "test" for source in manifest.get("sources", [])),
        "quarantined": int(manifest.get("quarantine", {}).get("rows", 0)),
    }


def _held_out(parts: Parts, progress: protocols.Progress) -> dict[str, int]:
    """Return what the evaluation at the end has to do: rows, of these with an answer to write, and without a token."""
    recipe, head = parts.recipe, parts.policy.head is not None
    split, answers = to_be_measured(recipe, parts.dataset)
    tested = parts.dataset.count(split)
    writes = not head and answers != "continue"  # a text that goes on has nothing to be compared with
    unread = num_unread(
        parts.encoder,
        parts.dataset.iterate(split),
        head=head,
        by_label=answers == "single_label" and not head,
        progress=progress,
    )
    return {
        "tested_rows": tested,
        "written_rows": min(tested, recipe.evaluation.max_examples or tested) if writes else 0,
        "unread_rows": unread,
    }


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_plan(path: Path, made: Plan) -> None:
    """Keep the plan in a run directory."""
    write_json(path, made.model_dump(mode="json"))
