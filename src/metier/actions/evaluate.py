"""Evaluate a run against its untouched base, write its report, and compare two runs."""

from __future__ import annotations

import importlib.resources
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import metier
from metier.actions import summary
from metier.actions.compose import Parts, Progress, checkpoint_of, compose, for_inference, temperature_of
from metier.actions.recipes import RESOLVED, WRITTEN, kept
from metier.core import audit, erase_runs, refs
from metier.core.errors import ConfigError
from metier.core.locks import together
from metier.core.project import Project, digest_file, digest_json, read_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.core.types import SPLITS, Split, measured_split
from metier.core.yamlmarks import NOT_YAML, load_value
from metier.data.canaries import is_canary, without
from metier.evaluation import card, suite
from metier.evaluation import report as reports
from metier.evaluation.erase_reports import warned
from metier.evaluation.inputs import EvaluationInput
from metier.evaluation.records import read_predictions
from metier.evaluation.result import Report
from metier.evaluation.versus import Comparison, versus
from metier.governance.permission import permitted
from metier.metrics import Prediction, metric
from metier.training import checkpoint
from metier.training.validate import validate

__all__ = ["Comparison", "check_targets", "compare", "evaluate", "evaluate_parts", "folder_of", "loaded", "reported"]

RELOAD_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far a reloaded checkpoint's validation loss may lie from the recorded one, as a share of max(1, loss)."""


def evaluate(project: Project, ref: str, split: Split = "test", progress: Progress | None = None) -> Report:
    """Load a run's checkpoint in this process, measure it and its untouched base, and write the report.

    The run's own report and card are those of its chosen checkpoint on test; anything else is written beside them
    (`folder_of`).

    Args:
        ref: `12`, `run:12@best`, `run:12@step-200`, `last`, or a run's directory, with `@best` or without.

    Raises:
        ConfigError: E232 no such run, E235 no such checkpoint, E251 not a reference, E272 the targets are not those of
            the run's start.
        DataError: E360, the split has no rows.
        PermissionDenied: E601–E606, its rows may not be used any more.
    """
    run = Run(project.run_dir(refs.run_and_checkpoint(ref)[0]))
    dataset = run.status().get("dataset")
    permitted(kept(run.dir), project, again=True, dataset=dataset, purpose="evaluation")
    with together(project, f"metier evaluate {run.number}"):  # predictions and report hold rows
        parts, run = loaded(project, ref, progress)
        return evaluate_parts(parts, run, split=split, path=_named(run, ref), progress=progress)


def loaded(project: Project, ref: str, progress: Progress | None = None) -> tuple[Parts, Run]:
    """Return a run's parts with the weights of the checkpoint that `ref` names, verified; on this machine's device."""
    run = Run(project.run_dir(refs.run_and_checkpoint(ref)[0]))
    path = _named(run, ref)
    wrong = checkpoint.problems(path)
    if wrong:
        raise ConfigError(
            237,
            f"The checkpoint does not verify: {wrong[0]}",
            place=str(path),
            fix=f"metier runs show {run.number} lists the others",
        )
    recipe, pinned = for_inference(kept(run.dir), read_json(run.dir / "environment.json").get("pinned", {}))
    dataset = run.status().get("dataset")
    parts = compose(recipe, project, pinned=pinned, dataset=dataset, trained=path, progress=progress)
    parts.policy.restore(path)
    if parts.policy.head is not None:
        parts.policy.head.temperature = temperature_of(run.dir, path)
    parts.policy.eval()
    return parts, run


def _named(run: Run, ref: str) -> Path:
    """The directory of the checkpoint that a reference names; without `@…` it is the best."""
    which = refs.run_and_checkpoint(ref)[1] or "best"
    return checkpoint_of(run.dir, which.removeprefix("step-").lstrip("0") or "0")


