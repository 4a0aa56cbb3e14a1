"""Scaling: what a token costs, and what memory a run holds, from 1,000 to 200,000 rows.

    python benchmarks/scaling.py                                          # writes benchmarks/scaling.md
    python benchmarks/scaling.py --sizes 1000 2000 --rounds 1 --out -     # does it run? no figures

The same steps (LoRA on metier/nano, 16 chats each, lengths drawn alike) on data sets of growing size, made by rule, no
two rows alike. Each run is a `metier train` of its own; preparation is shown apart. Target: seconds per token within
±10 % of the smallest set's, memory flat. The sets are gone through in rounds, so that a slow minute hits all of them; a
token's cost is that of all steps but the first two, the slow ones too, against the smallest set's of the same round.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import publish, spread, table
from recipe_runs import metier

SIZES = (1_000, 10_000, 100_000, 200_000)
STEPS = 40
HELD_OUT = 100  # rows of validation, and of test, whatever the size
RECIPE = """\
version: 1
name: rows-{rows}
data:
  sources: [{{path: chats-{rows}.jsonl}}]
  split: {{validation: {share:g}, test: {share:g}}}
model: {{name_or_path: metier/nano}}
adapter: {{kind: lora}}
method: {{kind: sft}}
training: {{max_steps: {steps}, batch_size: 16, torch_compile: false}}
evaluation: {{baseline: false, max_examples: 1, max_new_tokens: 1}}
"""


def write_rows(path: Path, rows: int) -> None:
    """Write chats of 8 to 60 words."""
    draw = random.Random(rows)
    words = [
        "account",
        "balance",
        "card",
        "doctor",
        "pain",
        "letter",
        "rate",
        "house",
        "river",
        "seven",
        "green",
        "stone",
    ]
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            question = " ".join(draw.choices(words, k=draw.randrange(4, 30)))
            answer = " ".join(draw.choices(words, k=draw.randrange(4, 30)))
            talk = [{"role": "user", "content": f"{i:x} {question}?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": talk}) + "\n")


def run(project: Path, rows: int) -> dict[str, Any]:
    """Train once; return the figures."""
    began = time.time()
    metier("train", f"recipe-{rows}.yaml", folder=project)
    directory = max((project / "runs").iterdir())
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "step"][2:]
    status = json.loads((directory / "status.json").read_text())
    return {
        "token": sum(s["seconds"] for s in steps) / sum(s["tokens"] for s in steps),
        "rows": json.loads((directory / "report.json").read_text())["data"]["rows"]["train"],
        "memory": status["peak_memory_bytes"],
        "whole": time.time() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    given = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {rows: [] for rows in given.sizes}
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "desk"
        project.mkdir()
        metier("init", "--name", "desk", folder=project)
        for rows in given.sizes:
            write_rows(project / f"chats-{rows}.jsonl", rows)
            text = RECIPE.format(rows=rows, steps=STEPS, share=HELD_OUT / rows)
            (project / f"recipe-{rows}.yaml").write_text(text)
        for _ in range(given.rounds):
            for rows in given.sizes:
                found[rows].append(run(project, rows))
                print(rows, found[rows][-1], file=sys.stderr, flush=True)
    fewest = found[given.sizes[0]]
    table_rows = [
        [
            f"{rows:,}",
            f"{runs[0]['rows']:,}",
            spread([each["token"] * 1e6 for each in runs], digits=0),
            spread([a["token"] / b["token"] for a, b in zip(runs, fewest, strict=True)], digits=3, unit="×"),
            f"{runs[0]['memory'] / 1e6:.0f}",
            spread([each["memory"] / 1e6 for each in runs[1:]], digits=0),
            f"{runs[0]['whole']:.0f}",
            spread([each["whole"] for each in runs[1:]], digits=0),
        ]
        for rows, runs in found.items()
    ]
    head = [
        "rows",
        "trained on",
        "µs per token",
        "against the fewest",
        "peak memory of the first run, MB",
        "of later runs, MB",
        "first run, s",
        "later runs, s",
    ]
    text = (
        "The same number of steps on data sets of growing size: see the script, `benchmarks/scaling.py`. Target: the "
        "cost of a token within ±10 %, memory flat. `trained on` leaves out twins and held-out rows. The first run of "
        "a set also splits and tokenises it."
    )
    publish(given.out, "Scaling", text, table(head, table_rows))


if __name__ == "__main__":
    main()
