"""Create, start, resume and remove runs."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from metier.actions.recipes import chat_template, keep, kept
from metier.core import audit, jobs
from metier.core.catalog import catalog
from metier.core.erase_runs import MARK, base_of
from metier.core.errors import ConfigError, DataError, PermissionDenied
from metier.core.project import Project, digest_json
from metier.core.recipe import Recipe, differences
from metier.core.run import Run
from metier.core.types import PROBLEM_TYPES, SPLITS, Split, kind_of, measured_split
from metier.governance.permission import permitted
from metier.models.files import NANO

if TYPE_CHECKING:
    from metier.data.versions import Dataset
    from metier.training.method import Method


def create(recipe: Recipe, project: Project, recipe_text: str = "", *, again: bool = False) -> Run:
    """Make the run directory of a recipe; nothing runs yet.

    Args:
        again: the recipe is the copy of another run: what it states of its sources may be out of date.

    Raises:
        ConfigError: as `check_recipe`; E249, no such chat template.
        PermissionDenied: E601–E606, a source that may not be used for training.
    """
    check_recipe(recipe, project, again=again)
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


def check_recipe(recipe: Recipe, project: Project, *, again: bool = False, dataset: str | None = None) -> None:
    """Refuse what needs no row and no model to be seen wrong, before anything slow starts.

    Args:
        again, dataset: the recipe is the copy of a run that read this version.

    Raises:
        ConfigError: E277, `model.revision` of a base that has none; and as `check_kinds`.
        PermissionDenied: E601–E606, a source that may not be used for training.
    """
    check_kinds(recipe)
    permitted(recipe, project, again=again, dataset=dataset)
    name = recipe.model.name_or_path
    if recipe.model.revision is not None and (name == NANO or project.path(name.removeprefix("file:")).is_dir()):
        raise ConfigError(
            277,
            f"`model.revision` has no use here: {'the shipped base' if name == NANO else 'a local directory'} has none",
            place=recipe.place("model.revision"),
            received=f"{name} at {recipe.model.revision}",
            expected="a hub id beside it",
            fix="remove `model.revision`",
        )


def check_kinds(recipe: Recipe) -> None:
    """Resolve every plug-in a recipe names, so that a misspelt one or its option fails before anything slow starts.

    Raises:
        ConfigError: E210, E211, a method, adapter, step, metric or target that does not exist, or an option of it;
            E218, a method that reads labels under a task that writes them out; E219, an adapter that trains nothing;
            E245, a part of `data.prompt` that the method would not read; E276, a metric or target without a figure.
    """
    from metier.evaluation.inputs import check_metrics
    from metier.training.method import Method

    sections = [("methods", "method", recipe.method), ("adapters", "adapter", recipe.adapter)]
    sections += [("steps", f"data.steps.{i}", step) for i, step in enumerate(recipe.data.steps)]
    for name, key, section in sections:
        catalog(name).options(section.kind, section.options, place=recipe.place(key))
    method = Method.of(recipe.method.kind, recipe.method.options, place=recipe.place("method"))
    method.check_prompt(recipe.data.prompt, place=recipe.place)
    if method.consumes == ("labelled",) and recipe.data.sources and recipe.objective.task != "classify":
        raise ConfigError(
            218,
            f"Method `{method.kind}` learns labels, and under the task `{recipe.objective.task}` a label is a reply",
            place=recipe.place("method"),
            received=f"objective.task={recipe.objective.task}, method.kind={method.kind}",
            fix="objective.task=classify; or method.kind=sft, which writes the label",
        )
    if recipe.adapter.kind == "none" and not _has_head(method):
        raise ConfigError(
            219,
            f"Nothing would be trained: the adapter `none` freezes the base, and `{method.kind}` adds no task head",
            place=recipe.place("adapter.kind"),
            received="adapter.kind=none",
            expected="; ".join(name for name in catalog("adapters").names() if name != "none"),
            fix="adapter.kind=lora",
        )
    metrics, targets = recipe.evaluation.metrics, recipe.objective.targets
    check_metrics(_possible_situations(recipe, method), metrics, targets, place=recipe.place)


def check_figures(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse rows on which nothing could be measured, and a metric or target without a figure on them.

    The rows' labels say more than the recipe does, and hours later is too late to notice.

    Raises:
        ConfigError: E276.
        DataError: as `to_be_measured`.
    """
    from metier.evaluation.inputs import check_metrics

    _, answers = to_be_measured(recipe, dataset)
    check_metrics([answers], recipe.evaluation.metrics, recipe.objective.targets, place=recipe.place)


