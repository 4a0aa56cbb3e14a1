"""Packed rows equal unpacked rows, for every family, and rows padded on the right need no mask."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.batch import Batch
from metier.models import attention
from metier.models.base import Base
from metier.models.policy import Policy, build
from metier.models.segments import Segments
from metier.models.support import install, packed_gap

DECODERS = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "olmo",
    "olmo2",
    "gpt2",
    "gpt_neox",
    "phi3",
    "granite",
    "cohere",
    "gpt_oss",
    "opt",
]
ENCODERS = ["bert", "roberta", "modernbert"]
Make = Callable[..., Base]
MakeBatch = Callable[..., Batch]


def own_hidden(policy: Policy, batch: Batch, row: int, start: int, end: int) -> torch.Tensor:
    """One segment alone, by the family's own attention."""
    model = policy.base.model
    model.set_attn_implementation("eager")
    tokens = torch.from_numpy(batch.tokens_BT[row : row + 1, start:end])
    hidden = attention.last_hidden(model, tokens, attention_mask=torch.ones_like(tokens))[0]
    model.set_attn_implementation(attention.NAME)
    return hidden


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
@torch.no_grad()
def test_each_packed_segment_equals_the_segment_alone_in_the_familys_own_attention(
    family: str, make_base: Make, make_batch: MakeBatch
) -> None:
    policy = build(make_base(family), "none", {})
    assert policy.base.attention.packing, policy.base.attention.reason
    batch = make_batch([[3, 9, 2], [6], [1, 11]], pad_id=1 if family == "roberta" else 0)
    hidden = policy.hidden(batch)
    for row, start, end in [(0, 0, 3), (0, 3, 12), (0, 12, 14), (1, 0, 6), (2, 0, 1), (2, 1, 12)]:
        alone = own_hidden(policy, batch, row, start, end)
        torch.testing.assert_close(hidden[row, start:end], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_right_padded_rows_equal_the_models_own_logits(family: str, make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base(family), "none", {})
    batch = make_batch([[3], [12], [7]])
    real = torch.from_numpy(batch.segments_BT > 0)
    found = policy.output_layer()(policy.hidden(batch))[real]
    torch.testing.assert_close(found, policy.logits(batch)[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_an_encoders_padding_changes_nothing(family: str, make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base(family), "none", {})
    batch = make_batch([[4], [12], [7]], pad_id=1 if family == "roberta" else 0)
    hidden = policy.hidden(batch)
    for row, length in enumerate((4, 12, 7)):
        tokens = torch.from_numpy(batch.tokens_BT[row : row + 1, :length])
        alone = attention.last_hidden(policy.base.model, tokens)[0]
        torch.testing.assert_close(hidden[row, :length], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral"])
def test_no_dense_mask_is_built(
    family: str, make_base: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = build(make_base(family, sliding_window=16), "none", {})

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a dense mask was built")

    monkeypatch.setattr("transformers.masking_utils.sdpa_mask", forbidden)
    policy.hidden(make_batch([[3, 9], [12]]))
    policy.hidden(make_batch([[9], [12]]))


def test_gradients_of_packed_rows_equal_those_of_unpacked_rows(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama"), "full", {})
    packed = make_batch([[3, 9, 2], [6, 5]])
    grads = []
    for can_pack in (True, False):
        policy.base.attention = replace(policy.base.attention, packing=can_pack)
        hidden = policy.hidden(packed)[torch.from_numpy(packed.segments_BT > 0)]
        hidden.pow(3).sum().backward()  # the squares' sum is constant behind the norm
        grads.append({name: p.grad.clone() for name, p in policy.trained().items() if p.grad is not None})
        for parameter in policy.trained().values():
            parameter.grad = None
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-4 * float(grads[1][name].abs().max()))


def test_a_family_without_our_attention_gives_the_same_hidden_states(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama"), "none", {})
    packed, padded = make_batch([[3, 9, 2], [6]]), make_batch([[3], [8]])
    wanted = [policy.hidden(batch).detach() for batch in (packed, padded)]
    policy.base.attention = attention.Support(False, False, "the family has no attention interface")
    policy.base.model.set_attn_implementation("sdpa")
    for batch, before in zip((packed, padded), wanted, strict=True):
        real = torch.from_numpy(batch.segments_BT > 0)
        torch.testing.assert_close(policy.hidden(batch)[real], before[real], rtol=1e-5, atol=1e-5)


def test_bloom_keeps_its_own_attention_and_is_still_right(make_batch: MakeBatch) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    from metier.models.base import from_model

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    policy = build(from_model(BloomForCausalLM(config), None), "none", {})
    assert not policy.base.attention.packing
    batch = make_batch([[3, 9], [6]])
    real = torch.from_numpy(batch.segments_BT > 0)
    found = policy.output_layer()(policy.hidden(batch))[real]
    torch.testing.assert_close(found, policy.logits(batch)[real], rtol=1e-4, atol=1e-5)


def test_install_leaves_random_state_and_mode_alone(make_base: Make) -> None:
    model = make_base("gpt2").model.train()
    before = torch.get_rng_state()
    install(model, causal=True)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training


def test_checkpointed_layers_see_the_segments_again(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama"), "full", {})
    batch = make_batch([[3, 9, 2]])
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            policy.base.model.activation_checkpointing_enable()
        policy.train().hidden(batch).pow(3).sum().backward()
        grads.append(
            np.concatenate([p.grad.flatten().numpy() for p in policy.trained().values() if p.grad is not None])
        )
        for parameter in policy.trained().values():
            parameter.grad = None
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-4, atol=1e-4)


LONG = {"max_position_embeddings": 512}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "bert", "roberta", "modernbert"])
def test_long_packed_rows_are_as_far_from_each_alone_as_rounding(
    family: str, dtype: torch.dtype, make_base: Make, make_batch: MakeBatch
) -> None:
    policy = build(make_base(family, dtype=dtype, **LONG), "lora", {"r": 2})
    batch = make_batch([[230, 3, 90, 40]], pad_id=1 if family == "roberta" else 0)
    assert packed_gap(policy, batch) < (1e-4 if dtype == torch.float32 else 0.1)
    assert all(parameter.grad is None for parameter in policy.trained().values())


def test_packed_rows_that_see_each_other_or_beyond_their_window_are_far_from_each_alone(
    make_base: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = build(make_base("mistral", **LONG), "none", {})
    batch = make_batch([[230, 3, 90, 40]])
    with monkeypatch.context() as patch:
        patch.setattr(Segments, "mask", lambda *_: None)  # the window of four is forgotten
        assert packed_gap(policy, make_batch([[3, 4, 2]])) < 1e-4, "no row is longer than the window"
        assert packed_gap(policy, batch) > 0.1
    policy = build(make_base("llama", **LONG), "none", {})
    monkeypatch.setattr("metier.models.policy.row_lengths", lambda segments_BT: [[segments_BT.shape[1]]])
    assert packed_gap(policy, batch) > 0.1


@pytest.mark.parametrize("rows", [[[9, 200]], [[230, 10]], [[120], [100]]])
def test_short_bfloat16_rows_that_train_attend_in_float32(
    rows: list[list[int]], make_base: Make, make_batch: MakeBatch
) -> None:
    policy = build(make_base("llama", dtype=torch.bfloat16, max_position_embeddings=256), "lora", {})
    batch = make_batch(rows)
    real = torch.from_numpy(batch.segments_BT > 0)
    hidden = policy.hidden(batch)[real]
    with torch.no_grad():
        plain = policy.hidden(batch)[real]
    wide = build(make_base("llama", max_position_embeddings=256), "none", {}).hidden(batch)[real]
    assert hidden.dtype == plain.dtype == torch.bfloat16
    assert (hidden - wide).norm() < 0.03 * wide.norm()
    assert (plain - wide).norm() < 0.03 * wide.norm()


def graph_tensors() -> int:
    gc.collect()
    return sum(1 for found in gc.get_objects() if type(found) is torch.Tensor and found.grad_fn is not None)


@pytest.mark.parametrize("rows", [[[40], [30]], [[20, 12], [9, 30]]])
def test_a_pass_that_no_backward_pass_follows_leaves_nothing(
    rows: list[list[int]], make_base: Make, make_batch: MakeBatch
) -> None:
    policy, batch = build(make_base("llama", dtype=torch.bfloat16), "lora", {}), make_batch(rows)
    before = graph_tensors()
    hidden = policy.hidden(batch)
    assert hidden.requires_grad and graph_tensors() > before
    del hidden
    assert graph_tensors() == before


def test_the_proof_of_packing_keeps_nothing_for_a_backward_pass(
    make_base: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = build(make_base("llama", dtype=torch.bfloat16), "lora", {}), make_batch([[20, 12], [9, 30]])
    hidden = Policy.hidden
    kept: list[int] = []

    def watched(policy: Policy, batch: Batch) -> torch.Tensor:
        found = hidden(policy, batch)
        kept.append(graph_tensors())
        return found

    monkeypatch.setattr(Policy, "hidden", watched)
    packed_gap(policy, batch)
    one = policy.hidden(batch)
    assert one.requires_grad and kept[0] < kept[1] / 2, "the pass itself, against one that could go backward"


@pytest.mark.parametrize("rows", [[[40], [30]], [[20, 12], [9, 30]]])
def test_short_rows_keep_their_bfloat16_numbers_and_the_same_gradients(
    rows: list[list[int]], make_base: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(rows)

    def run(keep: Callable[..., Any]) -> tuple[int, list[torch.Tensor]]:
        monkeypatch.setattr(attention, "_kept_narrow", keep)
        policy = build(make_base("llama", dtype=torch.bfloat16), "full", {})
        bytes_kept: dict[int, int] = {}
        own = torch.autograd.graph.saved_tensors_hooks

        def pack(saved: torch.Tensor) -> torch.Tensor:
            bytes_kept[saved.untyped_storage()._cdata] = saved.untyped_storage().nbytes()
            return saved

        with own(pack, lambda saved: saved):
            hidden = policy.hidden(batch)[torch.from_numpy(batch.segments_BT > 0)]
        hidden.float().pow(3).sum().backward()
        return sum(bytes_kept.values()), [p.grad.clone() for p in policy.trained().values() if p.grad is not None]

    narrow, found = run(attention._kept_narrow)
    wide, wanted = run(lambda wide, given: contextlib.nullcontext())
    assert narrow < wide
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True)), "not one bit differs"
