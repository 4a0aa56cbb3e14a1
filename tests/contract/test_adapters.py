"""What every adapter promises: identity at start, merged = unmerged, save/load equal, the base frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.batch import Batch
from metier.core.catalog import catalog
from metier.core.errors import MachineError
from metier.models.base import Base, from_model
from metier.models.policy import Policy, build

KINDS = catalog("adapters").names()
CASES = [
    *((kind, {}, "llama") for kind in KINDS),
    *((kind, {}, "gpt2") for kind in KINDS),
    *((kind, {}, "bert") for kind in KINDS),
    ("lora", {"use_dora": True, "r": 4}, "llama"),
    ("lora", {"use_dora": True, "r": 4}, "gpt2"),
    ("lora", {"use_rslora": True, "r": 8}, "llama"),
    ("lora", {"target_modules": ["q_proj", "down_proj"], "init_lora_weights": "gaussian"}, "llama"),
]
ids = [f"{kind}-{family}-{'-'.join(options) or 'default'}" for kind, options, family in CASES]
each_case = pytest.mark.parametrize(("kind", "options", "family"), CASES, ids=ids)


def fresh(family: str, dtype: torch.dtype = torch.float32) -> Base:
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "vocab_size": 53, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.2,
        "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(**sizes))
    elif family == "bert":
        model = BertModel(BertConfig(**sizes, intermediate_size=48))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=48, num_key_value_heads=2))
    kind = "encoder" if family == "bert" else "causal"
    return from_model(model, None, kind=kind, name=family, dtype=dtype)


def a_batch() -> Batch:
    tokens = np.random.default_rng(1).integers(3, 53, (2, 8))
    segments = np.array([[1] * 8, [1] * 5 + [0] * 3], dtype=np.int32)
    positions = np.tile(np.arange(8), (2, 1))
    return Batch(
        tokens_BT=np.where(segments > 0, tokens, 0), loss_mask_BT=segments.astype(np.float32), segments_BT=segments,
        positions_BT=positions, example_ids=("a", "b"), weights={"examples": 2.0},
    )  # fmt: skip


def hidden(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        batch = a_batch()
        return policy.hidden(batch)[torch.from_numpy(batch.segments_BT > 0)]


def move(policy: Policy, seed: int = 0) -> None:
    """As training would: every trained weight moves a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@each_case
def test_it_starts_as_the_base(kind: str, options: dict[str, Any], family: str) -> None:
    before = hidden(build(fresh(family), "none", {}))
    torch.testing.assert_close(hidden(build(fresh(family), kind, options)), before, rtol=1e-6, atol=1e-6)


@each_case
def test_only_what_it_trains_gets_a_gradient_and_all_of_that_does(
    kind: str, options: dict[str, Any], family: str
) -> None:
    policy = build(fresh(family), kind, options)
    move(policy)
    out = policy.train().hidden(a_batch())
    assert out.requires_grad == bool(policy.trained())
    if out.requires_grad:
        out.pow(3).sum().backward()
    trained = {id(p) for p in policy.trained().values()}
    for name, parameter in policy.base.model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in trained), name
        assert (parameter.grad is not None) <= (id(parameter) in trained), name
    unreached = {n for n, p in policy.trained().items() if p.grad is None or not p.grad.abs().sum()}
    assert unreached <= {"adapter.lm_head.weight"}  # the hidden states do not pass through the output head


@each_case
def test_merged_equals_unmerged(kind: str, options: dict[str, Any], family: str) -> None:
    policy = build(fresh(family), kind, options)
    names = set(fresh(family).model.state_dict())
    move(policy)
    before = hidden(policy)
    policy.adapter.merge()
    torch.testing.assert_close(hidden(policy), before, rtol=1e-5, atol=1e-5)
    assert set(policy.base.model.state_dict()) == names


@each_case
def test_saved_and_loaded_is_bit_for_bit_the_same(
    kind: str, options: dict[str, Any], family: str, tmp_path: Path
) -> None:
    policy = build(fresh(family), kind, options)
    move(policy)
    policy.save(tmp_path)
    again = Policy.load(tmp_path, fresh(family))
    assert policy.trained().keys() == again.trained().keys()
    for name, parameter in policy.trained().items():
        assert torch.equal(parameter, again.trained()[name]), name
    assert torch.equal(hidden(policy), hidden(again))


@each_case
def test_the_reference_is_the_untouched_base(kind: str, options: dict[str, Any], family: str, tmp_path: Path) -> None:
    base = fresh(family)
    before = hidden(build(fresh(family), "none", {}))
    base.model.save_pretrained(tmp_path)
    policy = build(base, kind, options)
    move(policy)
    if kind in ("full", "layers"):
        with pytest.raises(MachineError, match="E414"), policy.reference():
            pass
        policy.base.path = tmp_path
    moved = hidden(policy)
    with policy.reference():
        torch.testing.assert_close(hidden(policy), before, rtol=1e-6, atol=1e-6)
    assert torch.equal(hidden(policy), moved)


@each_case
def test_trained_weights_are_float32_and_frozen_ones_are_stored_in_bfloat16(
    kind: str, options: dict[str, Any], family: str
) -> None:
    policy = build(fresh(family, torch.bfloat16), kind, options)
    trained = {id(p) for p in policy.trained().values()}
    for name, parameter in policy.base.model.named_parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in trained else torch.bfloat16), name
    wide = hidden(build(fresh(family), kind, options))
    found = hidden(policy).float()
    assert (found - wide).abs().max() < 0.05 * wide.abs().max()
    if policy.trained():
        policy.train().hidden(a_batch()).float().pow(3).sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in policy.trained().values())


@each_case
def test_the_same_seed_gives_the_same_start(kind: str, options: dict[str, Any], family: str) -> None:
    bases = fresh(family), fresh(family)
    before = torch.get_rng_state()
    first = build(bases[0], kind, options, seed=4).trained()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    second = build(bases[1], kind, options, seed=4).trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_is(kind: str) -> None:
    plugin = catalog("adapters").get(kind)
    assert plugin.summary.endswith(".")
    assert plugin.__doc__
    for name, field in plugin.Options.model_fields.items():
        assert field.description, f"{kind}.{name} has no description"
