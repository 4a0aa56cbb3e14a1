"""Our gated layer equals the families' own, forward and backward, and keeps less; where it does not, it stays out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metier.models import gates
from metier.models.attention import last_hidden
from metier.models.base import Base
from metier.models.gates import GatedMlp
from metier.models.policy import build

from .conftest import FAMILIES, make_model

OURS = (
    "cohere", "gemma2", "gemma3", "granite", "llama", "mistral", "olmo", "olmo2", "phi3", "qwen2", "qwen3",
)  # fmt: skip


def own_layer(family: str) -> nn.Module:
    found = next(m for n, m in make_model(family).named_modules() if n.endswith(".mlp"))
    assert isinstance(found, nn.Module)
    return found


@pytest.mark.parametrize("family", OURS)
def test_numbers_and_gradients_are_the_familys_own(family: str) -> None:
    layer = own_layer(family)
    torch.manual_seed(2)
    x_BTD = torch.randn(2, 5, 32, requires_grad=True)
    direction = torch.randn(2, 5, 32)
    leaves = (x_BTD, *layer.parameters())
    ours = GatedMlp(layer)
    found, wanted = ours(x_BTD), layer(x_BTD)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad((found * direction).sum(), leaves)
    for one, other in zip(got, torch.autograd.grad((wanted * direction).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_a_loaded_model_gives_the_untouched_models_hidden_states(family: str, make_base: Callable[..., Base]) -> None:
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    base = make_base(family)
    count = sum(isinstance(m, GatedMlp) for m in base.model.modules())
    assert count == (3 if family in OURS else 0), "one per block"
    assert ("gates" in base.reasons) == (count > 0)
    untouched = make_model(family).eval()
    torch.testing.assert_close(last_hidden(base.model, tokens), last_hidden(untouched, tokens), rtol=1e-4, atol=1e-5)
    assert base.model.state_dict().keys() == untouched.state_dict().keys()


class Doubled(nn.Module):
    """A layer with the right names that computes something else."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


def test_a_layer_that_computes_something_else_stays() -> None:
    model = make_model("llama")
    model.model.layers[1].mlp = Doubled(model.config)
    replaced = gates.replace(model)
    assert set(replaced) == {"model.layers.0.mlp", "model.layers.2.mlp"}
    assert isinstance(model.model.layers[1].mlp, Doubled)


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """What the graph of one pass holds, counted by its storages."""
    seen: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        seen[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        layer(x).sum()
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    return sum(size for place, size in seen.items() if place not in weights)


def test_the_graph_keeps_two_tensors_of_the_inner_width_instead_of_four() -> None:
    layer = own_layer("llama")
    x = torch.randn(1, 50, 32, requires_grad=True)
    inner, outer = 50 * 48 * 4, 50 * 32 * 4
    assert kept_bytes(layer, x) == 4 * inner + outer
    # The outer hook is not asked where the inner one packs: what it sees are gate, up and x.
    assert kept_bytes(GatedMlp(layer), x) == 2 * inner + outer


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_backward_pass_leaves_nothing_behind(adapter: str, make_base: Callable[..., Base]) -> None:
    policy = build(make_base("llama"), adapter, {}).train()
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))

    def live() -> int:
        """Tensors of the inner width that are neither weights nor their gradients."""
        gc.collect()
        gradients = {id(p.grad) for p in policy.base.model.parameters()}
        return sum(
            1
            for found in gc.get_objects()
            if type(found) is Tensor and found.shape[-1:] == (48,) and id(found) not in gradients
        )

    before = live()
    total = last_hidden(policy.base.model, tokens).pow(3).sum()
    total.backward()
    assert live() == before
    assert total.isfinite()


def test_without_gradients_there_is_no_graph(make_base: Callable[..., Base]) -> None:
    layer = next(m for m in make_base("llama").model.modules() if isinstance(m, GatedMlp))
    with torch.no_grad():
        assert layer(torch.randn(1, 4, 32)).grad_fn is None
    layer.requires_grad_(False)
    assert layer(torch.randn(1, 4, 32)).grad_fn is None
