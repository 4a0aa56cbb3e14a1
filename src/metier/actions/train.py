"""Create, start, resume and remove runs."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metier.actions.recipes import chat_template
from metier.core import audit, jobs
from metier.core.catalog import catalog
from metier.core.errors import (
    Bug,
    ConfigError,
    DataError,
    GateError,
    MachineError,
    MetierError,
    PermissionDenied,
)
from metier.core.project import Project, digest_json, write_text
from metier.core.recipe import Recipe, differences
from metier.core.run import Run
from metier.governance import permission


def create(recipe: Recipe, project: Project, recipe_text: str = "") -> Run:
    """Make the run directory of a recipe; nothing runs yet.

    Raises:
        ConfigError: E210, E211, a method, adapter or step that does not exist or an option that does not fit; E249, no
            such chat template.
        PermissionDenied: E601–E605, a source that may not be used for training.
    """
    check_kinds(recipe)
    permission.check(recipe, project.settings)
    text = chat_template(recipe, project)
    if text != recipe.model.chat_template:
        # The run keeps the template itself: a file that changes or goes away must not change what it was trained with.
        recipe_text = recipe_text or recipe.to_yaml()
        recipe = recipe.with_values({"model.chat_template": text})
    folder = project.new_run_dir(recipe.method.kind, recipe.name)
    write_text(folder / "recipe.yaml", recipe_text or recipe.to_yaml())
    write_text(folder / "recipe.resolved.yaml", recipe.to_yaml())
    run = Run.create(
        folder,
        name=recipe.name,
        method=recipe.method.kind,
        adapter=recipe.adapter.kind,
        model=recipe.model.name_or_path,
        # The targets are frozen with a digest before training, so that they cannot be moved to fit the result.
        targets_digest=digest_json(recipe.objective.targets),
    )
    audit.append(project, "train.create", run=run.id, recipe=digest_json(recipe.to_data()))
    return run


def check_kinds(recipe: Recipe) -> None:
    """Resolve every plug-in a recipe names, so that a misspelt one or its option fails before anything slow starts.

    Raises:
        ConfigError: E210, E211, a method, adapter, step, metric or target that does not exist, or an option of it.
    """
    from metier.evaluation.inputs import chosen_metrics

    sections = [("methods", "method", recipe.method), ("adapters", "adapter", recipe.adapter)]
    sections += [("steps", f"data.steps.{i}", step) for i, step in enumerate(recipe.data.steps)]
    for name, key, section in sections:
        catalog(name).options(section.kind, section.options, place=recipe.place(key))
    chosen_metrics("chat", recipe.evaluation.metrics, {}, place=recipe.place("evaluation.metrics"))
    chosen_metrics("chat", (), recipe.objective.targets, place=recipe.place("objective.targets"))


def start(run: Run) -> Run:
    """Start the run's worker process and return at once; closing the terminal does not stop it."""
    jobs.start([sys.executable, "-m", "metier.actions.worker", str(run.dir)], run)
    return run


def wait(run: Run) -> Run:
    """Wait until the run's worker ends; Ctrl+C asks it to save and stop.

    Raises:
        MetierError: the error that made the run fail, with its code.
    """
    try:
        for _ in jobs.watch(run):
            pass
    except KeyboardInterrupt:
        jobs.stop(run, signal.SIGINT)
        for _ in jobs.watch(run):
            pass
        raise
    status = run.status()
    if status["state"] == "failed":
        reason = str(status.get("reason", ""))
        # A worker that was lost wrote no error: the last one is of an earlier start.
        last = list(run.events("error"))[-1:] if reason != "worker-lost" else []
        raise _failure(run, next(iter(last), None), reason)
    return run


def _failure(run: Run, event: dict[str, Any] | None, reason: str) -> MetierError:
    if event is None:
        return MachineError(
            454, f"The worker of run {run.number} was lost ({reason})", fix=f"metier runs resume {run.number}"
        )
    number = int(str(event["code"]).removeprefix("E"))
    kinds = (Bug, ConfigError, DataError, MachineError, GateError, PermissionDenied)
    kind = next(k for k in kinds if k.digit == number // 100)
    fields = {k: str(event.get(k, "")) for k in ("place", "received", "expected", "fix")}
    return kind(number, str(event["what"]), **fields)


def resume(project: Project, ref: str, overrides: Iterable[str] = (), *, fork: bool = False) -> Run:
    """Prepare a stopped or failed run to continue, with execution keys changed; `start` it afterwards.

    Args:
        fork: make a new run from the changed recipe instead; semantic keys may then change.

    Raises:
        ConfigError: E238 a semantic key would change; E239 the run is done; E234 it is running.
    """
    run = Run(project.run_dir(ref))
    text = (run.dir / "recipe.resolved.yaml").read_text(encoding="utf-8")
    old = Recipe.parse(text, file="recipe.resolved.yaml")
    new = Recipe.parse(text, file="recipe.resolved.yaml", overrides=overrides)
    if fork:
        return create(new, project)
    if run.held():
        raise ConfigError(
            234, f"Run {run.number} is running already", place=run.dir.name, fix=f"metier runs logs -f {run.number}"
        )
    if run.status()["state"] == "done":
        raise ConfigError(
            239,
            f"Run {run.number} is done",
            place=run.dir.name,
            fix=f"metier runs resume {run.number} --fork key=value",
        )
    semantic = [c for c in differences(old, new) if c.semantic]
    if semantic:
        shown = "; ".join(f"{c.key}: {c.old} → {c.new}" for c in semantic)
        raise ConfigError(
            238,
            "A resume may change execution keys only",
            place=run.dir.name,
            received=shown,
            fix=f"metier runs resume {run.number} --fork {' '.join(overrides)}",
        )
    check_kinds(new)
    permission.check(new, project.settings)
    write_text(run.dir / "recipe.resolved.yaml", new.to_yaml())
    audit.append(project, "train.resume", run=run.id, changed=[c.key for c in differences(old, new)])
    return run


def remove(project: Project, ref: str) -> Path:
    """Delete a run directory that no process holds and return its path.

    Raises:
        ConfigError: E234, the run is running.
    """
    run = Run(project.run_dir(ref))
    if run.held():
        raise ConfigError(234, f"Run {run.number} is running", place=run.dir.name, fix=f"metier runs stop {run.number}")
    audit.append(project, "run.remove", run=run.id)
    shutil.rmtree(run.dir)
    return run.dir
