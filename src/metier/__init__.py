"""Metier turns a general language model into a specialist, and proves that it is one.

The verbs of the product, as functions:

    import metier
    run = metier.train("recipes/support.yaml")          # a tuned model, compared with its untouched base
    report = metier.evaluate(run)                        # figures with intervals, and a verdict in words

A recipe file belongs to the project around it, a Run to the project it lies in; anything else means the project around
the working directory. Importing this package is cheap: torch is imported by the first verb that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metier.actions.evaluate import Comparison
    from metier.actions.models import ChatSession
    from metier.actions.plan import Plan
    from metier.core.project import Project
    from metier.core.recipe import Recipe
    from metier.core.run import Run
    from metier.core.types import Split
    from metier.data.dataset import Dataset
    from metier.evaluation.result import Report

__version__ = "0.1.0"
__all__ = ["chat", "compare", "erase", "evaluate", "export", "plan", "predict", "prepare", "train"]

PathLike = str | Path


def prepare(recipe: PathLike | Recipe, overrides: Iterable[str] = ()) -> Dataset:
    """Read, clean, split and store the rows of a recipe; return the immutable dataset version.

    Args:
        recipe: a recipe file, or a Recipe.
        overrides: `section.key=value` strings.

    Raises:
        MetierError: E2xx the recipe, E3xx the rows, E4xx the machine.
    """
    from metier.actions import data

    found, project, _ = _located(recipe, overrides)
    return data.prepare(found, project)


def plan(recipe: PathLike | Recipe, overrides: Iterable[str] = (), *, measure: bool = False) -> Plan:
    """Return tokens, steps, memory, time, disk, masking share and leakage of a recipe before it runs.

    Args:
        measure: take a few real steps and a real save, instead of arithmetic alone.
    """
    from metier.actions import plan as plans

    found, project, _ = _located(recipe, overrides)
    return plans.plan(found, project, measure=measure)


def train(recipe: PathLike | Recipe, overrides: Iterable[str] = (), *, detach: bool = False) -> Run:
    """Train a recipe in a process of its own, evaluate it against its untouched base and write the report.

    Args:
        detach: return as soon as the process has started.

    Raises:
        MetierError: what made the run fail; E259 (a ConfigError), somebody stopped it before it was done.
    """
    from metier.actions import train as trains

    run = trains.start(trains.create(*_located(recipe, overrides)))
    return run if detach else trains.wait(run)


def evaluate(run: str | Run, *, split: Split = "test") -> Report:
    """Measure a run's best checkpoint and its untouched base on the same held-out rows."""
    from metier.actions import evaluate as evaluations

    return evaluations.evaluate(*_run(run), split=split)


def compare(one: str | Run, other: str | Run) -> Comparison:
    """Return the paired differences between two evaluated runs on the rows they share."""
    from metier.actions import evaluate as evaluations

    return evaluations.compare(*_run(one), _run(other)[1])


def predict(
    run: str | Run,
    inputs: str | dict[str, Any] | Sequence[str | dict[str, Any]],
    *,
    max_new_tokens: int = 128,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Return a run's labels or replies for new inputs, in order.

    Args:
        inputs: texts, or objects with the recipe's columns; one alone is a list of one.
        temperature: of a run that writes text; None or 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens that together hold this probability; default 1, all.
        seed: of the sampling; default 0.

    Raises:
        ConfigError: E291, a sampling option that would change nothing.
        DataError: E363, an input lacks a column.
    """
    from metier.actions import models

    given = [inputs] if isinstance(inputs, str | dict) else list(inputs)
    return models.predict(
        *_run(run), given, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )


def chat(
    run: str | Run, *, temperature: float | None = None, top_p: float | None = None, seed: int | None = None
) -> ChatSession:
    """Open a conversation with a run and, beside it, with its untouched base; the options are those of `predict`."""
    from metier.actions import models

    return models.chat(*_run(run), temperature=temperature, top_p=top_p, seed=seed)


def export(run: str | Run, to: PathLike, *, form: str = "hf") -> dict[str, Any]:
    """Write a run's model for other tools (`hf` merged, `peft` adapter), with a parity certificate; return it.

    Raises:
        ConfigError: E271, no such form; and as actions/models.py.
    """
    from metier.actions import models

    return models.export(*_run(run), Path(to), form=form)


def erase(subject: str, also: Iterable[str] = (), *, dry_run: bool = False) -> dict[str, Any]:
    """Erase a person from the project around the working directory; return the certificate, or what would be done.

    Args:
        subject: value of the column that a source's `permission.subject_key` names.
        also: further texts that identify the person.

    Raises:
        DataError: E369 nothing of them is there, E367 something is left.
    """
    from metier.actions import erase as erasing
    from metier.core.project import Project

    project = Project.find()
    prepared = erasing.prepare(project, subject, also)
    return prepared.to_json() if dry_run else erasing.erase(project, prepared)


def _located(recipe: PathLike | Recipe, overrides: Iterable[str]) -> tuple[Recipe, Project, str]:
    """The recipe, its project, and the text of its file."""
    from metier.core import locate
    from metier.core.project import Project
    from metier.core.recipe import Recipe

    if isinstance(recipe, str | Path):
        found = locate.recipe(Path(recipe), overrides)
        return found.recipe, found.project, found.text
    overridden = Recipe.parse(recipe.to_yaml(), overrides=overrides, origin=(recipe.file, recipe.lines))
    return overridden, Project.find(), ""


def _run(run: str | Run) -> tuple[Project, str]:
    """The project of a run, and the reference by which that project knows it; `12@last` names a checkpoint."""
    from metier.core import locate

    project, _, ref = locate.policy(run)
    return project, ref
