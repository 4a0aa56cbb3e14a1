"""W1: supervised fine-tuning with masked prompts on GSM8K, Metier's loop against TRL's SFTTrainer.

    python benchmarks/train_sft.py                                  # everything, writes benchmarks/train_sft.md
    python benchmarks/train_sft.py --shapes tiny --steps 3 --pairs 1 --out -    # does it run and agree? no figures

Equal work: one dump of token ids and masks, the same examples in each optimiser step, the same random start (LoRA: the
same A and B), AdamW with the same rate, clipping, no decay, no dropout, bfloat16 products with float32 trained weights.
Checked, not assumed: the loss of the first step within 5e-3, and the final evaluation loss as a third party (plain
transformers in float32) finds it. TRL runs at its defaults and at its best: the per-device batch size is tried out
first. The runs are interleaved, each in a process of its own; the ratio of a pair is the figure, its median the result.
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
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import REPOSITORY, data_dir, need, publish, spread, table
from sft.workload import SHAPES, Workload

from metier.core.jobs import worker_environment

HERE = Path(__file__).resolve().parent
TRL = "trl==1.16.0"
MICRO_BATCH_TOKENS = 4096  # the product's own rule for a CPU
STEPS = {"15m": 24, "nano": 24, "135m": 8, "tiny": 4}
LOSS_AT_START = 5e-3
EVALUATION_LOSS = 2e-2
METIER_SETTINGS = {"micro_batch_tokens": MICRO_BATCH_TOKENS, "packing": True}
OURS = {"metier": {**METIER_SETTINGS, "compile": False}, "metier compiled": {**METIER_SETTINGS, "compile": True}}


def rival(venv_dir: Path) -> Path:
    """Return the python of an environment with TRL, making it when it is not there."""
    constraints = str(REPOSITORY / "constraints.txt")
    return installed(venv_dir, "-c", constraints, "torch", TRL, "peft", "datasets")


def installed(venv_dir: Path, *wanted: str) -> Path:
    """Return the python of an environment with what pip was asked for, making it when it is not there."""
    python = venv_dir / "bin" / "python"
    ready = venv_dir / ".ready"
    if not ready.exists():
        say(f"installing {' '.join(wanted)} into {venv_dir} (first time only)")
        venv.create(venv_dir, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        done = subprocess.run(install, check=False, stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(
                f"pip could not make {venv_dir}: the rival's packages come from a package index (see above)"
            )
        ready.touch()
    return python


def call(
    python: Path, script: str, *arguments: str, threads: int, more: dict[str, str] | None = None, folder: str = "sft"
) -> dict[str, Any]:
    """Run one contestant in a fresh process and return its last line, read as JSON; `more`: of its environment."""
    environment = {
        **os.environ,
        **(more or {}),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": f"{HERE}{os.pathsep}{REPOSITORY / 'src'}",
    }
    command = [str(python), str(HERE / folder / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def our_environment() -> dict[str, str]:
    """Return the variables that the product sets for its own workers."""
    return {name: value for name, value in worker_environment().items() if os.environ.get(name) != value}


def tuned_batch(python: Path, work: Path, workload: Workload) -> tuple[int, dict[int, float], dict[str, str]]:
    """Return TRL's fastest per-device batch size, the seconds per step of each that was tried, and its environment.

    The variables of our own workers are offered to the rival, too, and kept where they make it faster.
    """
    seconds: dict[int, float] = {}
    full = (work / "workload.json").read_text()
    (work / "workload.json").write_text(json.dumps({**json.loads(full), "steps": 3}))
    for per_device in (n for n in (1, 2, 4, 8, 16, 32) if n <= workload.batch_size):
        settings = json.dumps({"profile": "tuned", "per_device": per_device})
        result = call(python, "run_trl.py", str(work), str(work / "out-tune"), settings, threads=workload.threads)
        seconds[per_device] = min(result["step_seconds"][1:])
    best = min(seconds, key=lambda n: seconds[n])
    settings = json.dumps({"profile": "tuned", "per_device": best})
    trial = call(
        python,
        "run_trl.py",
        str(work),
        str(work / "out-tune"),
        settings,
        threads=workload.threads,
        more=our_environment(),
    )
    (work / "workload.json").write_text(full)
    return best, seconds, our_environment() if min(trial["step_seconds"][1:]) < seconds[best] else {}


def compare(
    workload: Workload, *, pairs: int, python: Path, gsm8k: Path, folder: Path, with_default: bool = True
) -> dict[str, Any]:
    """Run one shape with one adapter: prepare, tune the rival, then the pairs, then the judge."""
    work = folder / f"{workload.shape}-{workload.adapter}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    order = json.dumps({"work": str(work), "workload": asdict(workload), "rows": str(gsm8k)})
    facts = call(Path(sys.executable), "workload.py", order, threads=workload.threads)
    best, tried, more = tuned_batch(python, work, workload)
    with_ours = "with" if more else "without"
    say(f"{workload.shape} {workload.adapter}: TRL's fastest: batch {best} of {list(tried)}, {with_ours} our variables")
    tuned = json.dumps({"profile": "tuned", "per_device": best})
    default = json.dumps({"profile": "default", "per_device": min(8, workload.batch_size)})
    contestants = [
        *((n, Path(sys.executable), "run_metier.py", json.dumps(s), our_environment()) for n, s in OURS.items()),
        ("trl tuned", python, "run_trl.py", tuned, more),
        *([("trl default", python, "run_trl.py", default, {})] if with_default else []),
    ]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, *_ in contestants}
    for pair in range(pairs):
        for name, interpreter, script, settings, variables in contestants:
            out = work / f"out-{name.replace(' ', '-')}"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            result = call(interpreter, script, str(work), str(out), settings, threads=workload.threads, more=variables)
            runs[name].append({**result, "environment": variables})
            say(f"  pair {pair + 1}: {name:<12} {sum(runs[name][-1]['step_seconds'][1:]):8.1f} s")
    losses = {
        name: call(python, "judge.py", str(work), str(work / f"out-{name.replace(' ', '-')}"), threads=workload.threads)
        for name in runs
    }
    return {"facts": facts, "runs": runs, "judged": {n: v["loss"] for n, v in losses.items()}, "tokens": tokens(work)}


def tokens(work: Path) -> dict[str, int]:
    """Return the non-padding and the supervised tokens of the steps that are timed (all but the first)."""
    import numpy as np

    with np.load(work / "data.npz") as data:
        offsets, mask = data["train_offsets"], data["train_mask"]
        timed = data["steps"][1:].reshape(-1)
        all_steps = data["steps"].reshape(-1)
    length = np.diff(offsets)
    supervised = np.add.reduceat(mask, offsets[:-1])
    return {
        "non_padding": int(length[timed].sum()),
        "supervised": int(supervised[timed].sum()),
        "all_non_padding": int(length[all_steps].sum()),
    }


def verdicts(result: dict[str, Any]) -> list[str]:
    """Return what broke the promise of equal work; an empty list is a pass."""
    ours = result["runs"]["metier"][0]["losses"][0]
    broken = []
    for name in (name for name in result["runs"] if name != "metier"):
        gap = abs(ours - result["runs"][name][0]["losses"][0])
        if gap > LOSS_AT_START:
            broken.append(f"loss of the first step differs from {name} by {gap:.4f} > {LOSS_AT_START}")
        gap = result["judged"]["metier"] - result["judged"][name]
        if gap > EVALUATION_LOSS:
            broken.append(f"judged loss is worse than {name} by {gap:.4f} > {EVALUATION_LOSS}")
    return broken


def report(results: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the parts of the page, and what stands under them beside the provenance."""
    parts = [
        "What is equal and how it is checked: see the script, `benchmarks/train_sft.py`. The first step of each run is "
        "left out of the times (both sides allocate in it, and ours compiles in it) and shown apart, as is start-up. "
        "The product compiles blocks in runs of over four minutes where a trial pays. Speed ratios are medians over "
        "pairs that ran one after the other, with the smallest and the largest.",
    ]
    head = ["shape", "adapter", "contestant", "non-padding tokens/s", "supervised tokens/s", "our speed ratio"]
    head += [
        "… compiled",
        "peak memory, MB",
        "our share of it",
        "… compiled",
        "padding",
        "start-up, s",
        "first step, s",
    ]
    head += ["judged loss"]
    rows, checks = [], []
    for result in results:
        facts, count = result["facts"], result["tokens"]
        seconds = {n: [sum(r["step_seconds"][1:]) for r in runs] for n, runs in result["runs"].items()}
        peak = {n: statistics.median(r["peak_bytes"] for r in runs) for n, runs in result["runs"].items()}
        for name, runs in result["runs"].items():
            other = name not in OURS
            ratios, shares = [], []
            for own in OURS:
                pairs = zip(seconds[own], seconds[name], strict=True)
                ratios.append(spread([theirs / ours for ours, theirs in pairs], digits=2, unit="×") if other else "")
                shares.append(f"{peak[own] / peak[name]:.0%}" if other else "")
            rows.append(
                [
                    f"{facts['shape']} ({facts['parameters'] / 1e6:.1f} M)",
                    facts["adapter"],
                    name if name != "trl tuned" else f"trl tuned (batch {runs[0]['settings']['per_device']})",
                    spread([count["non_padding"] / s for s in seconds[name]], digits=0),
                    spread([count["supervised"] / s for s in seconds[name]], digits=0),
                    *ratios,
                    f"{peak[name] / 1e6:.0f}",
                    *shares,
                    f"{1 - count['all_non_padding'] / runs[0]['slots']:.0%}",
                    spread([r["startup_seconds"] for r in runs], digits=0),
                    spread([r["step_seconds"][0] for r in runs], digits=1),
                    f"{result['judged'][name]:.4f}",
                ]
            )
        first = {n: runs[0]["losses"][0] for n, runs in result["runs"].items()}
        broken = verdicts(result)
        checks.append(
            f"- {facts['shape']} {facts['adapter']}: loss of the first step "
            + ", ".join(f"{n} {v:.5f}" for n, v in first.items())
            + (": equal work" if not broken else ": **not equal work: " + "; ".join(broken) + "**")
        )
    versions = results[0]["runs"]["trl tuned"][0]["versions"]
    extra = [
        "TRL's side: " + ", ".join(f"{k} {v}" for k, v in versions.items()),
        f"Steps per run: {', '.join(str(r['facts']['steps']) for r in results)} of {results[0]['facts']['batch_size']} "
        f"examples; pairs: {len(results[0]['runs']['metier'])}; threads: {results[0]['facts']['threads']}; "
        f"Metier: {METIER_SETTINGS}",
        "Environment: ours "
        + " ".join(f"{k}={v}" for k, v in our_environment().items() if not k.endswith("_DIR"))
        + "; offered to TRL, too, and "
        + ", ".join(
            f"{'taken' if r['runs']['trl tuned'][0]['environment'] else 'slower'} "
            f"({r['facts']['shape']} {r['facts']['adapter']})"
            for r in results
        ),
        "One tokenizer (8,192 pieces, trained on GSM8K) serves all shapes, so that the tokens are the same; the "
        "size of the output layer is the shape's own.",
    ]
    return [*parts, table(head, rows), "\n".join(checks)], extra


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(tempfile.gettempdir()) / "metier-benchmarks"
    parser.add_argument("--shapes", nargs="+", default=["15m", "nano", "135m"], choices=sorted(SHAPES))
    parser.add_argument("--adapters", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="optimiser steps per run (default: by shape)")
    parser.add_argument("--no-default", action="store_true", help="leave TRL at its defaults out: never the figure")
    parser.add_argument("--batch-size", type=int, default=16, help="examples per optimiser step")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--gsm8k", type=Path, default=data_dir() / "gsm8k")
    parser.add_argument("--venv-dir", type=Path, default=cache / "trl", help="where the environment with TRL goes")
    parser.add_argument("--work-dir", type=Path, default=cache / "w1")
    parser.add_argument("--out", default=str(HERE / "train_sft.md"), help="the page to write, - for the terminal")
    arguments = parser.parse_args()
    need(arguments.gsm8k)
    python = rival(arguments.venv_dir)
    results = []
    for shape in arguments.shapes:
        for adapter in arguments.adapters:
            workload = Workload(
                shape=shape,
                adapter=adapter,
                steps=arguments.steps or STEPS[shape],
                batch_size=arguments.batch_size,
                learning_rate=1e-3 if adapter == "lora" else 3e-4,
                threads=arguments.threads,
            )
            results.append(
                compare(
                    workload,
                    pairs=arguments.pairs,
                    python=python,
                    gsm8k=arguments.gsm8k,
                    folder=arguments.work_dir,
                    with_default=not arguments.no_default,
                )
            )
    parts, extra = report(results)
    publish(arguments.out, "W1: supervised fine-tuning on GSM8K against TRL", *parts, extra=extra)
    if arguments.out != "-":
        (Path(arguments.out).with_suffix(".json")).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 1 if any(verdicts(r) for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
