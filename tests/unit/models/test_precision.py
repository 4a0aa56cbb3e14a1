"""Which frozen weights take the precision of the computation, and that each family computes with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metier.models.adapters import store_frozen
from metier.models.base import Base, from_model
from metier.models.policy import build

from .conftest import GROUPED, make_model, random_batch

MIXTURE = {**GROUPED, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
ADAPTERS = [("none", {}), ("lora", {"r": 2}), ("layers", {"num_layers": 1}), ("full", {})]


def make(family: str) -> Any:
    import transformers

    torch.manual_seed(3)
    if family == "ernie":
        config = transformers.Ernie4_5_MoeConfig(**MIXTURE, moe_num_experts=4, moe_k=2, moe_layer_start_index=1)
        return transformers.Ernie4_5_MoeForCausalLM(config)
    if family == "afmoe":
        return transformers.AfmoeForCausalLM(
            transformers.AfmoeConfig(
                **MIXTURE, num_experts=4, num_shared_experts=1, head_dim=8, num_dense_layers=1, sliding_window=4
            )
        )
    return make_model(family)


def base_of(family: str, dtype: torch.dtype) -> Base:
    return from_model(make(family), None, kind="causal", name=family, dtype=dtype)


@pytest.mark.parametrize(("adapter", "options"), ADAPTERS)
@pytest.mark.parametrize("family", ["gpt_oss", "afmoe", "ernie", "llama"])
def test_bfloat16_gives_the_states_of_float32_but_for_rounding(
    family: str, adapter: str, options: dict[str, Any]
) -> None:
    batch = random_batch([[9], [7]])
    found, wanted = (
        build(base_of(family, dtype), adapter, options).eval() for dtype in (torch.bfloat16, torch.float32)
    )
    real = torch.from_numpy(batch.segments_BT > 0)
    with torch.no_grad(), found.computing():
        low, full = found.hidden(batch)[real].float(), wanted.hidden(batch)[real]
    assert float((low - full).norm() / full.norm()) < 0.1


def test_norms_that_a_family_protects_from_float16_alone_are_stored_in_bfloat16() -> None:
    for family in ("gpt_oss", "afmoe"):
        base = base_of(family, torch.bfloat16)
        store_frozen(base, set())
        assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}, family


def test_routers_on_which_a_family_insists_stay_in_float32() -> None:
    base = base_of("ernie", torch.bfloat16)
    store_frozen(base, set())
    wide = {name for name, p in base.model.named_parameters() if p.dtype == torch.float32}
    assert {name for name in wide if name.endswith("mlp.gate.weight")}, wide
    assert all("gate.weight" in name or "moe_statics" in name for name in wide)
    assert not any("up_proj" in name or "norm" in name for name in wide)
