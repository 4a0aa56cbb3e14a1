"""MFU: useful FLOPs of training against what this machine's cores do in one large matrix product.

    export METIER_DATA=…
    python benchmarks/mfu.py            # writes benchmarks/mfu.md

Continued pre-training in full on blocks of 1,024 tokens, all supervised. Useful FLOPs per token: 6 per weight (the tied
output layer counts once, the embedding not at all) and 6·context·width per layer for causal attention. The peak is a
2,048³ product of the same precision on one thread, in CPU time, before and after the run, the larger of the two. Shown
are the share of the cores' CPU time that was spent, and of their wall time, idle time included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import data_dir, need, publish, spread, table
from sft.workload import SHAPES, Workload
from train_sft import METIER_SETTINGS, call, our_environment, say, tokens

CASES = (("15m", "bfloat16", 0.30), ("135m", "bfloat16", 0.45), ("15m", "float32", 0.60), ("nano", "bfloat16", None))
STEPS = {"15m": 8, "nano": 8, "135m": 4, "tiny": 3}
BLOCK, BATCH_SIZE = 1024, 8
PEAK = """
import sys, time, torch
torch.set_num_threads(1)
size, dtype = 2048, getattr(torch, sys.argv[1])
left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
best = 1e9
for _ in range(8):
    began = time.process_time()
    left @ right
    best = min(best, time.process_time() - began)
print(2 * size**3 / best)
"""


def peak(dtype: str) -> float:
    """Return one thread's FLOP/s in CPU time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, dtype], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)


def flops_per_token(work: Path) -> float:
    """Return the useful FLOPs, forward and backward."""
    config = json.loads((work / "model" / "config.json").read_text())
    weights = json.loads((work / "workload.json").read_text())["parameters"]
    attention = 6 * BLOCK * config["hidden_size"] * config["num_hidden_layers"]
    return float(6 * weights + attention)


def measure(shape: str, dtype: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one case, plain and compiled, one after the other."""
    work = given.work_dir / f"{shape}-{dtype}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    workload = Workload(
        shape=shape, adapter="full", steps=STEPS[shape], batch_size=BATCH_SIZE, learning_rate=1e-4,
        threads=given.threads, max_length=BLOCK, num_train=BATCH_SIZE * STEPS[shape], num_eval=2, task="text",
    )  # fmt: skip
    order = json.dumps({"work": str(work), "workload": asdict(workload), "rows": str(given.data / "gutenberg")})
    facts = call(Path(sys.executable), "workload.py", order, threads=given.threads)
    found: dict[str, Any] = {"facts": facts, "runs": {"plain": [], "compiled": []}}
    done = tokens(work)["non_padding"] * flops_per_token(work)
    for repeat in range(given.repeats):
        for name, runs in found["runs"].items():
            before = peak(dtype)
            said = json.dumps({**METIER_SETTINGS, "compile": name == "compiled", "dtype": dtype})
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            result = call(
                Path(sys.executable), "run_metier.py", str(work), str(out), said, threads=given.threads,
                more=our_environment(),
            )  # fmt: skip
            rate = max(before, peak(dtype))
            cpu, wall = sum(result["cpu_seconds"][1:]), sum(result["step_seconds"][1:])
            runs.append(
                {
                    "peak": rate,
                    "mfu_cpu": done / cpu / rate,
                    "mfu_wall": done / (wall * given.threads) / rate,
                    "tokens_per_second": tokens(work)["non_padding"] / wall,
                }
            )
            say(f"{shape} {dtype} {name} {repeat + 1}: {runs[-1]['mfu_cpu']:.1%} of CPU time")
    return found


def report(results: dict[tuple[str, str], dict[str, Any]]) -> tuple[str, str]:
    """Return the page's text and its table."""
    head = [
        "shape",
        "precision",
        "blocks",
        "tokens/s",
        "peak per core, GFLOP/s",
        "MFU, CPU time",
        "MFU, wall",
        "target",
    ]
    targets = {(shape, dtype): target for shape, dtype, target in CASES}
    rows = []
    for key, found in results.items():
        for name, runs in found["runs"].items():
            target = targets.get(key)
            rows.append(
                [
                    f"{key[0]} ({found['facts']['parameters'] / 1e6:.1f} M)",
                    key[1],
                    name,
                    spread([r["tokens_per_second"] for r in runs], digits=0),
                    f"{statistics.median(r['peak'] for r in runs) / 1e9:.0f}",
                    spread([r["mfu_cpu"] for r in runs], digits=1, scale=100, unit=" %"),
                    spread([r["mfu_wall"] for r in runs], digits=1, scale=100, unit=" %"),
                    f"≥ {target:.0%}" if target else "",
                ]
            )
    text = (
        "What counts as useful and how the peak is found: see the script, `benchmarks/mfu.py`. The first step of each "
        "run, which allocates and compiles, is left out."
    )
    return text, table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(tempfile.gettempdir()) / "metier-benchmarks"
    parser.add_argument("--shapes", nargs="+", default=["15m", "135m", "nano"], choices=sorted(SHAPES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", type=Path, default=data_dir(), help="the public data sets (METIER_DATA)")
    parser.add_argument("--work-dir", type=Path, default=cache / "mfu")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    given = parser.parse_args()
    need(given.data / "gutenberg")
    cases = [(shape, dtype) for shape, dtype, _ in CASES if shape in given.shapes]
    cases += [(shape, "bfloat16") for shape in given.shapes if shape not in {c[0] for c in CASES}]
    results = {case: measure(*case, given) for case in cases}
    publish(given.out, "MFU", *report(results))


if __name__ == "__main__":
    main()
