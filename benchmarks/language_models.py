"""Continued pre-training of two real checkpoints, and two chat recipes: three seeds, through the command line.

    export METIER_DATA=…
    python benchmarks/language_models.py

Each run of seed 0 is exported as well: adapter merged, written, loaded again by plain transformers in a fresh process,
and compared with the run (the parity certificate).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from machine import publish, spread, table
from recipe_runs import Done, arguments, cost, metier, numbers, run_recipe

RECIPES = {
    "babyllama-cpt-full": "bits_per_byte",
    "stories-cpt-lora": "bits_per_byte",
    "alpaca-sft": "perplexity",
    "sharegpt-tools-sft": "perplexity",
}
TEXT = """\
On held-out rows, median over the seeds (smallest–largest); lower is better. The base is the checkpoint untouched."""


def exported(run: Done, project: Path) -> str:
    """Export a run and return what its certificate says."""
    number = str(int(run.report["run"].partition("-")[0]))
    with tempfile.TemporaryDirectory() as folder:
        printed = metier("models", "export", number, "--to", f"{folder}/out", "--json", folder=project)
    made = json.loads(printed)
    parity = made["parity"]
    return f"{'passed' if parity['passed'] else 'FAILED'}, largest difference {parity['max_difference']:.4f} nats"


def main() -> None:
    given = arguments(__doc__, "language_models.md")
    rows = []
    for name in given.recipes or RECIPES:
        runs = run_recipe(name, given.seeds, given.project, given.set)
        metric = RECIPES[name]
        rows.append(
            [
                name,
                metric.replace("_", " "),
                spread(numbers(runs, metric)),
                spread(numbers(runs, metric, "base")),
                str(runs[0].report["data"]["rows"]["test"]),
                ", ".join(sorted({r.report["verdict"] for r in runs})),
                exported(runs[0], given.project),
                *cost(runs),
            ]
        )
    head = ["recipe", "figure", "run", "untouched base", "test rows", "verdict", "export"]
    head += ["minutes", "peak GB", "trained M"]
    publish(given.out, "Language models", TEXT, table(head, rows))


if __name__ == "__main__":
    main()
