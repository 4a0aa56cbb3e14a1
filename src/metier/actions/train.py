"""Create, start, resume and remove runs."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from metier.actions.recipes import chat_template, keep, kept
from metier.core import audit, jobs
from metier.core.catalog import catalog
from metier.core.errors import ConfigError
from metier.core.project import Project, digest_json
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
    keep(recipe, folder, recipe_text)
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
        ConfigError: E210, E211, a method, adapter, step, metric or target that does not exist, or an option of it;
            E245, a part of `data.prompt` that the method would not read.
    """
    from metier.evaluation.inputs import chosen_metrics
    from metier.training.method import Method

    sections = [("methods", "method", recipe.method), ("adapters", "adapter", recipe.adapter)]
    sections += [("steps", f"data.steps.{i}", step) for i, step in enumerate(recipe.data.steps)]
    for name, key, section in sections:
        catalog(name).options(section.kind, section.options, place=recipe.place(key))
    method = Method.of(recipe.method.kind, recipe.method.options, place=recipe.place("method"))
    method.check_prompt(recipe.data.prompt, place=recipe.place)
    chosen_metrics("chat", recipe.evaluation.metrics, {}, place=recipe.place("evaluation.metrics"))
    chosen_metrics("chat", (), recipe.objective.targets, place=recipe.place("objective.targets"))


def start(run: Run) -> Run:
    """Start the run's worker process and return at once; closing the terminal does not stop it."""
    jobs.start([sys.executable, "-m", "metier.actions.worker", str(run.dir)], run)
    return run


def wait(run: Run) -> Run:
    """Wait until the run is done and return it; Ctrl+C asks it to save and stop.

    A run that somebody else stopped (`metier runs stop`) is no error of the run, but it is not the finished run that
    was waited for either, and its model must not be taken for one: that is E259.

    Raises:
        MetierError: the error that made the run fail, with its code; ConfigError: E259, the run was stopped.
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
        raise jobs.failure(run)
    if status["state"] == "stopped":
        taken = max((int(e["step"]) for e in run.events("step")), default=0)
        raise ConfigError(
            259,
            f"Run {run.number} was stopped before it was done",
            place=run.dir.name,
            received=f"{status.get('reason') or 'a request to stop'} after step {taken}",
            expected="a run that is done",
            fix=f"metier runs resume {run.number} goes on with it; "
            f"metier evaluate {run.number} measures what it has learnt so far",
        )
    return run


def resume(project: Project, ref: str, overrides: Iterable[str] = (), *, fork: bool = False) -> Run:
    """Prepare a stopped or failed run to continue, with execution keys changed; `start` it afterwards.

    Args:
        fork: make a new run from the changed recipe instead; semantic keys may then change.

    Raises:
        ConfigError: E238 a semantic key would change; E239 the run is done; E234 it is running.
    """
    run = Run(project.run_dir(ref))
    overrides = list(overrides)
    old, new = kept(run.dir), kept(run.dir, overrides)
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
    keep(new, run.dir)
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
