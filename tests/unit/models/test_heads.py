"""Pooling reads the right positions, packed or not; a head's precision and start are its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from metier.core.batch import Batch
from metier.models.heads import HeadSpec, TaskHead, pool
from metier.models.rows import bounds

MakeBatch = Callable[..., Batch]


def test_bounds_of_segments_row_by_row(make_batch: MakeBatch) -> None:
    starts, ends = bounds(make_batch([[3, 1, 2], [6], [2]]).segments_BT)
    assert starts.tolist() == [0, 3, 4, 6, 12]
    assert ends.tolist() == [3, 4, 6, 12, 14]


def test_full_rows_of_one_segment_each_are_not_taken_for_one(make_batch: MakeBatch) -> None:
    starts, ends = bounds(make_batch([[4], [4]]).segments_BT)
    assert (starts.tolist(), ends.tolist()) == ([0, 4], [4, 8])


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_pooling_by_hand(pooling: Literal["last", "mean", "cls"], make_batch: MakeBatch) -> None:
    batch = make_batch([[3, 2], [4]])
    hidden = torch.arange(20.0).view(2, 5, 2) ** 2
    hidden[1, 4:] = float("nan")  # padding must not be read
    parts = [hidden[0, :3], hidden[0, 3:5], hidden[1, :4]]
    wanted = torch.stack([{"last": p[-1], "mean": p.mean(0), "cls": p[0]}[pooling] for p in parts])
    torch.testing.assert_close(pool(hidden, batch, pooling), wanted)


def test_the_mean_is_summed_in_float32(make_batch: MakeBatch) -> None:
    batch = make_batch([[4000]])
    hidden = torch.full((1, 4000, 1), 1.0, dtype=torch.bfloat16)
    assert float(pool(hidden, batch, "mean")) == 1.0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_mean_on_a_gpu_is_not_summed_in_the_order_of_its_threads(device: str, make_batch: MakeBatch) -> None:
    """index_add has no fixed order there; tests/numbers/test_far_device.py has the other operation's numbers."""

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    called: list[str] = []
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        hidden = torch.empty(1, 5, 2, device=device)
        with Names(), fake:
            pool(hidden, make_batch([[3, 2]]), "mean")
    assert ("index_add" in called, "index_put" in called) == (device == "cpu", device == "cuda")


def test_a_spec_is_decided_by_the_kind_of_base() -> None:
    spec = HeadSpec(num_outputs=3)
    assert (spec.resolved(causal=True).pooling, spec.resolved(causal=True).bias) == ("last", False)
    assert (spec.resolved(causal=False).pooling, spec.resolved(causal=False).bias) == ("mean", True)
    assert HeadSpec(num_outputs=3, pooling="cls", bias=True).resolved(causal=True).pooling == "cls"


def test_a_head_is_float32_inside_autocast_and_seeded() -> None:
    spec = HeadSpec(num_outputs=3, hidden_layers=2, dropout=0.1).resolved(causal=False)
    before = torch.get_rng_state()
    first, second = TaskHead(8, spec, seed=1).eval(), TaskHead(8, spec, seed=1).eval()
    assert torch.equal(before, torch.get_rng_state())
    pooled = torch.randn(4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = first(pooled)
    assert out.dtype == torch.float32
    assert torch.equal(out, second(pooled))
    hidden = pooled.float()
    for layer in first.hidden:
        hidden = torch.tanh(hidden @ layer.weight.T)
    torch.testing.assert_close(out, hidden @ first.output.weight.T)
    assert not torch.equal(first.train()(pooled), first(pooled))


def test_spread_of_the_first_weights() -> None:
    head = TaskHead(256, HeadSpec(num_outputs=64).resolved(causal=True), seed=0)
    assert head.output.bias is None
    assert float(head.output.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert np.isfinite(head.output.weight.detach().numpy()).all()
