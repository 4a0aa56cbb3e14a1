"""How long training will take: what the operations of a step do (models/dryrun.py) at this machine's rates.

    pass = products + traffic + first touches of memory + functions + random draws + attention + starting operations
    step = WHOLE · (passes + optimizer)

Each summand is priced by a rate that is measured on the machine (models/rates.py), none by the family of a model. Left
out: that threads share memory and caches, so that many threads are slower than this says; evaluation and saving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metier.models.dryrun import Work
from metier.models.rates import ADAMW_BYTES, Rates, attention_seconds
from metier.models.segment_op import own_kernel

CLIP_BYTES = 12
"""Per trained weight: the norm reads the gradient, clipping reads and writes it."""
JOIN_SECONDS = 50e-6
"""Waking the other threads for an operation and waiting for them, where they sleep in between (GOMP_SPINCOUNT=1000, two
threads of a virtual machine): in quiet minutes MiniLM took 229 ms by the clock, of which its main thread computed 165,
in 1,300 divided operations (LOG.md, 2026-11-21). A constant, since no short probe gets wall time right."""
WHOLE = 1.3
"""A whole step, in sums of its parts timed alone: 1.10 to 1.41, in the middle 1.33, in seven recipes on one thread of
an Intel Xeon with AMX, in CPU time (LOG.md, 2026-11-21): all of a step share the caches and address translation."""


def step_seconds(
    passes: Sequence[Work],
    *,
    per_step: float,
    num_trained: int,
    held: float,
    rates: Rates,
    threads: int,
    orthogonalised: Sequence[tuple[int, int]] = (),
) -> float:
    """Return the seconds of an optimiser step.

    Args:
        passes: a few typical micro-batches.
        per_step: micro-batches in a step, on average.
        num_trained: trained weights.
        held: bytes of the heap that a step touches anew, since it was given back to the system.
        orthogonalised: shapes of the matrices that Muon steps; their products are bfloat16, and priced as the run's.
    """
    typical = sum(sum(pass_seconds(work, rates, threads).values()) for work in passes) / len(passes)
    optimizer = num_trained * (ADAMW_BYTES + CLIP_BYTES) / rates.stream / threads
    optimizer += sum(newton_schulz_flops(*shape) for shape in orthogonalised) / rates.matmul / threads
    return WHOLE * (typical * per_step + optimizer + held / rates.touch)


def newton_schulz_flops(rows: int, columns: int, *, iterations: int = 5) -> int:
    """Return the FLOPs of orthogonalising a matrix: X ← aX + (bG + cG²)X with G = XXᵀ, on its shorter side."""
    short, long = sorted((rows, columns))
    return iterations * (4 * short * short * long + 2 * short**3)


def pass_seconds(work: Work, rates: Rates, threads: int) -> dict[str, float]:
    """Return the seconds of one forward and backward pass, by what they are spent on."""

    def shared(amount: Mapping[bool, float], rate: float) -> float:
        return (amount.get(True, 0) / threads + amount.get(False, 0)) / rate

    attention = 0.0
    for shape, heads in work.heads.items():
        fits = shape.dtype == "bfloat16" and shape.width % 2 == 0 and not shape.masked
        kernel = own_kernel() if fits else None
        both = attention_seconds(shape.queries, shape.keys, shape.width, shape.dtype, shape.causal, kernel)
        attention += heads * both[shape.backward]
    return {
        "products": shared(work.flops, rates.matmul) + shared(work.operands, rates.operands),
        "traffic": shared(work.fresh, rates.fresh) + shared(work.in_place, rates.stream),
        "touches": work.mapped / rates.touch,
        "functions": shared(work.functions, rates.function),
        "draws": work.draws / rates.draw,
        "attention": attention / threads,
        "starts": work.launches * rates.start + work.joins * JOIN_SECONDS * (threads > 1),
    }
