"""The output layer's loss and its gradients: ours against PyTorch's linear_cross_entropy, plain and chunked.

    python benchmarks/head.py                                              # writes benchmarks/head.md
    python benchmarks/head.py --shapes 64x32x500 --rounds 1 --out -        # does it run? no figures

Summed cross-entropy of N supervised rows, forward and backward, with and without a trained head; bfloat16 hidden
states, float32 weights, which every way casts once per call. Each contestant runs in a process of its own, in rounds;
the ratio of a round is the figure. PyTorch's ways: `plain` as it is, softmax and sum in bfloat16; `plain, float32
softmax`, the precision of ours; `chunked` with its own choices; `chunked, tuned` with the policy and the chunk that are
fastest here, found in a process before. What savings in precision cost is measured, too: loss and gradients against
float64 ones on the same rounded inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import publish, spread, table
from train_sft import our_environment, say

SHAPES = ("2000x288x32000", "2000x384x8192", "1200x576x49152", "512x896x151936")
WAYS = ("ours", "plain", "plain, float32 softmax", "chunked", "chunked, tuned")
POLICIES, CHUNK_ROWS = ("balanced", "compact"), (128, 256, 512)
REPEATS, LEAST_REPEATS, LIMIT_SECONDS = 5, 3, 20
CHECKED, CHECK_ROWS = 256, 128  # rows, and entries, whose gradients are compared; rows of a float64 chunk


class Head:
    """The inputs of one shape, the same for every way."""

    def __init__(self, rows: int, width: int, entries: int, trains: bool) -> None:
        import torch

        torch.manual_seed(0)
        self.hidden = torch.randn(rows, width).to(torch.bfloat16).requires_grad_()
        # Filled in place: a copy that is thrown away would leave room in which a way's memory could hide.
        self.weight = torch.empty(entries, width).normal_(std=width**-0.5).requires_grad_(trains)
        self.targets = torch.randint(0, entries, (rows,))
        self.ones = torch.ones(rows)

    def loss(self, way: str, choice: tuple[str, int] | None) -> Callable[[], Any]:
        """Return the function that a way takes its loss by; `choice`: policy and rows per chunk of the tuned one."""
        import torch
        from torch.nn import functional

        from metier.training.losses import linear_cross_entropy

        hidden, weight, targets = self.hidden, self.weight, self.targets
        if way == "ours":
            return lambda: linear_cross_entropy(hidden, weight, targets, self.ones)
        if way == "plain, float32 softmax":
            return lambda: functional.cross_entropy(
                functional.linear(hidden, weight.to(torch.bfloat16)).float(), targets, reduction="sum"
            )
        options = {"plain": None, "chunked": torch.nn.LinearCrossEntropyOptions()}.get(way)
        if way == "chunked, tuned":
            policy, rows = choice or ("compact", 256)
            options = torch.nn.LinearCrossEntropyOptions(acc_policy=policy, chunking_method=None, batch_chunk_size=rows)
        return lambda: functional.linear_cross_entropy(
            hidden, weight.to(torch.bfloat16), targets, reduction="sum", options=options
        )

    def step(self, loss: Callable[[], Any]) -> tuple[float, float]:
        """Return the loss and the seconds of one forward and backward."""
        import time

        self.hidden.grad = self.weight.grad = None
        began = time.perf_counter()
        total = loss()
        total.backward()
        return float(total.detach()), time.perf_counter() - began

    def errors(self, loss: float) -> dict[str, float]:
        """Return how far loss and gradients are from float64 ones, each as a share of the true one's size."""
        import torch

        with torch.no_grad():
            weight = self.weight.to(torch.bfloat16).double()
            true_loss, of_hidden, of_weight = 0.0, [], torch.zeros(CHECKED, weight.shape[1], dtype=torch.float64)
            for start in range(0, len(self.targets), CHECK_ROWS):
                hidden = self.hidden[start : start + CHECK_ROWS].double()
                targets = self.targets[start : start + CHECK_ROWS, None]
                slope = (hidden @ weight.T).log_softmax(1)
                true_loss -= float(slope.gather(1, targets).sum())
                slope.exp_().scatter_add_(1, targets, -torch.ones(targets.shape, dtype=torch.float64))
                if start < CHECKED:
                    of_hidden.append(slope @ weight)
                of_weight[: len(weight)] += (slope[:, :CHECKED].T @ hidden)[: len(weight)]

        def gap(found: torch.Tensor | None, wanted: torch.Tensor) -> float:
            assert found is not None
            return float((found.double() - wanted).norm() / wanted.norm())

        wanted = torch.cat(of_hidden)
        found = {"loss": abs(loss / true_loss - 1), "hidden": gap(self.hidden.grad[: len(wanted)], wanted)}
        if self.weight.requires_grad:
            found["weight"] = gap(self.weight.grad[:CHECKED], of_weight[: len(weight)])
        return found


