"""How fast this machine does what a training step consists of: measured in under a second, kept per user and machine.

Everything is CPU time of one thread, the best of a few: wall time swings threefold on a shared machine. What a step
does is counted in models/dryrun.py; models/duration.py multiplies.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from metier.models.probe import recall, remember

if TYPE_CHECKING:
    import torch

    from metier.models.fused import Kernel

VERSION = 1
"""Goes up when a probe changes: what an earlier one measured is then of no use."""
ADAMW_BYTES = 28
"""Fused AdamW per weight: it reads weight, gradient and two moments, and writes weight and moments, 4 bytes each."""


COLD_BYTES = 192 * 2**20
"""Working set of a probe that must not find its data in a cache: a step's activations and weights are as large. With
20 MB, operands came twice as fast on this project's machine (480 MB of shared third-level cache)."""


@dataclass(frozen=True, slots=True)
class Rates:
    """One thread of this machine."""

    matmul: float
    """FLOP/s of matrix products in the precision asked for, beyond fetching their operands."""
    operands: float
    """Bytes/s of operands and results of matrix products."""
    fresh: float
    """Bytes/s read and written by other operations with a new result."""
    stream: float
    """Bytes/s read and written in place, in long vectors."""
    touch: float
    """Bytes/s of memory that the system has to hand out first."""
    draw: float
    """Random numbers/s (dropout)."""
    function: float
    """Elements/s of exp, tanh and their like, beyond reading and writing them."""
    start: float
    """Seconds to start an operation: Python's modules, autograd, views and allocation."""
    compile: float
    """Seconds to compile a matrix product for a new shape."""


def rates(dtype: str) -> Rates:
    """Return the rates for matrix products in `float32` or `bfloat16`; measured once per machine and PyTorch."""
    known = recall(f"rates-{VERSION}-{dtype}")
    try:
        return Rates(**{name: float(value) for name, value in known.items()})
    except (TypeError, ValueError):  # nothing kept, or something else
        found = measure(dtype)
    remember(f"rates-{VERSION}-{dtype}", asdict(found))
    return found


def measure(dtype: str) -> Rates:
    """Measure; some 0.6 s of CPU time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state = torch.random.get_rng_state()
    try:
        kind = getattr(torch, dtype)
        matmul, fresh = _matmul(kind), _fresh()
        return Rates(
            matmul=matmul,
            operands=_operands(kind, matmul),
            fresh=fresh,
            stream=_stream(),
            touch=_touch(),
            draw=_draw(),
            function=_function(kind, fresh),
            start=_start(kind),
            compile=_compile(kind),
        )
    finally:
        torch.random.set_rng_state(state)
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=256)
def attention_seconds(
    queries: int, keys: int, width: int, dtype: str, causal: bool, kernel: Kernel | None
) -> tuple[float, float]:
    """Return one thread's seconds of fused attention per head, forward and backward, measured on the shape itself.

    No formula would do: on this project's machine a bfloat16 backward of 64 positions takes 56 ns per score, one of
    1,024 positions 3 ns, in float32 7 and 3.

    Args:
        kernel: our own, which attends in bfloat16 where there are as many queries as keys; None: PyTorch's.
    """
    import torch
    from torch.nn import functional

    from metier.models.fused import Scope

    heads = max(1, min(64, 2**18 // (queries * keys)))  # enough that starting the kernel does not count
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state = torch.random.get_rng_state()
    try:
        if kernel is not None and queries == keys:
            q, k, v, grad = (torch.randn(heads, queries, 1, width).to(torch.bfloat16) for _ in range(4))
            scope = Scope(torch.tensor([(row, 0, queries) for row in range(heads)]), None, causal)
            kept = kernel.forward(q, k, v, scope, 1.0)
            return (
                best_seconds(lambda: kernel.forward(q, k, v, scope, 1.0), repeats=3) / heads,
                best_seconds(lambda: kernel.backward(grad, q, k, v, *kept, scope, 1.0), repeats=3) / heads,
            )
        kind = getattr(torch, dtype)
        query = torch.randn(1, heads, queries, width).to(kind).requires_grad_()
        key, value = (torch.randn(1, heads, keys, width).to(kind).requires_grad_() for _ in range(2))
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        ones = torch.ones_like(out)

        def forward() -> None:
            with torch.no_grad():
                functional.scaled_dot_product_attention(query, key, value, is_causal=causal)

        def backward() -> None:
            torch.autograd.grad(out, (query, key, value), ones, retain_graph=True)

        return best_seconds(forward, repeats=3) / heads, best_seconds(backward, repeats=3) / heads
    finally:
        torch.random.set_rng_state(state)
        torch.set_num_threads(threads)


def accelerator_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Return an accelerator's FLOP/s at matrix products, by the clock."""
    import torch

    size, count = 4096, 8
    left = torch.ones(size, size, dtype=dtype, device=device)

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(count):
            out = torch.mm(left, left)
        float(out[0, 0])  # waits until it is done
        return time.perf_counter() - started

    seconds()
    return count * 2 * size**3 / min(seconds() for _ in range(3))


