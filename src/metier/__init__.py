"""Metier turns a general language model into a specialist, and proves that it is one.

The verbs of the product, as functions:

    import metier
    run = metier.train("recipes/support.yaml")          # a tuned model, compared with its untouched base
    report = metier.evaluate(run)                        # figures with intervals, and a verdict in words

Importing this package is cheap: torch is imported by the first verb that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metier.actions.evaluate import Comparison
    from metier.actions.plan import Plan
    from metier.core.recipe import Recipe
    from metier.core.run import Run
    from metier.core.types import Split
    from metier.data.dataset import Dataset
    from metier.evaluation.result import Report

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "export", "plan", "predict", "prepare", "train"]

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
    from metier.core.project import Project

    return data.prepare(_recipe(recipe, overrides), Project.find())


def plan(recipe: PathLike | Recipe, overrides: Iterable[str] = (), *, measure: bool = False) -> Plan:
    """Return tokens, steps, memory, time, disk, masking share and leakage of a recipe before it runs.

    Args:
        measure: take a few real steps and a real save, instead of arithmetic alone.
    """
    from metier.actions import plan as plans
    from metier.core.project import Project

    return plans.plan(_recipe(recipe, overrides), Project.find(), measure=measure)


def train(recipe: PathLike | Recipe, overrides: Iterable[str] = (), *, detach: bool = False) -> Run:
    """Train a recipe in a process of its own, evaluate it against its untouched base and write the report.

    Args:
        detach: return as soon as the process has started.

    Raises:
        MetierError: what made the run fail; E259 (a ConfigError), somebody stopped it before it was done.
    """
    from metier.actions import train as trains
    from metier.core.project import Project

    text = Path(recipe).read_text(encoding="utf-8") if isinstance(recipe, str | Path) and not overrides else ""
    run = trains.start(trains.create(_recipe(recipe, overrides), Project.find(), text))
    return run if detach else trains.wait(run)


def evaluate(run: str | Run, *, split: Split = "test") -> Report:
    """Measure a run's best checkpoint and its untouched base on the same held-out rows."""
    from metier.actions import evaluate as evaluations
    from metier.core.project import Project

    return evaluations.evaluate(Project.find(), _ref(run), split=split)


def compare(one: str | Run, other: str | Run) -> Comparison:
    """Return the paired differences between two evaluated runs on the rows they share."""
    from metier.actions import evaluate as evaluations
    from metier.core.project import Project

    return evaluations.compare(Project.find(), _ref(one), _ref(other))


def predict(
    run: str | Run, inputs: Sequence[str | dict[str, Any]], *, max_new_tokens: int = 128
) -> list[dict[str, Any]]:
    """Return a run's labels or replies for new inputs, in order."""
    from metier.actions import models
    from metier.core.project import Project

    return models.predict(Project.find(), _ref(run), list(inputs), max_new_tokens=max_new_tokens)


def export(run: str | Run, to: PathLike, *, form: str = "hf") -> dict[str, Any]:
    """Write a run's model for other tools (`hf` merged, `peft` adapter), with a parity certificate; return it."""
    from metier.actions import models
    from metier.core.project import Project

    return models.export(Project.find(), _ref(run), Path(to), form=form)


def _recipe(recipe: PathLike | Recipe, overrides: Iterable[str]) -> Recipe:
    from metier.core.recipe import Recipe

    if isinstance(recipe, str | Path):
        return Recipe.read(Path(recipe), overrides)
    return recipe


def _ref(run: str | Run) -> str:
    return run if isinstance(run, str) else run.dir.name
