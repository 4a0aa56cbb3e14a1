"""Attention, forward and backward: our own kernel against PyTorch's fused one, in bfloat16 and in float32.

    python benchmarks/attention.py                                            # writes benchmarks/attention.md
    python benchmarks/attention.py --shapes 2x64x2x1x32 --rounds 1 --out -    # does it run? no figures

Causal rows of one length, all threads, by the clock, in rounds; the ratio of a round is the figure. Every way gets what
the blocks hand over, bfloat16 rows (B, T, heads, width), and gives bfloat16 back: casts to float32 and back are in its
time. Before ours was there, rows of up to 224 positions took the way over float32. Errors are against attention in
float64, the largest of the result and the three gradients, as a share of its length.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import publish, spread, table
from train_sft import say

SHAPES = ("4x1024x6x6x64", "4x1024x9x3x64", "16x256x6x6x64", "20x200x6x6x64", "64x64x6x6x64", "256x16x12x12x32")
"""Rows × positions × heads of queries × heads of keys × width of a head."""
REPEATS = 7
CHECKED_POSITIONS = 300_000  # rows × positions² of what is compared in float64

Way = tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]


def ways(shape: tuple[int, ...]) -> tuple[dict[str, Way], Callable[[Any], float]]:
    """Return the ways (forward, backward, and both with their results), and how far results are from the truth."""
    import torch

    from metier.models.fused import Scope
    from metier.models.fused_choice import choose
    from metier.models.fused_proof import written_out

    rows, length, heads, groups, width = shape
    kernel, choice = choose("cpu", "bfloat16")
    if kernel is None:
        raise SystemExit(f"there is nothing to measure: {choice.reason}")
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(rows, length, n, width).to(torch.bfloat16) for n in (heads, groups, groups, heads))
    scope, scaling = Scope(torch.tensor([(row, 0, length) for row in range(rows)])), width**-0.5
    kept = kernel.forward(q, k, v, scope, scaling)

    def ours() -> tuple[Any, ...]:
        return kernel.forward(q, k, v, scope, scaling)[0], *kernel.backward(grad, q, k, v, *kept, scope, scaling)

    found: dict[str, Way] = {
        "ours": (
            lambda: kernel.forward(q, k, v, scope, scaling),
            lambda: kernel.backward(grad, q, k, v, *kept, scope, scaling),
            ours,
        )
    }
    attend: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attend_back: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def theirs(kind: torch.dtype) -> Way:
        def given(*tensors: torch.Tensor) -> list[torch.Tensor]:
            return [tensor.to(kind).transpose(1, 2) for tensor in tensors]

        def forward() -> Any:
            out, sums = attend(*given(q, k, v), 0.0, True)
            return out.transpose(1, 2).to(torch.bfloat16), out, sums

        _, out, sums = forward()

        def backward() -> Any:
            grads = attend_back(*given(grad, q, k, v), out, sums, 0.0, True)
            return [tensor.transpose(1, 2).to(torch.bfloat16) for tensor in grads]

        return forward, backward, lambda: (forward()[0], *backward())

    found["PyTorch, bfloat16"] = theirs(torch.bfloat16)
    found["PyTorch, float32"] = theirs(torch.float32)

    few = max(1, min(rows, CHECKED_POSITIONS // length**2))
    exact = [tensor[:few].double().requires_grad_() for tensor in (q, k, v)]
    out = written_out(exact[0], exact[1], exact[2], (length,), None, True)
    wanted = [tensor.detach() for tensor in (out, *torch.autograd.grad(out, exact, grad[:few].double()))]

    def error(results: Any) -> float:
        gaps = [(one[:few].double() - two).norm() / two.norm() for one, two in zip(results, wanted, strict=True)]
        return float(max(gaps))

    return found, error


def milliseconds(run: Callable[[], Any]) -> float:
    """Return the median of a few calls, by the clock, after one that does not count."""
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1e3


def compare(shape: tuple[int, ...], rounds: int) -> list[list[str]]:
    """Return the rows of the table of one shape."""
    found, error = ways(shape)
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in found}
    for _ in range(rounds):
        for way, (forward, backward, _both) in found.items():
            times[way].append((milliseconds(forward), milliseconds(backward)))
            say(f"{shape} {way} {times[way][-1][0]:.1f} + {times[way][-1][1]:.1f} ms")
    rows = []
    for way, runs in times.items():
        cells = [" × ".join(f"{n:,}" for n in shape), way]
        cells += [spread([run[at] for run in runs], digits=1) for at in (0, 1)]
        ratios = [[sum(their[a:b]) / sum(our[a:b]) for our, their in zip(times["ours"], runs, strict=True)]
                  for a, b in ((0, 1), (1, 2), (0, 2))]  # fmt: skip
        cells += ["" if way == "ours" else spread(ratio, digits=1, unit="×") for ratio in ratios]
        rows.append([*cells, f"{error(found[way][2]()):.0e}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="ROWSxPOSITIONSxHEADSxGROUPSxWIDTH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="the page, - for the terminal")
    given = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in given.shapes]
    rows = [row for shape in shapes for row in compare(shape, given.rounds)]
    head = ["rows × positions × heads × key heads × width", "way", "forward, ms", "backward, ms"]
    head += ["our speed ratio, forward", "backward", "both", "error"]
    text = "What the ways are, and what is in their times: see the script, `benchmarks/attention.py`."
    publish(given.out, "Attention", text, table(head, rows))


if __name__ == "__main__":
    main()
