"""Compiled blocks of every family, also where the compiler gives a block up: the loss and gradients of the plain pass.

Long: each family is compiled from nothing, in full and with LoRA. Needs a C++ compiler.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metier.models.base import from_model
from metier.models.compiled import CompiledBlocks
from metier.models.fused_choice import compiler
from metier.models.policy import build
from metier.training.tokens import cross_entropy
from unit.models.conftest import FAMILIES, make_model, random_batch

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler"),
]


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_compiled_blocks_give_the_plain_passes_gradients(family: str, adapter: str) -> None:
    torch._dynamo.reset()
    options: dict[str, Any] = {"r": 4} if adapter == "lora" else {}
    policy = build(from_model(make_model(family), None, kind="causal"), adapter, options)
    draw = torch.Generator().manual_seed(4)
    for name, parameter in policy.trained().items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.2, generator=draw)
    blocks = CompiledBlocks(policy)

    def run(batch: Any, *, compiled: bool) -> tuple[float, dict[str, torch.Tensor]]:
        policy.compiled = blocks if compiled else None
        for parameter in policy.trained().values():
            parameter.grad = None
        loss = cross_entropy(policy, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss), {n: p.grad.clone() for n, p in policy.trained().items() if p.grad is not None}

    batches = [random_batch([[30, 9, 12, 3]]), random_batch([[7, 25, 20]], seed=1), random_batch([[40], [31], [9]])]
    for batch in batches:  # other lengths and numbers of segments, other numbers of rows
        loss, wanted = run(batch, compiled=False)
        again, found = run(batch, compiled=True)
        assert again == pytest.approx(loss, rel=1e-5)
        assert found.keys() == wanted.keys()
        whole = torch.stack([grad.norm() for grad in wanted.values()]).norm()
        for name, grad in wanted.items():  # a bias of the keys has no gradient but rounding: softmax cancels it
            assert (found[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6 * whole, name
