"""W3: a frozen base with a task head against transformers' Trainer, and LoRA on the top quarter against TRL.

    export METIER_DATA=… METIER_MINILM=…              # benchmarks/get_minilm.py says where the second comes from
    python benchmarks/train_frozen.py                 # writes benchmarks/train_frozen.md

Ours computes the frozen part once per example and keeps what leaves it; making that cache is inside the time, and so is
the first epoch. Equal work: one dump of token ids, the same examples in each optimiser step, the same first weights,
AdamW with the same constant rate, no dropout. Checked: the loss of the first step within 5e-3, and the loss of the
saved weights on held-out rows as a third party (plain transformers in float32) finds it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import data_dir, need, publish, spread, table
from sft.workload import Workload
from train_sft import EVALUATION_LOSS, LOSS_AT_START, MICRO_BATCH_TOKENS, call, our_environment, rival, say

HEAD_TARGETS = {3: 3.5, 10: 12.0}
LORA_TARGET = 2.0
LORA_SHAPE, LORA_LAYERS, LORA_EPOCHS, LORA_ROWS = "18m", (6, 7), 3, 256


def head_only(epochs: int, given: argparse.Namespace, python: Path) -> dict[str, Any]:
    """Run one number of epochs: prepare, tune the rival's batch, then the pairs, then the judge."""
    work = given.work_dir / f"head-{epochs}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    order = {
        "work": str(work), "model": str(given.minilm), "rows": str(given.data / "banking77"),
        "epochs": epochs, "num_train": given.rows, "num_eval": 500,
    }  # fmt: skip
    facts = call(Path(sys.executable), "workload.py", json.dumps(order), threads=given.threads, folder="frozen")
    threads = {"threads": given.threads}
    tried: dict[int, float] = {}
    for per_device in (8, 16, 32):
        settings = json.dumps({**threads, "profile": "tuned", "per_device": per_device, "steps": 8})
        (work / "tune").mkdir(exist_ok=True)
        out = call(
            python, "run_trainer.py", str(work), str(work / "tune"), settings, threads=given.threads, folder="frozen"
        )
        tried[per_device] = out["seconds"]
    best = min(tried, key=lambda n: tried[n])
    say(f"head, {epochs} epochs: the Trainer's fastest batch: {best} of {list(tried)}")
    contestants = {
        "metier": (Path(sys.executable), "run_metier.py", {"micro_batch_tokens": MICRO_BATCH_TOKENS, "cache": True}),
        "metier, no cache": (
            Path(sys.executable), "run_metier.py", {"micro_batch_tokens": MICRO_BATCH_TOKENS, "cache": False},
        ),
        "Trainer tuned": (python, "run_trainer.py", {"profile": "tuned", "per_device": best}),
        "Trainer default": (python, "run_trainer.py", {"profile": "default", "per_device": 8}),
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    judged: dict[str, dict[str, float]] = {}
    for pair in range(given.pairs):
        for name, (interpreter, script, settings) in contestants.items():
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            more = our_environment() if script == "run_metier.py" else None
            said = json.dumps({**threads, **settings})
            result = call(
                interpreter, script, str(work), str(out), said, threads=given.threads, more=more, folder="frozen"
            )
            runs[name].append(result)
            say(f"  pair {pair + 1}: {name:<17} {result['seconds']:7.1f} s")
            if not pair:
                judged[name] = call(
                    python, "judge.py", str(work), str(out / "head.npz"), threads=given.threads, folder="frozen"
                )
    return {"facts": facts, "runs": runs, "judged": judged, "target": HEAD_TARGETS.get(epochs)}


def top_quarter(given: argparse.Namespace, python: Path) -> dict[str, Any]:
    """LoRA on the top two of eight blocks: the workload of W1, three epochs."""
    workload = Workload(
        shape=LORA_SHAPE, adapter="lora", steps=LORA_EPOCHS * LORA_ROWS // 16, batch_size=16, learning_rate=1e-3,
        threads=given.threads, num_train=LORA_ROWS, layers=LORA_LAYERS,
    )  # fmt: skip
    work = given.work_dir / "lora"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    order = json.dumps({"work": str(work), "workload": asdict(workload), "rows": str(given.data / "gsm8k")})
    facts = call(Path(sys.executable), "workload.py", order, threads=given.threads)
    full = (work / "workload.json").read_text()
    (work / "workload.json").write_text(json.dumps({**json.loads(full), "steps": 3}))
    tried: dict[int, float] = {}
    for per_device in (1, 2, 4, 8):
        settings = json.dumps({"profile": "tuned", "per_device": per_device})
        (work / "tune").mkdir(exist_ok=True)
        out = call(python, "run_trl.py", str(work), str(work / "tune"), settings, threads=given.threads)
        tried[per_device] = min(out["step_seconds"][1:])
    (work / "workload.json").write_text(full)
    best = min(tried, key=lambda n: tried[n])
    say(f"LoRA on top: TRL's fastest batch: {best} of {list(tried)}")
    ours = {"micro_batch_tokens": MICRO_BATCH_TOKENS, "packing": True}
    contestants = {
        "metier": (Path(sys.executable), "run_metier.py", {**ours, "cache": True}),
        "metier, no cache": (Path(sys.executable), "run_metier.py", ours),
        "TRL tuned": (python, "run_trl.py", {"profile": "tuned", "per_device": best}),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    judged: dict[str, dict[str, float]] = {}
    for pair in range(given.pairs):
        for name, (interpreter, script, settings) in contestants.items():
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            more = our_environment() if script == "run_metier.py" else None
            result = call(
                interpreter, script, str(work), str(out), json.dumps(settings), threads=given.threads, more=more
            )
            result["seconds"] = sum(result["step_seconds"]) + result.get("cache_seconds", 0.0)
            runs[name].append(result)
            say(f"  pair {pair + 1}: {name:<17} {result['seconds']:7.1f} s")
            if not pair:
                judged[name] = call(python, "judge.py", str(work), str(out), threads=given.threads)
    return {"facts": {**facts, "epochs": LORA_EPOCHS}, "runs": runs, "judged": judged, "target": LORA_TARGET}


def verdicts(result: dict[str, Any]) -> list[str]:
    """Return what broke the promise of equal work; an empty list is a pass."""
    ours, broken = result["runs"]["metier"][0]["losses"][0], []
    for name, runs in result["runs"].items():
        gap = abs(ours - runs[0]["losses"][0])
        if gap > LOSS_AT_START:
            broken.append(f"loss of the first step differs from {name} by {gap:.4f}")
        gap = result["judged"]["metier"]["loss"] - result["judged"][name]["loss"]
        if gap > EVALUATION_LOSS:
            broken.append(f"judged loss is worse than {name} by {gap:.4f}")
    return broken


def report(results: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Return the parts of the page."""
    head = ["workload", "contestant", "seconds", "of them the cache", "our speed ratio", "target", "judged loss"]
    rows, checks = [], []
    for title, result in results.items():
        seconds = {name: [r["seconds"] for r in runs] for name, runs in result["runs"].items()}
        tuned = next(name for name in seconds if name.endswith("tuned"))
        for name, runs in result["runs"].items():
            ratio = [theirs / ours for ours, theirs in zip(seconds["metier"], seconds[name], strict=True)]
            cache = [r["cache_seconds"] for r in runs if r.get("cache_seconds", 0.0) > 0.01]
            rows.append(
                [
                    title,
                    name + (f" (batch {batch})" if (batch := runs[0]["settings"].get("per_device")) else ""),
                    spread(seconds[name], digits=1),
                    f"{statistics.median(cache):.1f}" if cache else "",
                    spread(ratio, digits=2, unit="×") if name != "metier" else "",
                    f"≥ {result['target']:g}×" if name == tuned else "",
                    f"{result['judged'][name]['loss']:.4f}",
                ]
            )
        broken = verdicts(result)
        first = ", ".join(f"{name} {runs[0]['losses'][0]:.5f}" for name, runs in result["runs"].items())
        equal = "equal work" if not broken else "**not equal work: " + "; ".join(broken) + "**"
        checks.append(f"- {title}: loss of the first step {first}: {equal}")
    text = (
        "What is equal and how it is checked: see the script. Times are whole trainings: the cache and the first epoch "
        "are inside. Ratios are medians over pairs that ran one after the other, with the smallest and the largest."
    )
    return text, table(head, rows), "\n".join(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(tempfile.gettempdir()) / "metier-benchmarks"
    parser.add_argument("--epochs", type=int, nargs="*", default=[3, 10], help="of the runs with a head alone")
    parser.add_argument("--no-lora", action="store_true", help="leave the top-quarter LoRA out")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", type=Path, default=data_dir(), help="the public data sets (METIER_DATA)")
    minilm = os.environ.get("METIER_MINILM") or None
    parser.add_argument("--minilm", type=Path, default=minilm, help="directory of the encoder")
    parser.add_argument("--venv-dir", type=Path, default=cache / "trl", help="where the environment with TRL goes")
    parser.add_argument("--work-dir", type=Path, default=cache / "w3")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    given = parser.parse_args()
    if given.epochs and given.minilm is None:
        raise SystemExit("set METIER_MINILM or --minilm: benchmarks/get_minilm.py says where it comes from")
    if given.epochs and not (Path(given.minilm) / "config.json").exists():
        raise SystemExit(f"{given.minilm} is no model directory: METIER_MINILM or --minilm (benchmarks/get_minilm.py)")
    for name in [*(["banking77"] if given.epochs else []), *([] if given.no_lora else ["gsm8k"])]:
        need(given.data / name)
    python = rival(given.venv_dir)
    results = {f"frozen MiniLM + head, {n} epochs": head_only(n, given, python) for n in given.epochs}
    if not given.no_lora:
        results[f"LoRA on the top quarter ({LORA_SHAPE}), {LORA_EPOCHS} epochs"] = top_quarter(given, python)
    publish(given.out, "W3: a frozen base", *report(results))
    return 1 if any(verdicts(r) for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
