"""Evaluate a run against its untouched base, write its report, and compare two runs."""

from __future__ import annotations

import importlib.resources
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import metier
from metier.actions import summary
from metier.actions.compose import Parts, Progress, checkpoint_of, compose, for_inference
from metier.actions.recipes import kept
from metier.core import audit, refs
from metier.core.errors import ConfigError
from metier.core.project import Project, digest_file, read_json
from metier.core.run import Run
from metier.core.types import Split
from metier.evaluation import card, suite
from metier.evaluation import report as reports
from metier.evaluation.inputs import EvaluationInput
from metier.evaluation.records import read_predictions
from metier.evaluation.result import Report
from metier.evaluation.versus import Comparison, versus
from metier.metrics import Prediction, metric
from metier.training import checkpoint
from metier.training.validate import validate

__all__ = ["Comparison", "compare", "evaluate", "evaluate_parts", "loaded"]


def evaluate(project: Project, ref: str, split: Split = "test", progress: Progress | None = None) -> Report:
    """Load a run's checkpoint in this process, measure it and its untouched base, and write the report.

    Args:
        ref: `12`, `run:12@best`, `run:12@step-200`, `last`.

    Raises:
        ConfigError: E232 no such run, E235 no such checkpoint.
        DataError: E360, the split has no rows.
    """
    parts, run = loaded(project, ref, progress)
    return evaluate_parts(parts, run, split=split, path=_named(run, ref), progress=progress)


def loaded(project: Project, ref: str, progress: Progress | None = None) -> tuple[Parts, Run]:
    """Return a run's parts with the weights of the checkpoint that `ref` names, verified; on this machine's device."""
    run = Run(project.run_dir(ref.partition("@")[0]))
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
    parts = compose(recipe, project, pinned=pinned, dataset=dataset, progress=progress)
    parts.policy.restore(path)
    parts.policy.eval()
    return parts, run


def _named(run: Run, ref: str) -> Path:
    """The directory of the checkpoint that a reference names; without `@…` it is the best."""
    which = refs.parse(ref, default="run").version or "best"
    return checkpoint_of(run.dir, which.removeprefix("step-").lstrip("0") or "0")


def evaluate_parts(
    parts: Parts, run: Run, *, split: Split = "test", path: Path | None = None, progress: Progress | None = None
) -> Report:
    """Measure composed parts; write report and card into the run.

    Args:
        path: the checkpoint that the policy holds; default: the chosen one.
    """
    recipe, dataset = parts.recipe, parts.dataset
    path = path or checkpoint_of(run.dir)
    if not dataset.count(split) and split == "test" and dataset.count("validation"):
        split = "validation"
    measured = dataset.examples(split)
    given = EvaluationInput(
        policy=parts.policy,
        train=dataset.examples("train"),
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
        data=summary.data_summary(parts),
        training=summary.training_summary(parts, run, path),
        parity=_reloaded(parts, path),
        reproduce=_reproduce(parts, run, path),
        base_model=_base_model(parts),
        predictions_dir=run.predictions_dir,
    )
    if progress is not None:
        given = replace(given, progress=progress)
    found = suite.evaluate(given)
    reports.write(found, run.dir)
    card.write(found, run.dir)
    audit.append(parts.project, "evaluate", run=run.id, split=split, verdict=found.verdict, dataset=dataset.digest)
    return found


def compare(project: Project, one: str, other: str) -> Comparison:
    """Return the paired differences between two evaluated runs, on the test rows that both answered.

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
        confidence=report.confidence,
    )


def _measured(project: Project, ref: str) -> tuple[str, Report, list[Prediction]]:
    run = Run(project.run_dir(ref.partition("@")[0]))
    if not (run.dir / "report.json").exists():
        raise ConfigError(
            254, f"Run {run.number} has no report yet", place=run.dir.name, fix=f"metier evaluate {run.number}"
        )
    report = Report.model_validate(read_json(run.dir / "report.json"))
    return f"run {run.number}", report, read_predictions(run.predictions_dir / f"{report.split}-run.jsonl")


def general_texts() -> list[str]:
    """Return the general texts that ship with Metier for the forgetting probe, written for it."""
    text = importlib.resources.files("metier.actions").joinpath("assets/general.txt").read_text(encoding="utf-8")
    return [part.strip() for part in text.split("\n\n\n") if part.strip()]


# ───────────────────────────────────────────────────────────────────────────── facts for the report


def _reloaded(parts: Parts, path: Path) -> dict[str, Any]:
    """Recompute a checkpoint's validation loss from what is on disk, beside what training saw (pitfall 9)."""
    state = read_json(path / "state.json")
    recorded = state["figures"]
    if not len(parts.validation) or "loss" not in recorded:
        return {}
    figures = validate(
        parts.policy,
        parts.method,
        parts.validation,
        # What it had come down to when memory ran out, which is also what the recorded loss was computed with.
        budget_tokens=min(parts.plan.micro_batch_tokens, state.get("micro_batch_tokens", math.inf)),
        packing=parts.recipe.training.packing,
    )
    return {
        "reload": {
            "checkpoint": path.name,
            "recorded_loss": recorded["loss"],
            "reloaded_loss": figures["loss"],
            "largest_difference": abs(figures["loss"] - recorded["loss"]),
        }
    }


def _reproduce(parts: Parts, run: Run, path: Path) -> dict[str, str]:
    which = "" if path == checkpoint_of(run.dir) else f"@{path.name}"
    return {
        "command": f"metier train {run.dir.parent.name}/{run.dir.name}/recipe.resolved.yaml",
        "evaluate": f"metier evaluate {run.number}{which}",
        "recipe digest": digest_file(run.dir / "recipe.resolved.yaml"),
        "dataset digest": parts.dataset.digest,
        "base digest": parts.base.digest,
        "targets digest": str(run.status().get("targets_digest", "")),
        "seed": str(parts.recipe.training.seed),
        "metier": metier.__version__,
        **{k: str(v) for k, v in checkpoint.versions().items()},
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
    front = card_file.read_text(encoding="utf-8", errors="replace").split("---")
    facts = yaml.safe_load(front[1]) if len(front) > 2 and not front[0].strip() else None
    return str(facts.get("license", "")) if isinstance(facts, dict) else ""
