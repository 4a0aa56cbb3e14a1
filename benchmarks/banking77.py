"""BANKING77 (77 intents, 3,080 test rows) by every recipe of ours, three seeds each, through the command line.

    export METIER_DATA=…  METIER_MINILM=$(python benchmarks/get_minilm.py)
    python benchmarks/banking77.py [--recipes banking77-minilm-full] [--seeds 0 1 2]

The hyper-parameters in the recipes were chosen on a validation part of train.csv; the test file is read once per run.
"""

from __future__ import annotations

import os
from pathlib import Path

from get_minilm import fetch
from machine import publish, spread, table
from recipe_runs import arguments, cost, median_run, numbers, run_recipe

RECIPES = (
    "banking77-classify-nano",
    "banking77-sft-nano",
    "banking77-minilm-frozen",
    "banking77-minilm-lora",
    "banking77-minilm-full",
)
HEAD = ["recipe", "accuracy, %", "without leaks, %", "macro F1, %", "precision, %", "recall, %", "ECE"]
HEAD += ["base, %", "TF-IDF + SVM, %", "95 % interval (median run)", "verdict", "minutes", "peak GB", "trained M"]
TEXT = """\
Median over the seeds (smallest–largest). The test file holds rows that also stand in train.csv; `without leaks` leaves
them out. `base` is the best that the untouched base can do: zero-shot label likelihood, frozen base + linear probe, or
the majority class. For orientation: BERT-base is reported with 93.1 % on this test."""


def main() -> None:
    given = arguments(__doc__, "banking77.md")
    chosen = given.recipes or list(RECIPES)
    if any("minilm" in name for name in chosen) and "METIER_MINILM" not in os.environ:
        os.environ["METIER_MINILM"] = str(fetch(Path(given.project).parent / "metier-minilm"))
    rows = []
    for name in chosen:
        runs = run_recipe(name, given.seeds, given.project, given.set)
        shown = median_run(runs, "accuracy")
        systems = {s["name"]: s for s in shown.report["systems"]}
        figure = next(f for f in systems["run"]["figures"] if f["metric"] == "accuracy")
        interval = "–" if figure["low"] is None else f"{figure['low'] * 100:.1f}–{figure['high'] * 100:.1f}"
        free = [v for v in (r.leak_free("accuracy") for r in runs) if v is not None]
        rows.append(
            [
                name,
                spread(numbers(runs, "accuracy"), scale=100, digits=2),
                spread(free, scale=100, digits=2),
                *(spread(numbers(runs, m), scale=100, digits=2) for m in ("f1", "precision", "recall")),
                spread(numbers(runs, "ece"), digits=3),
                spread(numbers(runs, "accuracy", "base"), scale=100, digits=2),
                spread(numbers(runs, "accuracy", "tfidf_svm"), scale=100, digits=2),
                interval,
                ", ".join(sorted({r.report["verdict"] for r in runs})),
                *cost(runs),
            ]
        )
    publish(given.out, "BANKING77", TEXT, table(HEAD, rows))


if __name__ == "__main__":
    main()
