"""Seconds are sums of what was counted, at the rates that were measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from metier.models.dryrun import Attention, Work
from metier.models.duration import (
    ADAMW_BYTES,
    CLIP_BYTES,
    JOIN_SECONDS,
    WHOLE,
    newton_schulz_flops,
    pass_seconds,
    step_seconds,
)
from metier.models.rates import Rates, attention_seconds

RATES = Rates(
    matmul=1e12, operands=1e10, fresh=1e10, stream=2e10, touch=5e9, draw=2e8, function=1e9, start=1e-5, compile=1e-3
)
WORK = Work(
    flops=Counter({True: 2e12, False: 1e11}),
    operands=Counter({True: 4e9}),
    fresh=Counter({True: 1e10, False: 5e9}),
    in_place=Counter({True: 2e10}),
    functions=Counter({True: 1e9}),
    draws=4e8,  # type: ignore[arg-type]
    mapped=5e9,  # type: ignore[arg-type]
    launches=1000,
    joins=100,
)


def test_each_part_is_its_count_at_its_rate() -> None:
    expected = {
        "products": 2.1 + 0.4, "traffic": 1.5 + 1.0, "touches": 1.0, "functions": 1.0, "draws": 2.0, "attention": 0.0,
        "starts": 0.01,
    }  # fmt: skip
    assert pass_seconds(WORK, RATES, 1) == pytest.approx(expected)


def test_threads_share_large_operations_alone_and_wake_one_another() -> None:
    expected = {
        "products": 1.1 + 0.2, "traffic": 1.0 + 0.5, "touches": 1.0, "functions": 0.5, "draws": 2.0, "attention": 0.0,
        "starts": 0.01 + 100 * JOIN_SECONDS,
    }  # fmt: skip
    assert pass_seconds(WORK, RATES, 2) == pytest.approx(expected)


def test_attention_takes_what_its_shape_took() -> None:
    forward = Attention(64, 64, 16, "float32", causal=True, backward=False)
    work = Work(heads=Counter({forward: 8, forward._replace(backward=True): 8}))
    both = attention_seconds(64, 64, 16, "float32", True, None)
    assert pass_seconds(work, RATES, 1)["attention"] == pytest.approx(8 * sum(both))
    assert pass_seconds(work, RATES, 2)["attention"] == pytest.approx(4 * sum(both))


def test_a_step_has_its_passes_the_optimizer_and_memory_that_was_given_back() -> None:
    one = sum(pass_seconds(WORK, RATES, 1).values())
    twice = replace(WORK, draws=8e8)  # type: ignore[arg-type]
    optimizer = 1e8 * (ADAMW_BYTES + CLIP_BYTES) / RATES.stream
    found = step_seconds([WORK, twice], per_step=1.5, num_trained=10**8, held=5e8, rates=RATES, threads=1)
    assert found == pytest.approx(WHOLE * (1.5 * (one + 1.0) + optimizer + 0.1))


def test_orthogonalising_a_matrix_takes_five_iterations_on_its_shorter_side() -> None:
    # Per iteration: XXᵀ and GX of 2·2·2·3 products each, GG of 2·2·2; a multiply-add is two FLOPs.
    assert newton_schulz_flops(2, 3) == newton_schulz_flops(3, 2) == 5 * 2 * (12 + 12 + 8)
    more = {"per_step": 1.0, "num_trained": 6, "held": 0.0, "rates": RATES, "threads": 2}
    plain, muon = (step_seconds([WORK], orthogonalised=shapes, **more) for shapes in ((), ((2, 3),)))  # type: ignore[arg-type]
    assert muon - plain == pytest.approx(WHOLE * 320 / RATES.matmul / 2)