def evaluate_parts(
    parts: Parts, run: Run, *, split: Split = "test", path: Path | None = None, progress: Progress | None = None
) -> Report:
    """Measure composed parts; write the report where `folder_of` says, and the card where that is the run itself.

    Args:
        path: the checkpoint that the policy holds; default: the chosen one.

    Raises:
        ConfigError: E272, the targets are not those of the run's start.
    """
    recipe, dataset = parts.recipe, parts.dataset
    check_targets(recipe, run)
    path = path or checkpoint_of(run.dir)
    if split == "test":
        split = measured_split({name: dataset.count(name) for name in SPLITS})
    data, training = summary.data_summary(parts, split), summary.training_summary(parts, run, path)
    folder = folder_of(run, split=split, step=training.best_step, rows=data.rows)
    measured, trained = dataset.examples(split), dataset.examples("train")
    planted = {example.id: example for example in trained if is_canary(example)}
    given = EvaluationInput(
        policy=parts.policy,
        train=without(trained),
        canaries=tuple(planted.values()),
        validation=dataset.examples("validation"),
        test=measured,
        split=split,
        task=recipe.objective.task,
        labels=tuple(dataset.manifest.get("labels") or ()),
        problem_type=dataset.manifest.get("problem_type"),
        metrics=recipe.evaluation.metrics,
        targets=recipe.objective.targets,
        slices=recipe.evaluation.slices,
        leaking_ids=frozenset(dataset.manifest.get("split_proof", {}).get("leaking_ids", []))
        if split == "test"
        else frozenset(),
        general_texts=general_texts(),
        baseline=recipe.evaluation.baseline,
        max_new_tokens=recipe.evaluation.max_new_tokens,
        max_examples=recipe.evaluation.max_examples,
        bootstrap_samples=recipe.evaluation.bootstrap_samples,
        confidence=recipe.evaluation.confidence,
        seed=recipe.training.seed,
        run=run.id,
        name=recipe.name,
        description=recipe.objective.description,
        data=data,
        training=training,
        parity=_reloaded(parts, run, path) if _same_rows(parts, path) else {},
        reproduce=_reproduce(parts, run, path, "" if split == measured_split(data.rows) else f" --split {split}"),
        base_model=_base_model(parts),
        predictions_dir=folder / run.predictions_dir.name,
    )
    if progress is not None:
        given = replace(given, progress=progress)
    found = suite.evaluate(given)
    for text in erase_runs.warnings(run.status()):
        found = warned(found, text)
    reports.write(found, folder)
    if folder == run.dir:
        card.write(found, folder)
    audit.append(parts.project, "evaluate", run=run.id, split=split, verdict=found.verdict, dataset=dataset.digest)
    return found


def folder_of(run: Run, *, split: str, step: int, rows: Mapping[str, int]) -> Path:
    """Return where an evaluation of a run is written.

    That of the chosen checkpoint on test (on validation where the dataset has no test rows) is the run's own; any other
    has a folder under `evaluations/`, so that no figure of the run is replaced by one that was asked for in passing.

    Args:
        step: of the checkpoint that was measured.
        rows: split → rows of the dataset.
    """
    name = f"step-{step:06d}"
    if split == measured_split(rows) and name == checkpoint_of(run.dir).name:
        return run.dir
    return run.evaluations_dir / f"{split}-{name}"


def check_targets(recipe: Recipe, run: Run) -> None:
    """Refuse targets that were changed after the run was made: they would be set to fit the result.

    Raises:
        ConfigError: E272.
    """
    frozen = run.status().get("targets_digest")
    found = digest_json(recipe.objective.targets)
    if frozen not in (None, found):
        raise ConfigError(
            272,
            f"The targets of run {run.number} were changed after it was made",
            place=str(run.dir / RESOLVED),
            received=", ".join(f"{k} {v}" for k, v in recipe.objective.targets.items()) or "no targets",
            expected=f"the targets with digest {frozen[:12]}…, as frozen before training",
            fix=f"put objective.targets back to what {WRITTEN} beside it says, or set new ones for a new run: "
            f"metier runs resume {run.number} --fork",
        )


def compare(project: Project, one: str, other: str) -> Comparison:
    """Return the paired differences between two evaluated runs, on the rows that both answered.

    A figure that is not of the same text in both is left out, and the comparison's notes say so.
    A reference with a checkpoint (`12@step-200`) means the evaluation of that one.

    Raises:
        ConfigError: E254, a run without a report.
        DataError: E362, no row in common.
    """
    sides = [_measured(project, ref) for ref in (one, other)]
    (name, report, rows), (other_name, other_report, other_rows) = sides
    theirs = {f.metric for f in other_report.systems[0].figures}
    shared = [f.metric for f in report.systems[0].figures if f.metric in theirs]
    return versus(
        rows,
        other_rows,
        [metric(spec) for spec in sorted(shared, key=lambda m: m != report.primary_metric)],
        names=(name, other_name),
        splits=(report.split, other_report.split),
        confidence=report.confidence,
    )


def _measured(project: Project, ref: str) -> tuple[str, Report, list[Prediction]]:
    run = Run(project.run_dir(refs.run_and_checkpoint(ref)[0]))
    report, folder, asked = reported(run, ref)
    if report is None:
        of = run.report_of_another() if folder == run.dir else ""
        raise ConfigError(
            254,
            f"Run {asked} has no report {'of its chosen checkpoint' if of else 'yet'}",
            place=run.dir.name,
            received=f"a report of {of}" if of else "",
            fix=f"metier evaluate {asked}",
        )
    return f"run {asked}", report, read_predictions(folder / run.predictions_dir.name / f"{report.split}-run.jsonl")


