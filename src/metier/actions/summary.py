"""What a run's events say about its training, and its dataset's manifest about the data: two parts of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metier.actions.compose import Parts
from metier.core.project import read_json
from metier.core.run import Run
from metier.core.types import Split
from metier.evaluation.result import DataSummary, TrainingSummary
from metier.training import checkpoint
from metier.training.validate import Watch, overfitting

CURVE_POINTS = 400


def training_summary(parts: Parts, run: Run, path: Path) -> TrainingSummary:
    """Return how the run was trained, and which of its checkpoints is measured.

    Args:
        path: the checkpoint that the policy holds.
    """
    taken, evaluations = _history(run)
    tokens = sum(int(e["tokens"]) for e in taken)
    slots = sum(int(e["slots"]) for e in taken)
    examples = sum(int(e["examples"]) for e in taken)
    train_seconds = sum(float(e["seconds"]) for e in taken)
    status = run.status()
    plan = read_json(run.dir / "plan.json") if (run.dir / "plan.json").exists() else {}
    peak = int(status.get("peak_memory_bytes", 0))
    validation = [
        {k: float(v) for k, v in e.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "seconds"}
        for e in evaluations
    ]
    environment = run.dir / "environment.json"
    trunks = list(run.events("trunk"))  # the plan counts the frozen part's cache, too
    trained = parts.policy.trained()
    kept = ("seconds", *(["validation_seconds"] if evaluations else []), "memory_bytes", "disk_bytes")
    shares = _done(plan, len(taken), len(evaluations))
    return TrainingSummary(
        method=parts.recipe.method.kind,
        adapter=parts.recipe.adapter.kind,
        steps=len(taken),
        epochs=examples / max(1, len(parts.train)),
        examples=examples,
        tokens=tokens,
        supervised_tokens=sum(int(e["supervised"]) for e in taken),
        padding=1 - tokens / slots if slots else 0.0,
        seconds=train_seconds,
        tokens_per_second=tokens / train_seconds if train_seconds else 0.0,
        peak_memory_bytes=peak,
        trainable_parameters=sum(p.numel() for p in trained.values()),
        total_parameters=parts.policy.num_parameters,
        planned_steps=parts.plan.steps,
        best_step=int(path.name.removeprefix("step-")),
        chosen_by=_chosen_by(run, path),
        temperature=parts.policy.head.temperature if parts.policy.head is not None else 1.0,
        stopped_early=_stopped_early(parts, evaluations),
        overfitting=overfitting(
            _since_last(taken, [int(e["step"]) for e in evaluations]), [(int(v["step"]), v["loss"]) for v in validation]
        ),
        curve=_thinned(taken),
        validation_curve=validation,
        estimate={k: float(plan[k]) * shares.get(k, 1.0) for k in kept if k in plan},
        estimate_scaled=any(share < 1 for share in shares.values()),
        actual={
            "seconds": train_seconds + sum(float(e["seconds"]) for e in trunks),
            **({"validation_seconds": sum(float(e.get("seconds", 0.0)) for e in evaluations)} if evaluations else {}),
            "memory_bytes": float(peak),
            "disk_bytes": float(disk_bytes(run.dir) + max((int(e["num_bytes"]) for e in trunks), default=0)),
        },
        # Those of the training: a finished run may be measured on another machine.
        choices=read_json(environment)["choices"] if environment.exists() else parts.choices,
    )


def data_summary(parts: Parts, split: Split = "test") -> DataSummary:
    """Return what the model was trained and measured on.

    Args:
        split: the one that is measured; its rows' twins are the ones that count.
    """
    dataset, manifest = parts.dataset, parts.dataset.manifest
    quarantine = manifest.get("quarantine", {})
    leaks = manifest.get("split_proof", {}).get("leaks" if split == "test" else "validation_leaks", {})
    return DataSummary(
        dataset=dataset.ref,
        digest=dataset.digest,
        rows={s: dataset.count(s) for s in ("train", "validation", "test")},
        quarantined=int(quarantine.get("rows", 0)),
        quarantine_reasons={k: int(v["count"]) for k, v in quarantine.get("reasons", {}).items()},
        leaks={k: int(v) for k, v in leaks.items() if isinstance(v, int)},
        cut_rows={"train": parts.lengths.cut_rows, "validation": parts.validation_lengths.cut_rows},
        dropped_rows={"train": parts.lengths.dropped_rows, "validation": parts.validation_lengths.dropped_rows},
        steps=list(manifest.get("steps", [])),
        sources=list(manifest.get("sources", [])),
        labels={label: int(found["train"]) for label, found in manifest.get("label_counts", {}).items()},
    )


def disk_bytes(folder: Path) -> int:
    """Return the size of the files in a folder and below; 0 where there is none."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _history(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the steps and the evaluations that led to the run's last weights, oldest first.

    A start that resumes goes back to a checkpoint: the steps that an earlier start had taken beyond it are lost, and
    those that are taken again count once.
    """
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for event in run.events():
        if event.get("kind") == "step":
            for seen in (steps, evaluations):
                while seen and int(seen[-1]["step"]) >= int(event["step"]):
                    seen.pop()
            steps.append(event)
        elif event.get("kind") == "evaluation":
            evaluations.append(event)
    return steps, evaluations


def _done(plan: Mapping[str, Any], steps: int, evaluations: int) -> dict[str, float]:
    """Return the share of the planned steps, and of the planned evaluations, that came to be, by what they take."""
    share = min(1.0, steps / plan["steps"]) if plan.get("steps") else 1.0
    planned = plan.get("validations")  # an older plan does not say
    return {
        "seconds": share,
        "validation_seconds": min(1.0, evaluations / planned) if planned else share,
    }


def _stopped_early(parts: Parts, evaluations: list[dict[str, Any]]) -> bool:
    """Whether validation ended the run before its planned steps; a run that somebody stopped did not stop early."""
    watch = Watch(parts.watch.metric, parts.watch.patience, parts.watch.first_step)
    for event in evaluations:
        watch.see(int(event["step"]), {watch.metric: float(event[watch.metric])})
    return watch.done and watch.last_step < parts.plan.steps


def _chosen_by(run: Run, path: Path) -> str:
    """What chose the checkpoint, in the words of TrainingSummary."""
    best = read_json(run.dir / "best.json") if (run.dir / "best.json").exists() else {}
    if best.get("checkpoint") == path.name:
        return str(best.get("chosen_by", ""))
    # Before the first evaluation nothing has been chosen: the newest one is used.
    return "last step" if not best and checkpoint.listing(run.checkpoints_dir)[-1:] == [path] else "request"


def _since_last(taken: list[dict[str, Any]], marks: list[int]) -> list[tuple[int, float]]:
    """Mean training loss between evaluations."""
    found, start = [], 0
    for mark in marks:
        losses = [float(e["loss"]) for e in taken if start < int(e["step"]) <= mark]
        if losses:
            found.append((mark, sum(losses) / len(losses)))
        start = mark
    return found


def _thinned(taken: list[dict[str, Any]]) -> list[dict[str, float]]:
    """At most CURVE_POINTS points; each is the mean over its stretch of steps."""
    keys = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
    size = max(1, -(-len(taken) // CURVE_POINTS))
    points = []
    for start in range(0, len(taken), size):
        stretch = taken[start : start + size]
        point = {k: sum(float(e[k]) for e in stretch) / len(stretch) for k in keys}
        points.append({"step": float(stretch[-1]["step"]), **point})
    return points
