"""Start-up: from the command to the end of the first optimiser step, against importing PyTorch and loading the model.

    python benchmarks/startup.py            # writes benchmarks/startup.md

`metier train` on metier/nano with 500 short chats, data and probe cached by a run before, as on a second start; the
clock is read from outside, and stops at the time stamp of the first step. Beside it a process that imports torch and
transformers and loads the same model. Interleaved; target: at most 2.5 times as long.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import nano_dir, publish, spread, table
from recipe_runs import metier

TARGET = 2.5
RECIPE = """\
version: 1
name: startup
data: {sources: [{path: chats.jsonl}], split: {validation: 0.1, test: 0.1}}
model: {name_or_path: metier/nano}
adapter: {kind: lora}
method: {kind: sft}
training: {max_steps: 1, batch_size: 8}
evaluation: {baseline: false, max_examples: 1, max_new_tokens: 1}
"""
LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1])
"""


def first_step(project: Path) -> float:
    """Return the seconds from the command to the end of the run's first step."""
    began = time.time()
    metier("train", "recipe.yaml", folder=project)
    run = max((project / "runs").iterdir())
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    step = next(event for event in events if event["kind"] == "step")
    return datetime.datetime.fromisoformat(step["time"]).timestamp() - began


def load(model: Path) -> float:
    """Return the seconds of a process that imports torch and loads the model."""
    began = time.time()
    subprocess.run(
        [sys.executable, "-c", LOAD, str(model)],
        check=True,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return time.time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    given = parser.parse_args()
    nano = nano_dir()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "desk"
        project.mkdir()
        metier("init", "--name", "desk", folder=project)
        chats = [
            {"messages": [{"role": "user", "content": f"What is {i} and {i * 7 % 31}?"},
                          {"role": "assistant", "content": f"It is {i + i * 7 % 31}, number {i}."}]}
            for i in range(500)
        ]  # fmt: skip
        (project / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
        (project / "recipe.yaml").write_text(RECIPE)
        first_step(project)  # makes the dataset, the tokens and the probes
        load(nano)
        pairs = [(first_step(project), load(nano)) for _ in range(given.pairs)]
    ours, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
    rows = [
        ["`metier train` to the end of its first step", spread(ours, digits=2, unit=" s")],
        ["import torch and transformers, load the model", spread(theirs, digits=2, unit=" s")],
        ["ratio of a pair", spread([a / b for a, b in pairs], digits=2, unit="×")],
    ]
    text = f"Target: at most {TARGET}×. What runs: see the script, `benchmarks/startup.py`."
    publish(given.out, "Start-up", text, table(["what", "seconds"], rows))


if __name__ == "__main__":
    main()