def reported(run: Run, ref: str) -> tuple[Report | None, Path, str]:
    """Return the report of a reference's checkpoint, the folder where it lies or would lie, and the reference in short.

    The report is None where that checkpoint was not measured, though the run may hold the report of one that it had
    chosen before.
    """
    if not refs.run_and_checkpoint(ref)[1] or (path := _named(run, ref)) == checkpoint_of(run.dir):
        current = (run.dir / "report.json").exists() and not run.report_of_another()
        return (_report(run.dir) if current else None), run.dir, str(run.number)
    folders = [run.evaluations_dir / f"{split}-{path.name}" for split in ("test", "validation")]
    found = next((f for f in folders if (f / "report.json").exists()), None)
    return (_report(found) if found else None), found or folders[0], f"{run.number}@{path.name}"


def _report(folder: Path) -> Report:
    return Report.model_validate(read_json(folder / "report.json"))


def general_texts() -> list[str]:
    """Return the general texts that ship with Metier for the forgetting probe, written for it."""
    text = importlib.resources.files("metier.actions").joinpath("assets/general.txt").read_text(encoding="utf-8")
    return [part.strip() for part in text.split("\n\n\n") if part.strip()]


# ───────────────────────────────────────────────────────────────────────────── facts for the report


def _same_rows(parts: Parts, path: Path) -> bool:
    """Whether a checkpoint's figures are of the rows that are here; an erasure takes some of them out."""
    found: str | None = read_json(path / "state.json").get("digests", {}).get("dataset")
    return found in (None, parts.dataset.digest)


def _reloaded(parts: Parts, run: Run, path: Path) -> dict[str, Any]:
    """Recompute a checkpoint's validation loss from what is on disk and judge it by what training saw (pitfall 9).

    The tolerance is that of the coarser of both precisions: a run may be measured on another machine.
    """
    state = read_json(path / "state.json")
    recorded = state["figures"]
    if not len(parts.validation) or "loss" not in recorded:
        return {}
    figures = validate(
        parts.policy,
        parts.method,
        # The whole model, not what a cache kept of its frozen part: a checkpoint is used without one.
        replace(parts.validation, trunk=None),
        # What it had come down to when memory ran out, which is also what the recorded loss was computed with.
        budget_tokens=min(parts.plan.micro_batch_tokens, state.get("micro_batch_tokens", math.inf)),
        packing=parts.plan.training.packing,
    )
    environment = run.dir / "environment.json"
    pinned = read_json(environment).get("pinned", {}) if environment.exists() else {}
    here = str(parts.policy.dtype).removeprefix("torch.")
    allowed = max(RELOAD_TOLERANCE[dtype] for dtype in (here, pinned.get("dtype", here)))
    tolerance = allowed * max(1.0, abs(recorded["loss"]))
    difference = abs(figures["loss"] - recorded["loss"])
    return {
        "reload": {
            "checkpoint": path.name,
            "recorded_loss": recorded["loss"],
            "reloaded_loss": figures["loss"],
            "largest_difference": difference,
            "tolerance": tolerance,
            "passed": difference <= tolerance,
        }
    }


def _reproduce(parts: Parts, run: Run, path: Path, rows: str) -> dict[str, str]:
    which = "" if path == checkpoint_of(run.dir) else f"@{path.name}"
    return {
        "command": f"metier train {run.dir.parent.name}/{run.dir.name}/{RESOLVED}",
        "evaluate": f"metier evaluate {run.number}{which}{rows}",
        "recipe digest": digest_file(run.dir / RESOLVED),
        "dataset digest": parts.dataset.digest,
        "base digest": parts.base.digest,
        "targets digest": str(run.status().get("targets_digest", "")),
        "seed": str(parts.recipe.training.seed),
        "metier": metier.__version__,
        **{k: str(v) for k, v in checkpoint.versions(parts.policy.device).items()},
    }


def _base_model(parts: Parts) -> dict[str, Any]:
    return {
        "name": parts.base.name,
        "digest": parts.base.digest,
        "parameters": parts.base.num_parameters,
        "dtype": str(parts.policy.dtype).removeprefix("torch."),
        **({"license": stated} if (stated := _license(parts.base.path)) else {}),
    }


def _license(folder: Path | None) -> str:
    """The license that a base model's own card states."""
    card_file = folder / "README.md" if folder is not None else None
    if card_file is None or not card_file.is_file():
        return ""
    lines = card_file.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return ""
    front = itertools.takewhile(lambda line: line.rstrip() != "---", lines[1:])
    try:
        facts = load_value("\n".join(front))
    except NOT_YAML:  # somebody else's file, which need not be well formed
        return ""
    return str(facts.get("license") or "") if isinstance(facts, dict) else ""