def best_seconds(work: Callable[[], Any], *, repeats: int = 4) -> float:
    """Return the least CPU time that this thread took for the work, after a first time that does not count."""
    work()
    found = math.inf
    for _ in range(repeats):
        started = time.thread_time()
        work()
        found = min(found, time.thread_time() - started)
    return max(found, 1e-9)


# ───────────────────────────────────────────────────────────────────────────── probes


def _matmul(dtype: torch.dtype) -> float:
    import torch

    size = 512  # within a tenth of the rate at 1,024, in an eighth of the time
    x, grad, weight = (torch.ones(size, size, dtype=dtype) for _ in range(3))

    def layer() -> None:
        for left, right in ((x, weight.t()), (grad, weight), (grad.t(), x)):
            torch.mm(left, right)

    return 3 * 2 * size**3 / best_seconds(layer)


def _operands(dtype: torch.dtype, matmul: float) -> float:
    """Time the three products of a linear layer whose operands are far away, less their arithmetic."""
    import torch

    rows, width = 512, 256
    layer_bytes = (2 * rows * width + width**2) * dtype.itemsize
    count = COLD_BYTES // layer_bytes
    shapes = ((rows, width), (rows, width), (width, width))
    layers = [tuple(torch.ones(shape, dtype=dtype) for shape in shapes) for _ in range(count)]
    forward, backward = torch.empty(rows, width, dtype=dtype), torch.empty(width, width, dtype=dtype)

    def products() -> None:
        for x, grad, weight in layers:
            torch.mm(x, weight.t(), out=forward)
            torch.mm(grad, weight, out=forward)
            torch.mm(grad.t(), x, out=backward)

    seconds = best_seconds(products, repeats=2) / count
    return 3 * layer_bytes / max(seconds - 3 * 2 * rows * width**2 / matmul, seconds / 10)


def _fresh() -> float:
    import torch

    size = 2**18
    tensors = [torch.ones(size) for _ in range(COLD_BYTES // (4 * size))]

    def products() -> None:
        for left, right, out in zip(tensors[0::3], tensors[1::3], tensors[2::3], strict=True):
            torch.mul(left, right, out=out)

    return len(tensors) * 4 * size / best_seconds(products, repeats=2)


def _stream() -> float:
    import torch

    size = 2**20
    weights = [torch.nn.Parameter(torch.ones(size)) for _ in range(4)]  # 64 MB with gradients and moments
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, fused=True)
    return len(weights) * size * ADAMW_BYTES / best_seconds(optimizer.step)


def _touch() -> float:
    import torch

    size = 10 * 2**20  # 40 MB: glibc gives a block of over 32 MB back when it is freed, so each time is a first time
    return 4 * size / best_seconds(lambda: torch.empty(size).fill_(0.0))


def _draw() -> float:
    import torch

    drawn = torch.empty(2**18)
    return drawn.numel() / best_seconds(lambda: drawn.bernoulli_(0.9))


def _function(dtype: torch.dtype, fresh: float) -> float:
    """Time GELU forward and backward, less their reading and writing."""
    import torch

    inputs = torch.linspace(-4.0, 4.0, 2**18).to(dtype).requires_grad_()
    outputs = torch.nn.functional.gelu(inputs)
    ones = torch.ones_like(outputs)

    def both() -> None:
        torch.nn.functional.gelu(inputs)
        torch.autograd.grad(outputs, inputs, ones, retain_graph=True)

    seconds = best_seconds(both)
    traffic = 5 * inputs.numel() * inputs.element_size() / fresh
    return 2 * inputs.numel() / max(seconds - traffic, seconds / 4)


def _start(dtype: torch.dtype) -> float:
    """Time a pass through layers so small that nothing but starting their operations takes time."""
    import torch
    from torch import nn

    from metier.models.dryrun import Watch

    width, rows = 64, 16
    blocks = nn.ModuleList(
        nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        for _ in range(6)
    )

    def through() -> None:
        x = torch.ones(rows, width)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            for block in blocks:
                x = x + block(x).view(rows, 4, width // 4).transpose(0, 1).transpose(0, 1).reshape(rows, width)
        x.sum().backward()  # type: ignore[no-untyped-call]
        blocks.zero_grad(set_to_none=True)

    watch = Watch()
    with watch:
        through()
    return best_seconds(through) / watch.work.launches


def _compile(dtype: torch.dtype) -> float:
    """Time products of shapes that nobody else uses for the first time, less the second time."""
    import torch

    weight, found = torch.ones(256, 257, dtype=dtype), []
    for rows in (521, 523, 541):
        x = torch.ones(rows, 256, dtype=dtype)
        seconds = []
        for _ in range(2):
            started = time.thread_time()
            torch.mm(x, weight)
            seconds.append(time.thread_time() - started)
        found.append(seconds[0] - seconds[1])
    return max(sorted(found)[1], 0.0)
