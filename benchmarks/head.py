"""The output layer's loss and its gradients: ours against PyTorch's linear_cross_entropy, plain and chunked.

    python benchmarks/head.py            # writes benchmarks/head.md

Summed cross-entropy of N supervised rows, bfloat16 hidden states, float32 weights (ours casts them; PyTorch's gets them
cast by autocast, which is how a trainer would call it), forward and backward, with and without a trained head. Each
contestant runs in a process of its own, in rounds; the ratio of a round is the figure. The gradients are compared with
float64 ones on the same rounded inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import publish, spread, table
from train_sft import our_environment, say

SHAPES = ((2000, 288, 32_000), (2000, 384, 8_192), (1200, 576, 49_152), (512, 896, 151_936))
WAYS = ("ours", "pytorch", "pytorch chunked")
REPEATS = 5


def contestant(way: str, rows: int, width: int, entries: int, trains: bool) -> dict[str, Any]:
    """Run one way in this process; return seconds, memory and the distance of its gradients."""
    import resource
    import time

    import torch
    from torch.nn import functional

    from metier.training.losses import linear_cross_entropy

    torch.manual_seed(0)
    hidden = torch.randn(rows, width).to(torch.bfloat16).requires_grad_()
    weight = (torch.randn(entries, width) * width**-0.5).requires_grad_(trains)
    targets = torch.randint(0, entries, (rows,))
    weights = torch.ones(rows)

    def loss() -> torch.Tensor:
        if way == "ours":
            return linear_cross_entropy(hidden, weight, targets, weights)
        options = torch.nn.LinearCrossEntropyOptions() if way == "pytorch chunked" else None
        cast = weight.to(torch.bfloat16)
        found = functional.linear_cross_entropy(hidden, cast, targets, reduction="sum", options=options)
        return found

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS + 1):
        hidden.grad = weight.grad = None
        began = time.perf_counter()
        total = loss()
        total.backward()
        seconds.append(time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    some = slice(0, 64)
    with torch.no_grad():
        logits = hidden[some].double() @ weight.to(torch.bfloat16).double().T
        slope = logits.softmax(1)
        slope[torch.arange(64), targets[some]] -= 1
        wanted = slope @ weight.to(torch.bfloat16).double()
        assert hidden.grad is not None
        gap = float((hidden.grad[some].double() - wanted).norm() / wanted.norm())
    return {"seconds": statistics.median(seconds[1:]), "memory": memory * 1024, "gap": gap, "loss": float(total)}


def call(way: str, shape: tuple[int, int, int], trains: bool) -> dict[str, Any]:
    """Run one way in a process of its own."""
    said = json.dumps([way, *shape, trains])
    environment = {**os.environ, **our_environment()}
    done = subprocess.run(
        [sys.executable, __file__, "--contestant", said], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        print(json.dumps(contestant(*json.loads(given.contestant))))
        return
    rows = []
    for shape in SHAPES:
        for trains in (True, False):
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(given.rounds):
                for way in WAYS:
                    found[way].append(call(way, shape, trains))
                    say(f"{shape} {trains} {way} {found[way][-1]['seconds']:.3f}")
            for way, runs in found.items():
                ratio = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(found["ours"], runs, strict=True)]
                rows.append(
                    [
                        " × ".join(f"{n:,}" for n in shape),
                        "trains" if trains else "frozen",
                        way,
                        spread([r["seconds"] * 1e3 for r in runs], digits=0),
                        spread(ratio, digits=2, unit="×") if way != "ours" else "",
                        f"{statistics.median(r['memory'] for r in runs) / 1e6:.0f}",
                        f"{runs[0]['gap']:.1e}",
                        f"{runs[0]['loss']:.1f}",
                    ]
                )
    head = ["rows × width × entries", "head", "way", "ms", "our speed ratio", "memory, MB", "gradient's error", "loss"]
    text = (
        "Forward and backward of the summed loss. `gradient's error`: that of the hidden states, against float64, as a "
        "share of its length. How: see the script, `benchmarks/head.py`."
    )
    publish(given.out, "The output layer's loss", text, table(head, rows))


if __name__ == "__main__":
    main()
