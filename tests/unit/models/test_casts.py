"""Under autocast, rows that several linear layers read are cast once; numbers and gradients stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from metier.core.batch import Batch
from metier.models.base import Base
from metier.models.casts import SharedCasts
from metier.models.policy import build


class Three(nn.Module):
    """q, k and v of the same rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part(x).float() for part in self.parts]).pow(2).sum()


class Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts casts of tensors of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_to_copy" in str(func) and args[0].dtype == torch.float32 and tuple(args[0].shape) == self.shape:
            self.count += 1
        return func(*args, **(kwargs or {}))


def run(shared: bool) -> tuple[int, float, list[Tensor]]:
    model, casts = Three(), SharedCasts()
    if shared:
        casts.install(model)
    leaf = torch.randn(7, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    x = leaf * 1.0  # autocast remembers its casts of leaves
    with Casts((7, 16)) as seen, torch.autocast("cpu", torch.bfloat16):
        loss = model(x)
    casts.forget()
    grads = torch.autograd.grad(loss, [leaf, *model.parameters()])
    return seen.count, float(loss.detach()), list(grads)


def test_three_readers_share_one_cast() -> None:
    own_count, own_loss, own_grads = run(shared=False)
    count, loss, grads = run(shared=True)
    assert (own_count, count) == (3, 1)
    assert loss == own_loss
    torch.testing.assert_close(grads[0], own_grads[0], rtol=2e-2, atol=2e-2)  # summed in bfloat16
    for one, other in zip(grads[1:], own_grads[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_rows_changed_in_place_are_cast_again() -> None:
    model, casts = Three(), SharedCasts()
    casts.install(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = torch.ones(2, 16)
        first = model.parts[0](x)
        x.mul_(2)
        assert torch.equal(model.parts[0](x), 2 * first)


def test_outside_autocast_nothing_is_cast() -> None:
    model, casts = Three(), SharedCasts()
    casts.install(model)
    assert model.parts[0](torch.ones(2, 16)).dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_nothing_is_held_after_the_pass(
    family: str, make_base: Callable[..., Base], make_batch: Callable[..., Batch]
) -> None:
    policy = build(make_base(family, dtype=torch.bfloat16), "full", {}).train()
    with policy.computing():
        policy.hidden(make_batch([[5, 4]]))
    assert policy.base.casts._source is None and policy.base.casts._cast is None