def to_be_measured(recipe: Recipe, dataset: Dataset) -> tuple[Split, str]:
    """Return the split that a run is measured on at the end, and what kind of answers (evaluation/inputs.situation_of).

    Raises:
        DataError: E326, no held-out rows; E361, the rows that will be measured have no single right answer.
    """
    from metier.evaluation.inputs import nothing_to_measure, situation_of
    from metier.training.method import Method

    if not (dataset.count("test") or dataset.count("validation")):
        raise DataError(
            326,
            "No rows are held out, so nothing could say whether the training was worth it",
            place=recipe.place("data.split"),
            received=f"train {dataset.count('train'):,}, validation 0, test 0",
            expected="rows in test or validation",
            fix="data.split.test=0.1, or a source with split: test",
        )
    head = _has_head(Method.of(recipe.method.kind, recipe.method.options))
    problem_type = dataset.manifest.get("problem_type")
    task = recipe.objective.task
    split = measured_split({name: dataset.count(name) for name in SPLITS})
    kinds = set(dataset.manifest["kinds"])
    if len(kinds) > 1:  # of which splits, the manifest does not say
        kinds = {kind_of(example) for example in dataset.iterate(split)}
    found = situation_of(kinds, head=head, problem_type=problem_type, task=task)
    if found is None:
        raise nothing_to_measure(kinds, split=split, place=recipe.place("data.sources"))
    return split, found


def _possible_situations(recipe: Recipe, method: Method) -> list[str]:
    """Return what kinds of answers the recipe's model may be measured on; the rows alone say which."""
    from metier.evaluation.inputs import situation_of

    asked = recipe.method.options.get("problem_type")
    types = [asked] if asked in PROBLEM_TYPES else PROBLEM_TYPES
    found = [
        situation_of({kind}, head=_has_head(method), problem_type=problem_type, task=recipe.objective.task)
        for kind in method.consumes
        for problem_type in types
    ]
    return list(dict.fromkeys(what for what in found if what is not None))


def _has_head(method: Method) -> bool:
    """Whether the method's model answers with a task head; making one to see would import torch into the terminal."""
    return "problem_type" in type(method.options).model_fields


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
        PermissionDenied: E601–E606, its rows may not be used any more; E607, rows of its dataset were erased since: it
            would go on with others.
    """
    run = Run(project.run_dir(ref))
    overrides = list(overrides)
    old, new = kept(run.dir), kept(run.dir, overrides)
    if fork:
        # What is said of the data on the command line is no copy.
        return create(new, project, again=not any(override.startswith("data.") for override in overrides))
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
    if marks := run.status().get(MARK):
        raise PermissionDenied(
            607,
            f"Rows of the dataset of run {run.number} were erased since it began",
            place=run.dir.name,
            received=", ".join(f"certificate {m['certificate']}" for m in marks),
            expected="the rows it began with",
            fix=f"metier runs resume {run.number} --fork trains anew on the rows that stay",
        )
    semantic = [c for c in differences(old, new) if c.semantic]
    if semantic:
        shown = "; ".join(f"{c.key}: {c.old} → {c.new}" for c in semantic)
        raise ConfigError(
            238,
            "A resume may change execution keys only",
            place=run.dir.name,
            received=shown,
            fix=f"metier runs resume {run.number} --fork {shlex.join(overrides)}",
        )
    check_recipe(new, project, again=True, dataset=run.status().get("dataset"))
    keep(new, run.dir)
    audit.append(project, "train.resume", run=run.id, changed=[c.key for c in differences(old, new)])
    return run


def remove(project: Project, ref: str) -> Path:
    """Delete a run directory that no process holds and return its path.

    Raises:
        ConfigError: E232, no such run; E234, the run is running; E294, a model of it is there, or a run that began with
            one; E299, a directory outside the project's runs, such as a copy of one.
    """
    run = Run(project.run_dir(ref))
    if run.dir.resolve().parent != project.runs_dir.resolve():
        raise ConfigError(
            299,
            "This is not one of the project's runs, and only those are deleted",
            place=str(run.dir),
            expected=f"a run in {project.runs_dir}",
            fix="metier runs ls; delete a copy yourself",
        )
    if run.held():
        raise ConfigError(234, f"Run {run.number} is running", place=run.dir.name, fix=f"metier runs stop {run.number}")
    exports = {str(export["to"]): project.path(str(export["to"])) for export in run.status().get("exports", [])}
    left = [to for to, path in exports.items() if path.exists()]
    runs = [other for other in map(Run, project.run_dirs()) if base_of(other, project) in exports.values()]
    left += [f"run {other.number}" for other in runs]
    if left:
        raise ConfigError(
            294,
            f"Run {run.number} says whose rows its models were trained on; an erasure could not find them without it",
            place=run.dir.name,
            received=", ".join(left),
            expected="no model that was exported from the run, and no run that began with one",
            fix=f"delete {left[0]} first, or keep the run",
        )
    audit.append(project, "run.remove", run=run.id, dataset=run.status().get("dataset_digest"))
    shutil.rmtree(run.dir)
    return run.dir
