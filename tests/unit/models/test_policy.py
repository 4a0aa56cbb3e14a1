"""The policy: heads, likelihoods, scores, modes, and what it saves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from metier.core.batch import Batch
from metier.core.errors import ConfigError, MachineError
from metier.models.base import Base, from_model
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build
from metier.training.tokens import cross_entropy, measure_tokens

Make = Callable[..., Base]
MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "granite", "cohere", "gpt2", "olmo"])
@pytest.mark.parametrize("rows", [[[3, 6], [8]], [[5], [9]]])
def test_token_logprobs_are_those_of_the_plain_logits(
    family: str, rows: list[list[int]], make_base: Make, make_batch: MakeBatch
) -> None:
    policy = build(make_base(family), "none", {})
    batch = make_batch(rows)
    plain = policy.logits(batch).log_softmax(-1)
    found = policy.token_logprobs(batch)
    for row, column in np.ndindex(*batch.tokens_BT.shape):
        first = batch.positions_BT[row, column] == 0 or batch.segments_BT[row, column] == 0
        wanted = 0.0 if first else float(plain[row, column - 1, batch.tokens_BT[row, column]])
        assert float(found[row, column]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_hidden_matrices_are_those_of_the_blocks(family: str, adapter: str, make_base: Make) -> None:
    policy = build(make_base(family), adapter, {}, head=HeadSpec(num_outputs=2))
    matrices = {name for name, p in policy.trained().items() if p.ndim == 2 and not name.startswith("head.")}
    outer = {name for name in matrices if re.search(r"embed|wte|wpe|lm_head", name)}
    assert policy.hidden_matrices() == matrices - outer
    assert bool(outer) == (adapter == "full"), "there is something to leave out, where the base itself trains"


def test_token_logprobs_do_not_depend_on_the_chunk(
    make_base: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = build(make_base("llama"), "none", {})
    batch = make_batch([[40], [64]])
    whole = policy.token_logprobs(batch)
    monkeypatch.setattr("metier.models.output.CHUNK_VALUES", 1)
    torch.testing.assert_close(policy.token_logprobs(batch), whole, rtol=1e-6, atol=1e-6)


def test_greedy_generation_follows_the_plain_logits(make_base: Make) -> None:
    policy = build(make_base("llama"), "none", {})
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    for prompt, completion in zip(prompts, policy.generate(prompts, max_new_tokens=5, stop_ids=()), strict=True):
        tokens = list(prompt)
        for _ in range(5):
            with torch.no_grad():
                tokens.append(int(policy.base.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert list(completion.token_ids) == tokens[len(prompt) :]


def test_an_encoder_has_no_output_layer(make_base: Make) -> None:
    with pytest.raises(MachineError, match="E407"):
        build(make_base("bert"), "none", {}).output_layer()


@pytest.mark.parametrize("rows", [[[3, 6], [8]], [[5], [9]]])
def test_a_head_that_cannot_be_written_as_a_layer_computes_every_token_itself(
    rows: list[list[int]], make_base: Make, make_batch: MakeBatch
) -> None:
    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.square())

    model = make_base("llama").model
    odd = Odd(32, 61, bias=False)
    odd.weight = model.lm_head.weight
    model.lm_head = odd
    policy = build(from_model(model, None), "full", {})
    assert policy.output_layer() is None
    batch = make_batch(rows)
    real_BT = batch.segments_BT > 0
    logprobs = policy.logits(batch).log_softmax(-1)
    wanted = torch.zeros(batch.tokens_BT.shape)
    for row, column in np.argwhere(batch.loss_mask_BT):
        wanted[row, column] = logprobs[row, column - 1, batch.tokens_BT[row, column]]
    torch.testing.assert_close(policy.token_logprobs(batch)[real_BT], wanted[real_BT])
    loss = cross_entropy(policy, batch)
    assert loss.item() == pytest.approx(-wanted.sum().item(), rel=1e-5)
    assert measure_tokens(policy, batch)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in policy.trained().values())


@pytest.mark.parametrize(("kind", "trains"), [("none", False), ("lora", False), ("layers", False), ("full", True)])
def test_the_output_layer_says_whether_it_trains(kind: str, trains: bool, make_base: Make) -> None:
    policy = build(make_base("llama"), kind, {})
    layer = policy.output_layer()
    assert layer.trainable == trains
    assert layer.weight is policy.base.model.lm_head.weight
    assert policy.output_layer() is layer


def test_frozen_parts_never_drop(make_base: Make, make_batch: MakeBatch) -> None:
    batch = make_batch([[9]])
    for kind, drops in (("none", False), ("lora", False), ("layers", True), ("full", True)):
        policy = build(make_base("bert", hidden_dropout_prob=0.5), kind, {}).train()
        assert policy.base.model.training
        assert torch.equal(policy.hidden(batch), policy.hidden(batch)) != drops, kind
        policy.eval()
        assert torch.equal(policy.hidden(batch), policy.hidden(batch))
        assert not any(module.training for module in policy.base.model.modules())


def test_packed_head_outputs_equal_unpacked_ones(make_base: Make, make_batch: MakeBatch) -> None:
    for family in ("llama", "bert"):
        policy = build(make_base(family), "lora", {}, head=HeadSpec(num_outputs=4, hidden_layers=1))
        batch = make_batch([[3, 5], [8]])
        out = policy.head_logits(batch)
        assert out.shape == (3, 4)
        assert out.dtype == torch.float32
        for example, (row, start, end) in enumerate([(0, 0, 3), (0, 3, 8), (1, 0, 8)]):
            alone = make_batch([[end - start]])
            alone.tokens_BT[:] = batch.tokens_BT[row : row + 1, start:end]
            torch.testing.assert_close(policy.head_logits(alone)[0], out[example], rtol=1e-4, atol=1e-5)


def test_names_of_trained_weights_are_stable_and_adapter_comes_first(make_base: Make) -> None:
    names = [list(build(make_base("llama"), "lora", {}, head=HeadSpec(num_outputs=2)).trained()) for _ in range(2)]
    assert names[0] == names[1]
    assert names[0][0] == "adapter.model.layers.0.self_attn.q_proj.lora_A"
    assert names[0][-1] == "head.output.weight"


def test_bfloat16_computation_casts_no_frozen_weight(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama", dtype=torch.bfloat16), "lora", {"r": 4}).train()
    with policy.computing():
        assert not torch.is_autocast_enabled("cpu")
    hidden = policy.hidden(make_batch([[3, 9]]))
    assert hidden.dtype == torch.bfloat16
    with build(make_base("llama", dtype=torch.bfloat16), "full", {}).computing():
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_bfloat16_learns_what_float32_learns(kind: str, make_base: Make, make_batch: MakeBatch) -> None:
    batch = make_batch([[12], [12]])
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        policy = build(make_base("llama", dtype=dtype), kind, {"r": 8} if kind == "lora" else {}).train()
        optimizer = torch.optim.AdamW(policy.trained().values(), lr=1e-2)
        for _ in range(15):
            with policy.computing():
                logits = policy.output_layer()(policy.hidden(batch).reshape(-1, 32))
            targets = torch.from_numpy(batch.tokens_BT)[:, 1:].reshape(-1)
            loss = nn.functional.cross_entropy(logits.view(2, 12, -1)[:, :-1].reshape(-1, 61), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[dtype] = float(loss.detach())
    assert losses[torch.float32] < 1.5
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], abs=0.15)


def test_checking_the_output_layer_inside_autocast_costs_no_gradient(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama", dtype=torch.bfloat16), "full", {}).train()
    with policy.computing():
        policy.output_layer()  # without gradients; autocast must not keep its casts for the forward pass below
        hidden = policy.hidden(make_batch([[9]]))
    hidden.float().pow(3).sum().backward()
    without = [name for name, p in policy.trained().items() if p.grad is None]
    assert without == ["adapter.lm_head.weight"]


# ───────────────────────────────────────────────────────────────────────────── disk


def with_head(make_base: Make, **changes: Any) -> Policy:
    spec = {"num_outputs": 2, "labels": ("no", "yes"), "hidden_layers": 1, **changes}
    return build(make_base("llama"), "lora", {"r": 4}, head=HeadSpec(**spec), seed=3)


def test_a_head_comes_back_with_its_labels(make_base: Make, make_batch: MakeBatch, tmp_path: Path) -> None:
    policy = with_head(make_base, target_mean=2.5)
    for parameter in policy.trained().values():
        nn.init.normal_(parameter, std=0.3)
    policy.save(tmp_path)
    again = Policy.load(tmp_path, make_base("llama"))
    assert again.head is not None
    assert policy.head is not None
    assert again.head.spec == policy.head.spec
    batch = make_batch([[4], [9]])
    assert torch.equal(again.head_logits(batch), policy.head_logits(batch))
    assert json.loads((tmp_path / "head.json").read_text())["labels"] == ["no", "yes"]


def test_weights_of_another_policy_are_refused(make_base: Make, tmp_path: Path) -> None:
    with_head(make_base).save(tmp_path)
    others = {
        "base": lambda: Policy.load(tmp_path, make_base("llama", num_hidden_layers=2)),
        "base config": lambda: Policy.load(tmp_path, make_base("llama", rms_norm_eps=0.5)),
        "adapter": lambda: build(make_base("llama"), "full", {}).restore(tmp_path),
        "task head": lambda: build(make_base("llama"), "lora", {"r": 4}).restore(tmp_path),
        "task head ": lambda: with_head(make_base, labels=("yes", "no")).restore(tmp_path),
    }
    for what, attempt in others.items():
        with pytest.raises(MachineError, match=f"E408.*{what.strip()}"):
            attempt()


def test_a_policy_of_an_earlier_version_says_nothing_of_the_config_and_is_read(make_base: Make, tmp_path: Path) -> None:
    with_head(make_base).save(tmp_path)
    file = tmp_path / "metier_policy.json"
    saved = json.loads(file.read_text())
    del saved["base"]["config"]
    file.write_text(json.dumps(saved))
    assert Policy.load(tmp_path, make_base("llama")).head is not None


def test_a_damaged_directory_is_refused(make_base: Make, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="E408"):
        Policy.load(tmp_path, make_base("llama"))
    with_head(make_base).save(tmp_path)
    for file in ("head.safetensors", "adapter_model.safetensors"):
        good = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(good[:-40])
        with pytest.raises(MachineError, match="E408"):
            Policy.load(tmp_path, make_base("llama"))
        (tmp_path / file).unlink()
        with pytest.raises(MachineError, match="E408"):
            Policy.load(tmp_path, make_base("llama"))
        (tmp_path / file).write_bytes(good)


def test_options_are_checked(make_base: Make) -> None:
    with pytest.raises(ConfigError, match="E211"):
        build(make_base("llama"), "lora", {"rank": 4})
    with pytest.raises(ConfigError, match="E261"):
        build(make_base("llama"), "layers", {"num_layers": 4})
    with pytest.raises(ConfigError, match="E210"):
        build(make_base("llama"), "lorra", {})


def test_the_top_layers_and_the_final_norm_train(make_base: Make) -> None:
    names = {name.removeprefix("adapter.") for name in build(make_base("llama"), "layers", {"num_layers": 1}).trained()}
    assert names == {
        "model.norm.weight",
        *(f"model.layers.2.self_attn.{p}_proj.weight" for p in "qkvo"),
        *(f"model.layers.2.mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
        "model.layers.2.input_layernorm.weight",
        "model.layers.2.post_attention_layernorm.weight",
    }
    gpt2 = build(make_base("gpt2"), "layers", {"num_layers": 1}).trained()
    assert "adapter.transformer.ln_f.weight" in gpt2
    assert "adapter.transformer.wte.weight" not in gpt2


def test_a_run_of_an_earlier_version_is_read_though_it_kept_an_output_layer_that_nothing_moved(
    make_base: Callable[..., Base], tmp_path: Path
) -> None:
    spec = HeadSpec(num_outputs=3, labels=("a", "b", "c"))
    policy = build(make_base("llama"), "full", {}, head=spec)
    policy.save(tmp_path)
    file = tmp_path / "trained.safetensors"
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors and "model.embed_tokens.weight" in tensors
    save_file({**tensors, "lm_head.weight": policy.base.model.lm_head.weight.detach()}, file, {"format": "pt"})
    build(make_base("llama"), "full", {}, head=spec, seed=5).restore(tmp_path)
    save_file({**tensors, "another.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(MachineError, match="E408"):
        build(make_base("llama"), "full", {}, head=spec).restore(tmp_path)
