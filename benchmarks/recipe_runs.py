"""Run recipes of the repository through the command line, as a user would, and collect what their reports say."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import REPOSITORY, data_dir, need, spread

RECIPES = REPOSITORY / "recipes"


@dataclass(frozen=True)
class Done:
    """One finished run: its report.json and its status.json."""

    recipe: str
    seed: int
    report: dict[str, Any]
    status: dict[str, Any]

    def figure(self, metric: str, system: str = "run") -> float | None:
        """Return a metric of a system, by its role (`run`, `base`) or name (`tfidf_svm` …); None: not measured."""
        for found in self.report["systems"]:
            if system in (found["role"], found["name"]):
                return next((f["value"] for f in found["figures"] if f["metric"] == metric), None)
        return None

    def leak_free(self, metric: str) -> float | None:
        """Return the run's metric on the test rows without a twin in train."""
        figures = self.report["data"]["leak_free_figures"]
        return next((f["value"] for f in figures if f["metric"] == metric), None)


def metier(*arguments: str, folder: Path) -> str:
    """Run a `metier` command in a folder and return what it printed; its talk goes to our stderr."""
    environment = {**os.environ, "METIER_DATA": str(data_dir()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "metier.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"metier {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def adopt(name: str, project: Path) -> str:
    """Copy a recipe into a project, whose runs it then makes, and return its path there."""
    (project / "recipes").mkdir(exist_ok=True)
    shutil.copy(RECIPES / f"{name}.yaml", project / "recipes")
    return f"recipes/{name}.yaml"


def run_recipe(name: str, seeds: Sequence[int], project: Path, overrides: Sequence[str] = ()) -> list[Done]:
    """Train a recipe with several seeds in one project and return the finished runs."""
    need(data_dir())
    if not (project / "metier.yaml").exists():
        project.mkdir(parents=True, exist_ok=True)
        metier("init", ".", "--name", "benchmark", folder=project)
    recipe = adopt(name, project)
    found = []
    for seed in seeds:
        changes = [f"training.seed={seed}", *overrides]
        made = finished(project, recipe, changes)
        print(f"{name}, seed {seed}{': finished before' if made else ''}", file=sys.stderr, flush=True)
        if made is None:
            metier("train", recipe, *changes, folder=project)
            made = finished(project, recipe, changes)
        if made is None:
            raise SystemExit(f"{name}, seed {seed}: the run has no report")
        found.append(
            Done(
                name,
                seed,
                json.loads((made / "report.json").read_text(encoding="utf-8")),
                json.loads((made / "status.json").read_text(encoding="utf-8")),
            )
        )
    return found


def finished(project: Path, recipe: str, changes: Sequence[str]) -> Path | None:
    """Return the newest run of exactly this recipe that has a report, so that a benchmark cut short goes on."""
    from metier.core.recipe import Recipe

    wanted = Recipe.read(project / recipe, changes).to_data()
    for run in sorted((project / "runs").glob("*"), reverse=True):
        if (run / "report.json").exists() and Recipe.read(run / "recipe.resolved.yaml").to_data() == wanted:
            return run
    return None


def numbers(runs: Sequence[Done], metric: str, system: str = "run") -> list[float]:
    """Return a metric over the seeds, without those where it does not exist."""
    return [v for v in (r.figure(metric, system) for r in runs) if v is not None]


def median_run(runs: Sequence[Done], metric: str) -> Done:
    """Return the run whose metric is the median (the lower one of an even number)."""
    middle = statistics.median_low([r.figure(metric) or 0.0 for r in runs])
    return next(r for r in runs if (r.figure(metric) or 0.0) == middle)


def cost(runs: Sequence[Done]) -> list[str]:
    """Return training minutes, peak memory and trained parameters, as three cells."""
    minutes = spread([r.report["training"]["seconds"] / 60 for r in runs], digits=1)
    memory = max(r.report["training"]["peak_memory_bytes"] for r in runs)
    trained = runs[0].report["training"]["trainable_parameters"]
    return [minutes, f"{memory / 1e9:.2f}", f"{trained / 1e6:.3f}"]


def arguments(description: str | None, page: str) -> argparse.Namespace:
    """Read the command line that the recipe benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--project", type=Path, help="where the runs are kept (default: a temporary folder)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, such as training.max_steps=5"
    )
    parser.add_argument(
        "--out", default=str(REPOSITORY / "benchmarks" / page), help="the page to write, - for the terminal"
    )
    read = parser.parse_args()
    if read.project is None:
        read.project = Path(tempfile.mkdtemp(prefix="metier-benchmark-"))
    return read
