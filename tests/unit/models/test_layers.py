"""LoRA, rsLoRA and DoRA give what PEFT gives for the same file; the lean gradient is autograd's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metier.core.batch import Batch
from metier.core.errors import ConfigError, MachineError
from metier.models.base import Base
from metier.models.layers import LoraLinear
from metier.models.policy import build

Make = Callable[..., Base]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"use_rslora": True, "r": 8}),
    ("llama", {"use_dora": True, "r": 4}),
    ("llama", {"use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]}),
    ("llama", {"target_modules": r".*\.[01]\.mlp\..*"}),
    ("llama", {"layers_to_transform": [2]}),
    ("gpt2", {}),
    ("gpt2", {"use_dora": True}),
    ("gpt_neox", {}),
    ("phi3", {"use_dora": True}),
    ("bert", {"use_dora": True}),
]


@pytest.mark.parametrize(("family", "options"), VARIANTS)
def test_peft_loads_the_directory_and_computes_the_same(
    family: str, options: dict[str, Any], make_base: Make, make_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    plain = make_base(family)
    theirs = copy.deepcopy(plain.model)
    policy = build(plain, "lora", options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.trained().items():
            if not name.endswith("magnitude"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            else:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    policy.save(tmp_path)
    theirs.set_attn_implementation("eager")
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path)
    batch = make_batch([[7]])
    tokens = torch.from_numpy(batch.tokens_BT)
    with torch.no_grad():
        wanted = loaded(input_ids=tokens, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(policy.hidden(batch), wanted, rtol=1e-5, atol=1e-5)


def test_the_file_that_peft_writes_is_read(make_base: Make, make_batch: Callable[..., Batch], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    plain = make_base("llama")
    theirs = peft.get_peft_model(
        copy.deepcopy(plain.model),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
    )
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    policy = build(plain, "lora", {"r": 4, "lora_alpha": 8, "use_dora": True})
    policy.adapter.load(tmp_path)
    theirs.set_attn_implementation("eager")
    batch = make_batch([[7]])
    with torch.no_grad():
        wanted = theirs(input_ids=torch.from_numpy(batch.tokens_BT)).logits
    torch.testing.assert_close(policy.logits(batch), wanted, rtol=1e-5, atol=1e-5)


def test_the_config_names_targets_shortly_where_that_is_exact(make_base: Make, tmp_path: Path) -> None:
    build(make_base("llama"), "lora", {}).save(tmp_path / "all")
    found = json.loads((tmp_path / "all" / "adapter_config.json").read_text())
    assert found["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    build(make_base("llama"), "lora", {"layers_to_transform": [1], "target_modules": ["q_proj"]}).save(tmp_path / "one")
    found = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert found["target_modules"] == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("use_dora", [True, False])
def test_the_gradient_is_autograds(bias: bool, use_dora: bool) -> None:
    torch.manual_seed(0)
    original = nn.Linear(5, 7, bias=bias).double().requires_grad_(False)
    layer = LoraLinear(original, r=3, scaling=0.7, dropout=0.0, use_dora=use_dora).double()
    with torch.no_grad():
        layer.lora_A.normal_()
        layer.lora_B.normal_()
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    ours = layer(x)
    weight = layer.weight + 0.7 * layer.lora_B @ layer.lora_A
    if use_dora:
        assert layer.magnitude is not None
        weight = weight * (layer.magnitude / weight.detach().norm(dim=1)).unsqueeze(1)
    wanted = F.linear(x, weight, layer.bias)
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    grad = torch.randn_like(ours)
    for found, right in zip(
        torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(wanted, leaves, grad), strict=True
    ):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)


def test_nothing_below_the_lowest_layer_is_computed_backward() -> None:
    layer = LoraLinear(nn.Linear(5, 7).requires_grad_(False), r=3, scaling=1.0, dropout=0.0, use_dora=False)
    saved: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    x = torch.randn(6, 5)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = layer(x)
    assert sorted(saved) == sorted([(6, 5), (7, 5), (6, 3), (3, 5), (7, 3)])  # x, W, xAᵀ, A, B: nothing of size (6, 7)
    out.sum().backward()
    assert x.grad is None
    assert layer.lora_B.grad is not None


def test_dropout_acts_in_training_only_and_on_the_sum_only() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(64, 32).requires_grad_(False), r=4, scaling=1.0, dropout=0.5, use_dora=False)
    x = torch.randn(3, 64)
    base = layer(x)
    assert torch.equal(layer.train()(x), base)  # B is zero: only the sum could have changed
    nn.init.normal_(layer.lora_B)
    nn.init.normal_(layer.lora_A)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_scaling_is_alpha_over_r_or_over_its_root(make_base: Make) -> None:
    assert build(make_base("llama"), "lora", {"r": 4, "lora_alpha": 6}).adapter.scaling == 1.5  # type: ignore[attr-defined]
    found = build(make_base("llama"), "lora", {"r": 4, "lora_alpha": 6, "use_rslora": True}).adapter.scaling  # type: ignore[attr-defined]
    assert found == 3.0


@pytest.mark.parametrize("target", [["q_prj"], ["q_proj", "nothing"], "(", r"nothing\..*"])
def test_a_target_that_fits_nothing_is_refused(target: Any, make_base: Make) -> None:
    with pytest.raises(ConfigError, match="E260"):
        build(make_base("llama"), "lora", {"target_modules": target})


def test_an_adapter_of_another_scale_or_shape_is_refused(make_base: Make, tmp_path: Path) -> None:
    build(make_base("llama"), "lora", {"r": 4}).save(tmp_path)
    for options in ({"r": 8}, {"r": 4, "lora_alpha": 1.0}, {"r": 4, "target_modules": ["q_proj"]}):
        with pytest.raises(MachineError, match="E408"):
            build(make_base("llama"), "lora", options).adapter.load(tmp_path)


def test_the_output_head_and_unused_poolers_are_no_targets(make_base: Make) -> None:
    for family in ("llama", "bert"):
        names = build(make_base(family), "lora", {}).trained()
        assert names
        assert not [name for name in names if "lm_head" in name or "pooler" in name]