def contestant(
    way: str, shape: tuple[int, int, int], trains: bool, choice: tuple[str, int] | None, check: bool
) -> dict[str, Any]:
    """Run one way in this process; return seconds, memory and, when asked, how far its results are from the truth."""
    import resource

    head = Head(*shape, trains)
    loss = head.loss(way, choice)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total, _ = head.step(loss)  # the first one allocates
    seconds: list[float] = []
    while len(seconds) < LEAST_REPEATS or (len(seconds) < REPEATS and sum(seconds) < LIMIT_SECONDS):
        total, took = head.step(loss)
        seconds.append(took)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = {"seconds": statistics.median(seconds), "memory": memory * (1 if sys.platform == "darwin" else 1024)}
    return {**found, **({"errors": head.errors(total)} if check else {})}


def tune(shape: tuple[int, int, int], trains: bool) -> dict[str, Any]:
    """Return the policy and the rows per chunk with which the chunked way is fastest."""
    head = Head(*shape, trains)
    seconds = {}
    for choice in ((policy, rows) for policy in POLICIES for rows in CHUNK_ROWS if rows <= shape[0]):
        loss = head.loss("chunked, tuned", choice)
        seconds[choice] = min(head.step(loss)[1] for _ in range(2))
    return {"choice": min(seconds, key=lambda choice: seconds[choice]) if seconds else None}


def call(*said: Any) -> dict[str, Any]:
    """Run one way in a process of its own; without a way, find the best choice of the chunked one."""
    environment = {**os.environ, **our_environment()}
    command = [sys.executable, __file__, "--contestant", json.dumps(said)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare(shape: tuple[int, ...], trains: bool, rounds: int) -> list[list[str]]:
    """Return the rows of the table of one shape: every way in every round."""
    choice = call(shape, trains)["choice"]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS:
            found[way].append(call(way, shape, trains, choice, number == 0))
            say(f"{shape} {'trains' if trains else 'frozen'} {way} {found[way][-1]['seconds']:.3f}")
    rows = []
    for way, runs in found.items():
        ratio = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(found["ours"], runs, strict=True)]
        errors = runs[0]["errors"]
        tuned = f" ({choice[0]}, {choice[1]} rows)" if choice and way == "chunked, tuned" else ""
        rows.append(
            [
                " × ".join(f"{n:,}" for n in shape),
                "trains" if trains else "frozen",
                way + tuned,
                spread([r["seconds"] * 1e3 for r in runs], digits=0),
                spread(ratio, digits=2, unit="×") if way != "ours" else "",
                f"{statistics.median(r['memory'] for r in runs) / 1e6:.0f}",
                *(f"{errors[name]:.0e}" if name in errors else "" for name in ("loss", "hidden", "weight")),
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="ROWSxWIDTHxENTRIES")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        said = json.loads(given.contestant)
        print(json.dumps(contestant(*said) if len(said) > 2 else tune(*said)))
        return
    shapes = [tuple(map(int, shape.split("x"))) for shape in given.shapes]
    rows = [row for shape in shapes for trains in (True, False) for row in compare(shape, trains, given.rounds)]
    head = ["rows × width × entries", "head", "way", "ms", "our speed ratio", "memory, MB"]
    head += ["error of the loss", "of the hidden states' gradient", "of the head's gradient"]
    text = (
        "Forward and backward of the summed loss; all but `ours` are PyTorch's. Errors are against float64, as a share "
        "of the true one's size. What the ways are: see the script, `benchmarks/head.py`."
    )
    publish(given.out, "The output layer's loss", text, table(head, rows))


if __name__ == "__main__":
    main()
