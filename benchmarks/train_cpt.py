"""W2: continued pre-training on packed text, every token supervised, against TRL and LitGPT.

    export METIER_DATA=…
    python benchmarks/train_cpt.py                                   # everything, writes benchmarks/train_cpt.md
    python benchmarks/train_cpt.py --shapes tiny --pairs 1 --out -   # does it run and agree? no figures

The text (Project Gutenberg, one after another, cut every 1,024 tokens) is packed before anybody sees it: nobody has
padding, everybody takes the same blocks in each optimiser step. Equal work and its checks are those of W1
(train_sft.py). Each rival is tuned first: TRL's per-device batch, LitGPT's with and without torch.compile.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import data_dir, need, publish, spread, table
from sft.workload import SHAPES, Workload
from train_sft import EVALUATION_LOSS, LOSS_AT_START, OURS, call, installed, our_environment, rival, say, tokens

LITGPT = ("litgpt==0.5.13", "requests")
STEPS = {"15m": 9, "nano": 9, "tiny": 3}
TRIAL_STEPS, TRIAL_ROUNDS = 4, 2  # a single trial of three steps once chose a batch that was not LitGPT's best
BLOCK, BATCH_SIZE = 1024, 8
TARGET = 1.5


def litgpt(venv_dir: Path) -> Path:
    """Return the python of an environment with LitGPT, making it when it is not there."""
    return installed(venv_dir, "torch==2.13.0", *LITGPT)


def compare(workload: Workload, given: argparse.Namespace, pythons: dict[str, Path]) -> dict[str, Any]:
    """Run one shape: prepare, tune the rivals, then the pairs, then the judge."""
    work = given.work_dir / workload.shape
    shutil.rmtree(work, ignore_errors=True)
    (work / "tune").mkdir(parents=True)
    order = json.dumps({"work": str(work), "workload": asdict(workload), "rows": str(given.data / "gutenberg")})
    facts = call(Path(sys.executable), "workload.py", order, threads=workload.threads)
    full = (work / "workload.json").read_text()
    (work / "workload.json").write_text(json.dumps({**json.loads(full), "steps": TRIAL_STEPS}))
    trl = {n: {"profile": "tuned", "per_device": n} for n in (1, 2, 4)}
    lit = {
        f"{n}{', compiled' if compiled else ''}": {"per_device": n, "compile": compiled, "steps": TRIAL_STEPS}
        for n in (1, 2, 4)
        for compiled in (False, True)
    }
    best_trl = _fastest("run_trl.py", pythons["trl"], trl, work, workload.threads)
    best_lit = _fastest("run_litgpt.py", pythons["litgpt"], lit, work, workload.threads)
    (work / "workload.json").write_text(full)
    best_lit.pop("steps")
    contestants = [
        *((name, Path(sys.executable), "run_metier.py", said, our_environment()) for name, said in OURS.items()),
        ("trl tuned", pythons["trl"], "run_trl.py", best_trl, {}),
        ("litgpt tuned", pythons["litgpt"], "run_litgpt.py", best_lit, {}),
    ]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, *_ in contestants}
    judged: dict[str, float] = {}
    for pair in range(given.pairs):
        for name, python, script, settings, variables in contestants:
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            said = json.dumps(settings)
            runs[name].append(call(python, script, str(work), str(out), said, threads=workload.threads, more=variables))
            say(f"  pair {pair + 1}: {name:<13} {sum(runs[name][-1]['step_seconds'][1:]):8.1f} s")
            if not pair:
                judged[name] = call(pythons["trl"], "judge.py", str(work), str(out), threads=workload.threads)["loss"]
    return {"facts": facts, "runs": runs, "judged": judged, "tokens": tokens(work)}


def _fastest(
    script: str, python: Path, settings: dict[Any, dict[str, Any]], work: Path, threads: int
) -> dict[str, Any]:
    """Return the settings whose fastest step, over rounds that take turns, is the smallest."""
    seconds: dict[Any, float] = dict.fromkeys(settings, math.inf)
    for _ in range(TRIAL_ROUNDS):
        for name, said in settings.items():
            result = call(python, script, str(work), str(work / "tune"), json.dumps(said), threads=threads)
            seconds[name] = min(seconds[name], *result["step_seconds"][1:])
    best = min(seconds, key=lambda name: seconds[name])
    say(f"{script}: seconds per step { ({k: round(v, 1) for k, v in seconds.items()}) }; the fastest is {best}")
    return dict(settings[best])


def verdicts(result: dict[str, Any]) -> list[str]:
    """Return what broke the promise of equal work; an empty list is a pass."""
    broken = []
    for name, runs in result["runs"].items():
        gap = abs(result["runs"]["metier"][0]["losses"][0] - runs[0]["losses"][0])
        if gap > LOSS_AT_START:
            broken.append(f"loss of the first step differs from {name} by {gap:.4f} > {LOSS_AT_START}")
        if result["judged"]["metier"] - result["judged"][name] > EVALUATION_LOSS:
            broken.append(f"judged loss is worse than {name}'s")
    return broken


def report(results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the parts of the page."""
    head = ["shape", "contestant", "tokens/s", "our speed ratio", "… compiled", "peak memory, MB", "our share of it"]
    head += ["… compiled", "start-up, s", "first step, s", "judged loss"]
    rows, checks = [], []
    for result in results:
        facts = result["facts"]
        seconds = {n: [sum(r["step_seconds"][1:]) for r in runs] for n, runs in result["runs"].items()}
        peak = {n: statistics.median(r["peak_bytes"] for r in runs) for n, runs in result["runs"].items()}
        for name, runs in result["runs"].items():
            said, other = runs[0]["settings"], name not in OURS
            ratios, shares = [], []
            for own in OURS:
                pairs = zip(seconds[own], seconds[name], strict=True)
                ratios.append(spread([theirs / ours for ours, theirs in pairs], digits=2, unit="×") if other else "")
                shares.append(f"{peak[own] / peak[name]:.0%}" if other else "")
            how = f" (batch {said['per_device']}{', compiled' if said.get('compile') else ''})" if other else ""
            rows.append(
                [
                    f"{facts['shape']} ({facts['parameters'] / 1e6:.1f} M)",
                    name + how,
                    spread([result["tokens"]["non_padding"] / s for s in seconds[name]], digits=0),
                    *ratios,
                    f"{peak[name] / 1e6:.0f}",
                    *shares,
                    spread([r["startup_seconds"] for r in runs], digits=0),
                    spread([r["step_seconds"][0] for r in runs], digits=1),
                    f"{result['judged'][name]:.4f}",
                ]
            )
        broken = verdicts(result)
        first = ", ".join(f"{name} {runs[0]['losses'][0]:.5f}" for name, runs in result["runs"].items())
        equal = "equal work" if not broken else "**not equal work: " + "; ".join(broken) + "**"
        checks.append(f"- {facts['shape']}: loss of the first step {first}: {equal}")
    text = (
        "What is equal and how it is checked: see the script. The first step of each run is left out of the speeds (it "
        "allocates, and compiles where a contestant compiles) and is shown apart. Ratios are medians over pairs that "
        f"ran one after the other, with the smallest and the largest. Target: at least {TARGET}× the better rival."
    )
    return text, table(head, rows), "\n".join(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(tempfile.gettempdir()) / "metier-benchmarks"
    parser.add_argument("--shapes", nargs="+", default=["15m", "nano"], choices=sorted(SHAPES))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", type=Path, default=data_dir(), help="the public data sets (METIER_DATA)")
    parser.add_argument("--trl-venv", type=Path, default=cache / "trl", help="where the environment with TRL goes")
    parser.add_argument("--litgpt-venv", type=Path, default=cache / "litgpt", help="where the one with LitGPT goes")
    parser.add_argument("--work-dir", type=Path, default=cache / "w2")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    given = parser.parse_args()
    need(given.data / "gutenberg")
    pythons = {"trl": rival(given.trl_venv), "litgpt": litgpt(given.litgpt_venv)}
    results = [
        compare(
            Workload(
                shape=shape, adapter="full", steps=STEPS[shape], batch_size=BATCH_SIZE, learning_rate=1e-3,
                threads=given.threads, max_length=BLOCK, num_train=BATCH_SIZE * STEPS[shape], num_eval=32, task="text",
            ),
            given,
            pythons,
        )
        for shape in given.shapes
    ]  # fmt: skip
    publish(given.out, "W2: continued pre-training", *report(results))
    return 1 if any(verdicts(r) for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
