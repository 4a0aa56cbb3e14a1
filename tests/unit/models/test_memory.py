"""The estimate follows the real program: exact for what is counted, near the measured peak of a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, Qwen2Config

from metier.core.errors import ConfigError
from metier.models import attention
from metier.models.base import from_model
from metier.models.memory import RUNTIME_BYTES, _Live, estimate
from metier.models.policy import build

QWEN_05B: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


def small(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, **more,
    )  # fmt: skip


def test_half_a_billion_parameters_are_weighed_without_being_made() -> None:
    found = estimate(Qwen2Config(**QWEN_05B), adapter="lora", options={"r": 16}, rows=1, length=256, dtype="bfloat16")
    assert found.num_parameters == 494_032_768  # the published count of Qwen2-0.5B
    per_layer = 2 * (896 + 896) + 2 * (896 + 128) + 2 * (896 + 4864) + (4864 + 896)  # q o, k v, gate up, down
    assert found.num_trained == 24 * 16 * per_layer
    assert found.gradients == 4 * found.num_trained and found.optimizer == 8 * found.num_trained
    frozen_and_adapter = 2 * 494_032_768 + 4 * found.num_trained
    assert frozen_and_adapter <= found.weights < frozen_and_adapter + 10_000  # rotary frequencies
    assert (
        found.peak == RUNTIME_BYTES + found.weights + found.optimizer + found.gradients + found.activations + found.head
    )


@pytest.mark.parametrize(("adapter", "rows"), [("lora", 1), ("lora", 3), ("full", 2), ("layers", 2), ("none", 2)])
def test_activations_equal_those_of_the_real_step(adapter: str, rows: int) -> None:
    found = estimate(small(), adapter=adapter, rows=rows, length=96)
    policy = build(from_model(AutoModelForCausalLM.from_config(small()), None), adapter, {}).train()
    for parameter in policy.trained().values():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.zeros(rows, 96, dtype=torch.long)
    live = _Live()
    with live, attention.layout(attention.RIGHT_PADDED):
        hidden = attention.last_hidden(policy.base.model, tokens, attention_mask=None)
        if hidden.requires_grad:
            hidden.backward(torch.ones_like(hidden))
    assert found.activations == pytest.approx(live.peak, rel=0.02)


def test_activations_grow_with_tokens_and_shrink_with_trained_layers() -> None:
    def activations(adapter: str, rows: int, **options: Any) -> int:
        return estimate(small(), adapter=adapter, options=options, rows=rows, length=64).activations

    assert activations("lora", 8) == pytest.approx(2 * activations("lora", 4), rel=0.05)
    assert activations("layers", 4, num_layers=1) < 0.6 * activations("full", 4)
    assert activations("none", 4) < 0.3 * activations("lora", 4)


def test_the_head_counts_the_supervised_share_only_up_to_a_chunk() -> None:
    def head(share: float, adapter: str = "lora") -> int:
        return estimate(small(), adapter=adapter, rows=4, length=64, supervised_share=share).head

    assert head(1.0) == 256 * 500 * 8 and head(0.25) == head(1.0) // 4
    assert head(1.0, "full") == 256 * 500 * 8 + 8 * 500 * 64  # its own gradient, and one product of it


def test_a_task_head_replaces_the_vocabulary() -> None:
    config = BertConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    found = estimate(config, kind="encoder", adapter="none", rows=4, length=32, num_outputs=7)
    assert found.head == 0 and found.num_trained == 7 * 65 and found.gradients == 4 * 7 * 65


def test_flops_are_those_of_the_textbook() -> None:
    config = small()
    body = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 160 * 3)
    head, attended = 500 * 64, 4 * 32 * 64 * 3 * 3.0
    full = estimate(config, adapter="full", rows=1, length=64)
    assert full.flops_per_token == pytest.approx(6 * body + 6 * head + attended)
    lora = estimate(config, adapter="lora", options={"r": 4}, rows=1, length=64, supervised_share=0.5)
    expected = 4 * body + 6 * lora.num_trained + 4 * 0.5 * head + attended
    assert lora.flops_per_token == pytest.approx(expected, rel=0.02)  # the first layer's input needs no gradient


def test_gpt2_dora_with_dropout_can_be_planned_and_a_directory_is_enough(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_layer=2, n_embd=64, n_head=4)
    options = {"use_dora": True, "lora_dropout": 0.1}
    found = estimate(config, adapter="lora", options=options, rows=2, length=32, dtype="bfloat16")
    assert found.activations > estimate(config, adapter="lora", rows=2, length=32, dtype="bfloat16").activations
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert estimate(tmp_path, adapter="lora", options=options, rows=2, length=32, dtype="bfloat16") == found
    with pytest.raises(ConfigError, match="E211"):
        estimate(config, adapter="lora", options={"rank": 3}, rows=1, length=8)


STEP = """
import json, resource, sys
import numpy, pyarrow, sklearn, torch, transformers
from metier.models.memory import estimate, release_freed_memory
assert release_freed_memory()
from metier.models.base import from_model
from metier.models.policy import build
from transformers import AutoModelForCausalLM, LlamaConfig
config = LlamaConfig(**json.loads(sys.argv[1]))
policy = build(from_model(AutoModelForCausalLM.from_config(config), None), "full", {}).train()
trained = policy.trained().values()
optimizer = torch.optim.AdamW(trained, fused=True)
tokens = torch.zeros(4, 256, dtype=torch.long)
from metier.models import attention
for _ in range(2):
    with attention.layout(attention.RIGHT_PADDED):
        hidden = attention.last_hidden(policy.base.model, tokens, attention_mask=None)
    hidden.float().square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
scale = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator setting is glibc's")
def test_the_estimate_is_near_the_measured_peak_of_a_process() -> None:
    sizes = {
        "vocab_size": 32_000, "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps(sizes)], capture_output=True, text=True, check=True, timeout=300
    )
    found = estimate(LlamaConfig(**sizes), adapter="full", rows=4, length=256)
    assert found.num_parameters == 15_191_712
    assert found.peak - found.head == pytest.approx(int(done.stdout), rel=0.15)
