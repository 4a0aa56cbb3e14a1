"""The dry run does what the real step does: the same tensors live, the same arithmetic is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig

from metier.core.batch import Batch
from metier.models.attention import Support
from metier.models.base import from_model
from metier.models.dryrun import LARGE_BYTES, DryRun, Watch, blank
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build
from metier.training.losses import single_label
from metier.training.tokens import cross_entropy

LLAMA = LlamaConfig(
    vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
BERT = BertConfig(
    vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=32,
)  # fmt: skip
HEAD = HeadSpec(num_outputs=5, hidden_layers=1)


def labels(policy: Policy, batch: Batch) -> torch.Tensor:
    return single_label(policy.head_logits(batch), torch.zeros(len(batch.example_ids), dtype=torch.long))


def real(config: Any, adapter: str, batch: Batch, loss: Any, head: HeadSpec | None = None, dtype: Any = None) -> Watch:
    """Watch a pass of the real model."""
    causal = not isinstance(config, BertConfig)
    model = (AutoModelForCausalLM if causal else AutoModel).from_config(config)
    base = from_model(model, None, kind="causal" if causal else "encoder", dtype=dtype or torch.float32)
    policy = build(base, adapter, {}, head=head).train()
    if causal:
        policy.output_layer()  # its proof is not part of the step
    watch = Watch()
    with watch:
        with policy.computing():
            out = loss(policy, batch)
        if out.requires_grad:
            out.backward()
    return watch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("adapter", "rows"), [("lora", 1), ("lora", 3), ("full", 2), ("layers", 2), ("none", 2)])
def test_a_language_model_lives_and_works_as_in_the_real_step(adapter: str, rows: int, dtype: str) -> None:
    batch = blank(rows, 96)
    found = DryRun(LLAMA, adapter=adapter, dtype=dtype).run(batch, cross_entropy)
    watch = real(LLAMA, adapter, batch, cross_entropy, dtype=getattr(torch, dtype))
    assert found.peak == pytest.approx(watch.peak, rel=0.02)
    assert sum(found.work.flops.values()) == sum(watch.work.flops.values())
    assert found.work.heads == watch.work.heads
    assert found.work.launches == pytest.approx(watch.work.launches, abs=12)  # arrays that become tensors


def test_a_task_head_leaves_an_untied_output_layer_out_of_what_trains() -> None:
    config = LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": False})
    plain, headed = (DryRun(config, adapter="full", head=head).trained for head in (None, HEAD))
    head = HEAD.num_outputs * 64 + 64 * 64 + 64  # a decoder's output has no bias
    assert sum(p.numel() for p in plain) - sum(p.numel() for p in headed) == 500 * 64 - head
    tied = DryRun(LLAMA, adapter="full", head=HEAD)
    assert "adapter.model.embed_tokens.weight" in tied.policy.trained()


@pytest.mark.parametrize("adapter", ["none", "lora", "full"])
def test_packed_rows_of_an_encoder_may_be_longer_than_its_window(adapter: str) -> None:
    batch = blank(2, 96, window=32)
    assert batch.packed and len(batch.example_ids) == 6 and batch.positions_BT.max() == 31
    found = DryRun(BERT, adapter=adapter, kind="encoder", head=HEAD).run(batch, labels)
    watch = real(BERT, adapter, batch, labels, HEAD)
    assert found.peak == pytest.approx(watch.peak, rel=0.02)
    assert sum(found.work.flops.values()) == sum(watch.work.flops.values())
    unpacked = DryRun(BERT, adapter=adapter, kind="encoder", head=HEAD).run(blank(6, 32), labels)
    alone = {shape._replace(masked=False): heads for shape, heads in unpacked.work.heads.items()}
    assert found.work.heads == alone, "no segment attends to another"
    assert sum(found.work.flops.values()) == pytest.approx(sum(unpacked.work.flops.values()), rel=0.01)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("config", [LLAMA, BERT])
def test_a_family_that_keeps_its_own_attention_can_be_planned(config: Any, packed: bool) -> None:
    support = Support(unmasked=False, packing=False, reason="as if ours gave other numbers")
    kind = "encoder" if config is BERT else "causal"
    run = DryRun(config, adapter="full", kind=kind, support=support)  # type: ignore[arg-type]
    apart = run.run(blank(6, 32))
    found = run.run(blank(2, 96, window=32) if packed else blank(6, 32))
    assert found.peak >= apart.peak and found.work.heads == apart.work.heads


def test_products_are_counted_by_the_textbook() -> None:
    body = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 160 * 3)
    found = DryRun(LLAMA, adapter="full").run(blank(2, 64), cross_entropy)
    assert sum(found.work.flops.values()) == 6 * (body + 500 * 64) * 128
    (shape,) = {s._replace(backward=False) for s in found.work.heads}
    assert (shape.queries, shape.keys, shape.width, shape.causal) == (64, 64, 16, True)
    assert set(found.work.heads.values()) == {3 * 2 * 4}  # layers, rows, heads; forward and backward each


def test_only_low_precision_products_are_compiled_and_each_shape_once() -> None:
    assert DryRun(LLAMA, adapter="full").run(blank(2, 64)).products == 0
    few = DryRun(LLAMA, adapter="full", dtype="bfloat16").run(blank(2, 64)).products
    deeper = LlamaConfig(**{**LLAMA.to_dict(), "num_hidden_layers": 6})
    assert 0 < few == DryRun(deeper, adapter="full", dtype="bfloat16").run(blank(2, 64)).products


def test_dropout_draws_and_views_cost_no_traffic() -> None:
    work = DryRun(BERT, adapter="full", kind="encoder", head=HEAD).run(blank(2, 32), labels).work
    assert work.draws == 2 * 32 * 64 * (1 + 2 * 2) + 2 * (2 * 4 * 32 * 32)  # embeddings, two per layer; the weights
    watch = Watch()
    with watch:
        tensor = torch.ones(8, 8)
        tensor.view(64).t()
    assert watch.work.launches == 1
    assert sum(watch.work.fresh.values()) == 8 * 8 * 4


def test_blocks_that_the_system_takes_back_are_told_apart() -> None:
    watch = Watch()
    with watch:
        large, little = torch.ones(LARGE_BYTES // 4), torch.ones(1000)
        del large
        more = torch.ones(1000)
    assert watch.work.mapped == LARGE_BYTES
    assert (watch.now, watch.heap, watch.heap_at_peak) == (8000, 8000, 4000)
    assert little.numel() == more.numel()


def test_large_operations_are_divided_among_threads_and_small_ones_are_not() -> None:
    watch = Watch()
    with watch:
        torch.ones(32_768).mul(2.0)
        torch.ones(32_767).mul(2.0)
    assert watch.work.joins == 2
    assert set(watch.work.fresh) == {True, False}


def test_the_policy_is_left_without_gradients() -> None:
    run = DryRun(LLAMA, adapter="full")
    first, second = run.run(blank(2, 64), cross_entropy), run.run(blank(2, 64), cross_entropy)
    assert first.peak == second.peak and all(p.grad is None for p in run.trained)
    added = run.run(blank(2, 64), cross_entropy, passes=2)
    assert added.peak > first.peak and added.work.launches > first.work.launches  # adding to what is there


def test_a_blank_batch_has_its_segments() -> None:
    batch = blank(1, 10, window=4)
    np.testing.assert_array_equal(batch.segments_BT[0], [1, 1, 1, 1, 2, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(batch.positions_BT[0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
