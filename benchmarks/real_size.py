"""Real size: a model of Qwen's 0.5 B shape with random weights goes through the whole house.

    export METIER_DATA=…
    python benchmarks/real_size.py                    # writes benchmarks/real_size.md
    python benchmarks/real_size.py --prepare FOLDER   # only the model, for recipes/gsm8k-lora-qwen-shape.yaml

Plan, eight LoRA steps on GSM8K with a stop behind the first checkpoint, resume, merge and export, reload in a fresh
process (the parity certificate). The figures: memory predicted and used, seconds per phase.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from machine import data_dir, need, publish, table
from recipe_runs import adopt, metier

RECIPE = "gsm8k-lora-qwen-shape"
SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
MEMORY_LIMIT_GB, MEMORY_ERROR = 24, 0.15
STEPS = 8
TEXT = """\
494 M parameters, vocabulary of 151,936, random weights. Memory is the high-water mark of the worker process."""


def prepare(folder: Path) -> None:
    """Write the random model (bfloat16 safetensors, 1 GB) and a tokenizer trained on GSM8K, with a chat template."""
    import torch
    from sft.workload import read_rows, train_tokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(
        [r["question"] + "\n" + r["answer"] for r in read_rows(need(data_dir() / "gsm8k" / "train.jsonl"))]
    )
    template = resources.files("metier.data").joinpath("templates", "chatml.jinja")
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPE, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def go_through(project: Path) -> dict[str, Any]:
    """Plan, train, stop, resume, export; return the figures."""
    seconds: dict[str, float] = {}

    def timed(name: str, *arguments: str) -> str:
        began = time.monotonic()
        printed = metier(*arguments, folder=project)
        seconds[name] = time.monotonic() - began
        return printed

    metier("init", ".", "--name", "real-size", folder=project)
    recipe = adopt(RECIPE, project)
    plan = json.loads(timed("plan", "plan", recipe, "--json"))
    began = time.monotonic()
    started = json.loads(metier("train", recipe, "--detach", "--json", folder=project))
    run = Path(started["dir"])
    stopped_at = _stop_at_checkpoint(run, str(started["run"]), project)
    seconds["train to the stop"] = time.monotonic() - began
    timed("resume, evaluate, report", "runs", "resume", str(started["run"]))
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    exported = json.loads(
        timed("merge, export, reload", "models", "export", str(started["run"]), "--to", "out", "--json")
    )
    return {
        "predicted": plan["memory_bytes"],
        "used": status["peak_memory_bytes"],
        "state": status["state"],
        "steps": [e["step"] for e in events if e["kind"] == "step"],
        "losses": [e["loss"] for e in events if e["kind"] == "step"],
        "step_seconds": [e["seconds"] for e in events if e["kind"] == "step"],
        "stopped_at": stopped_at,
        "parity": exported.get("parity"),
        "seconds": seconds,
    }


def _stop_at_checkpoint(run: Path, ref: str, project: Path, *, limit_seconds: float = 3600) -> int:
    """Wait for the first checkpoint, ask the run to stop, and return the step it stopped at."""
    deadline = time.monotonic() + limit_seconds
    asked = False
    while time.monotonic() < deadline:
        status = json.loads((run / "status.json").read_text(encoding="utf-8"))
        if status["state"] in ("stopped", "failed", "done"):
            break
        events = (run / "events.jsonl").read_text(encoding="utf-8") if (run / "events.jsonl").exists() else ""
        if not asked and '"kind": "checkpoint"' in events:
            metier("runs", "stop", ref, folder=project)
            asked = True
        time.sleep(0.5)
    if status["state"] != "stopped":
        raise SystemExit(f"the run is {status['state']}, it should have been stopped")
    return max(json.loads(line)["step"] for line in events.splitlines() if json.loads(line)["kind"] == "step")


def _said(parity: dict[str, Any] | None) -> str:
    """Return a certificate in words."""
    if not parity:
        return "none"
    greedy = f"{parity['greedy_equal']} of {parity['greedy_rows']} greedy continuations equal"
    ties = f", {parity['greedy_parted_at_a_tie']} parted at a tie" if parity.get("greedy_parted_at_a_tie") else ""
    return (
        f"{'passed' if parity['passed'] else 'failed'}: {parity['num_figures']} log-probabilities differ by"
        f" {parity['mean_difference']:.3f} on average (at most {parity['mean_allowed']}), {greedy}{ties}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the random model and stop")
    parser.add_argument("--project", type=Path, help="where the run is kept (default: a temporary folder)")
    parser.add_argument(
        "--out", default=str(Path(__file__).with_suffix(".md")), help="the page to write, - for the terminal"
    )
    given = parser.parse_args()
    if given.prepare:
        prepare(given.prepare)
        return 0
    project = given.project or Path(tempfile.mkdtemp(prefix="metier-real-size-"))
    project.mkdir(parents=True, exist_ok=True)
    model = project / "qwen-shape"
    if not (model / "config.json").exists():
        prepare(model)
    os.environ["METIER_QWEN_SHAPE"] = str(model.resolve())
    found = go_through(project)
    error = found["predicted"] / found["used"] - 1
    rows = [
        ["memory predicted, GB", f"{found['predicted'] / 1e9:.2f}", f"at most {MEMORY_LIMIT_GB}"],
        ["memory used, GB", f"{found['used'] / 1e9:.2f}", f"at most {MEMORY_LIMIT_GB}"],
        ["error of the prediction", f"{error:+.0%}", f"± {MEMORY_ERROR:.0%}"],
        ["steps taken", ", ".join(map(str, found["steps"])), f"1 … {STEPS}, each once"],
        ["stopped after step", str(found["stopped_at"]), f"3 to {STEPS - 1}"],
        ["loss per step", ", ".join(f"{v:.3f}" for v in found["losses"]), "falling from ln 151,936 = 11.93"],
        ["seconds per step", ", ".join(f"{v:.1f}" for v in found["step_seconds"]), ""],
        ["export parity", _said(found["parity"]), "passed, in a fresh process"],
        *([f"seconds: {name}", f"{value:.0f}", ""] for name, value in found["seconds"].items()),
    ]
    publish(given.out, "Real size: 0.5 B, LoRA", TEXT, table(["what", "found", "wanted"], rows))
    went_on = found["steps"] == list(range(1, STEPS + 1)) and 3 <= found["stopped_at"] < STEPS
    passed = bool((found["parity"] or {}).get("passed"))
    return 0 if went_on and passed and abs(error) <= MEMORY_ERROR and found["used"] <= MEMORY_LIMIT_GB * 1e9 else 1


if __name__ == "__main__":
    sys.exit(main())
