"""MTS-Dialog: doctor–patient dialogues to note sections, three seeds, through the command line.

export METIER_DATA=…
python benchmarks/mts_dialog.py
"""

from __future__ import annotations

from machine import publish, spread, table
from recipe_runs import arguments, cost, numbers, run_recipe

RECIPES = ("mts-dialog-sft",)
METRICS = (("rouge", "ROUGE-L"), ("rouge:variant=1", "ROUGE-1"), ("perplexity", "perplexity"))
TEXT = """\
200 test dialogues (MEDIQA-Chat 2023), median over the seeds (smallest–largest). The nearest neighbour answers with the
note of the most similar training dialogue; a model that does not beat it may claim nothing."""


def main() -> None:
    given = arguments(__doc__, "mts_dialog.md")
    rows = []
    for name in given.recipes or RECIPES:
        runs = run_recipe(name, given.seeds, given.project, given.set)
        for system in runs[0].report["systems"]:
            is_run = system["name"] == "run"
            rows.append(
                [
                    name,
                    system["label"],
                    *(spread(numbers(runs, metric, system["name"])) for metric, _ in METRICS),
                    ", ".join(sorted({r.report["verdict"] for r in runs})) if is_run else "",
                    *(cost(runs) if is_run else ["", "", ""]),
                ]
            )
    head = ["recipe", "system", *(label for _, label in METRICS), "verdict", "minutes", "peak GB", "trained M"]
    publish(given.out, "MTS-Dialog", TEXT, table(head, rows))


if __name__ == "__main__":
    main()
