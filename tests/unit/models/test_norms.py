"""Our RMS norm equals the families' own, forward and backward, and takes its place only where it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from metier.models import norms
from metier.models.attention import last_hidden
from metier.models.base import Base
from metier.models.norms import RmsNorm
from metier.models.parts import put_all

from .conftest import FAMILIES, make_model

OURS = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "granite", "gpt_oss", "olmo2")


def own_norm(family: str) -> nn.Module:
    """The first norm inside a layer of an untouched model, with a weight that is not all ones."""
    model = make_model(family)
    norm = next(m for n, m in model.named_modules() if n.endswith(("input_layernorm", "post_attention_layernorm")))
    with torch.no_grad():
        norm.weight.normal_(generator=torch.Generator().manual_seed(5))
    assert isinstance(norm, nn.Module)
    return norm


@pytest.mark.parametrize("family", OURS)
def test_numbers_and_gradients_are_the_familys_own(family: str) -> None:
    norm = own_norm(family)
    weight: Any = norm.weight
    form = norms._form(type(norm))
    assert form is not None and form.offset == (1.0 if family.startswith("gemma") else 0.0)
    ours = RmsNorm(weight, eps=norms._eps(norm) or 0.0, form=form, narrow=True)
    torch.manual_seed(2)
    x_BTD = torch.randn(2, 5, weight.shape[0], requires_grad=True)
    direction = torch.randn_like(x_BTD)
    found, wanted = ours(x_BTD), norm(x_BTD)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    got = torch.autograd.grad((found * direction).sum(), (x_BTD, weight))
    for one, other in zip(got, torch.autograd.grad((wanted * direction).sum(), (x_BTD, weight)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", OURS)
@torch.no_grad()
def test_what_comes_out_has_the_type_that_the_familys_own_gives_it(family: str) -> None:
    norm = own_norm(family)
    form, weight = norms._form(type(norm)), norm.weight
    assert form is not None
    ours = RmsNorm(weight, eps=norms._eps(norm) or 0.0, form=form, narrow=True)  # type: ignore[arg-type]
    for rows in (torch.bfloat16, torch.float32):
        for weights in (torch.bfloat16, torch.float32):
            weight.data = weight.data.to(weights)  # type: ignore[union-attr,operator]
            x_ND = torch.randn(4, 32, dtype=rows)
            found, wanted = ours(x_ND), norm(x_ND)
            assert found.dtype == wanted.dtype, (rows, weights)
            torch.testing.assert_close(found.float(), wanted.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_a_loaded_model_gives_the_untouched_models_hidden_states(family: str, make_base: Callable[..., Base]) -> None:
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    base = make_base(family)
    count = sum(isinstance(m, RmsNorm) for m in base.model.modules())
    assert (count > 0) == (family in OURS)
    assert ("norms" in base.reasons) == (count > 0)
    untouched = make_model(family).eval()
    torch.testing.assert_close(last_hidden(base.model, tokens), last_hidden(untouched, tokens), rtol=1e-4, atol=1e-5)
    assert base.model.state_dict().keys() == untouched.state_dict().keys()


def test_what_is_handed_on_is_narrow_only_inside_the_layers(make_base: Callable[..., Base]) -> None:
    model = make_base("llama").model
    rows = torch.randn(3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.model.layers[0].input_layernorm(rows).dtype == torch.bfloat16
        assert model.model.norm(rows).dtype == torch.float32
    assert model.model.layers[0].input_layernorm(rows).dtype == torch.float32


def test_only_the_input_is_kept_for_the_backward_pass() -> None:
    norm = RmsNorm(nn.Parameter(torch.ones(8)), eps=1e-5, form=norms.Form(0.0, widens=True), narrow=True)
    x_ND = torch.randn(4, 8, requires_grad=True)
    kept = [tuple(t.shape) for t in norm(x_ND).grad_fn.saved_tensors]
    assert sorted(kept) == [(4, 1), (4, 8), (8,)]


class OddRMSNorm(nn.Module):
    """Looks like one and computes something else."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


def test_a_norm_that_computes_something_else_stays() -> None:
    model = nn.Sequential(OddRMSNorm(8))
    assert norms.replace(model) == {} and type(model[0]) is OddRMSNorm


def test_replacing_can_be_undone() -> None:
    model = make_model("llama")
    before = dict(model.named_modules())
    put_all(model, norms.replace(model))
    after = dict(model.named_modules())
    assert all(after[name] is module for name, module in before.items())
