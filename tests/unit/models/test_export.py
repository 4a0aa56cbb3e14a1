"""An export is the trained model, proved in a fresh process; what cannot be expressed is refused and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from metier.core.errors import ConfigError, MachineError
from metier.core.project import digest_file, read_json
from metier.models import parity, parity_process
from metier.models.base import Base, from_model
from metier.models.export import export
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<|end|>", *(f"w{i}" for i in range(45))]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
ENCODER = SimpleNamespace(stop_ids=frozenset({2, 4}), pad_id=0, dialect=SimpleNamespace(source=TEMPLATE))
PROBES = [[1, 7, 8, 9, 10, 11, 12], [1, 20, 21, 22], [1, 30, 9, 40, 41, 13, 44, 45, 46]]


def tokenizer() -> Any:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def make_base(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> Base:
    torch.manual_seed(1)
    size = len(WORDS)
    sizes: dict[str, Any] = {"vocab_size": size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs = {
        "llama": lambda: LlamaConfig(**sizes, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=True),
        "gpt2": lambda: GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "bert": lambda: BertConfig(**sizes, intermediate_size=48, max_position_embeddings=64),
        "roberta": lambda: RobertaConfig(**sizes, intermediate_size=48, max_position_embeddings=66, pad_token_id=0),
    }
    encoder = family in ("bert", "roberta")
    model = (AutoModel if encoder else AutoModelForCausalLM).from_config(configs[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return from_model(
        model, tokenizer(), kind="encoder" if encoder else "causal", name="tiny", dtype=dtype, path=folder
    )


def trained_policy(folder: Path, family: str = "llama", adapter: str = "lora", **more: Any) -> Policy:
    """A policy whose trained weights have moved."""
    base = make_base(folder, family, more.pop("dtype", torch.float32))
    policy = build(base, adapter, more.pop("options", {}), encoder=ENCODER, seed=3, **more)
    with torch.no_grad():
        for parameter in policy.trained().values():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return policy


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the certificate's script here: a process of its own costs seconds, and some tests below do take it."""

    def run(folder: Path, reference: parity.Reference, form: str, base: Path | None, _: int) -> dict[str, Any]:
        request = {**parity.request(folder, reference, form, base)}
        return {**parity_process.measure(json.loads(json.dumps(request))), "metier_imported": False}

    monkeypatch.setattr(parity, "_run_fresh", run)


@pytest.mark.parametrize(
    ("family", "adapter", "options"),
    [("llama", "lora", {"use_rslora": True}), ("gpt2", "lora", {"use_dora": True}), ("llama", "full", {})],
)
def test_a_merged_export_is_certified_and_loads_without_metier(
    tmp_path: Path, request: pytest.FixtureRequest, family: str, adapter: str, options: dict[str, Any]
) -> None:
    if adapter == "full" or family == "gpt2":
        request.getfixturevalue("same_process")
    policy = trained_policy(tmp_path / "base", family, adapter, options=options)
    before = parity.measure(policy, PROBES, stop_ids=[2, 4])
    made = export(policy, tmp_path / "out", probes=PROBES, texts={"README.md": "# card"})
    assert made.parity is not None and made.parity["passed"] and made.dtype == "float32"
    assert made.parity["max_difference"] < 1e-4 and made.parity["greedy_equal"] == len(PROBES)
    assert made.parity["num_figures"] == sum(len(row) - 1 for row in PROBES)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.generation_config.eos_token_id == [2, 4] and plain.generation_config.pad_token_id == 0
    with torch.no_grad():
        found = plain(input_ids=torch.tensor([PROBES[0]])).logits[0, :-1].log_softmax(-1)
    chosen = [float(found[i, token]) for i, token in enumerate(PROBES[0][1:])]
    assert chosen == pytest.approx(before.figures[0], abs=1e-4)
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "parity.json"} <= files
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TEMPLATE
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE
    text = (tmp_path / "out" / "config.json").read_text()
    assert "metier" not in text and str(tmp_path) not in text
    assert {p.name for p in tmp_path.iterdir()} == {"base", "out"}
    certificate = read_json(tmp_path / "out" / "parity.json")
    assert certificate["files"] == {"model.safetensors": digest_file(tmp_path / "out" / "model.safetensors")}


def test_a_bfloat16_policy_is_certified_within_its_precision(tmp_path: Path, same_process: None) -> None:
    policy = trained_policy(tmp_path / "base", dtype=torch.bfloat16)
    made = export(policy, tmp_path / "out", probes=PROBES)
    assert made.dtype == "bfloat16" and made.parity is not None and made.parity["passed"]
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert 0 < made.parity["max_difference"] < made.parity["max_allowed"]


def test_a_peft_export_loads_onto_the_base(tmp_path: Path) -> None:
    policy = trained_policy(tmp_path / "base")
    made = export(policy, tmp_path / "out", form="peft", probes=PROBES)
    assert made.parity is not None and made.parity["passed"] and made.parity["max_difference"] < 1e-4
    assert "peft" in made.parity["versions"] and list(made.parity["files"]) == ["adapter_model.safetensors"]
    assert len(policy.trained()) > 0  # nothing was merged: it can train on


def test_a_wrong_export_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_process: None
) -> None:
    policy = trained_policy(tmp_path / "base")

    def merge_wrongly() -> None:
        for layer in policy.adapter.layers.values():  # type: ignore[attr-defined]
            layer.scaling *= 2
        original()

    original = policy.adapter.merge
    monkeypatch.setattr(policy.adapter, "merge", merge_wrongly)
    with pytest.raises(MachineError, match="E435"):
        export(policy, tmp_path / "out", probes=PROBES)
    assert {p.name for p in tmp_path.iterdir()} == {"base"}


def test_an_unloadable_export_is_told_apart(tmp_path: Path) -> None:
    policy = trained_policy(tmp_path / "base")
    reference = parity.measure(policy, PROBES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MachineError, match="E436"):
        parity.certify(tmp_path / "empty", reference, form="hf", dtype="float32")


HEADS = {
    "llama": HeadSpec(num_outputs=3, labels=("a", "b", "c")),
    "gpt2": HeadSpec(num_outputs=2, labels=("x", "y"), problem_type="multi_label"),
    "bert": HeadSpec(num_outputs=3, labels=("a", "b", "c"), pooling="cls", hidden_layers=1),
    "roberta": HeadSpec(
        num_outputs=1, pooling="cls", hidden_layers=1, problem_type="regression", target_mean=3.5, target_scale=2.0
    ),
}


@pytest.mark.parametrize("family", HEADS)
def test_a_task_head_becomes_a_sequence_classifier(tmp_path: Path, request: pytest.FixtureRequest, family: str) -> None:
    if family != "llama":
        request.getfixturevalue("same_process")
    spec = HEADS[family]
    policy = trained_policy(tmp_path / "base", family, head=spec)
    policy.head.temperature = 1.0 if spec.problem_type == "regression" else 1.6
    made = export(policy, tmp_path / "out", probes=PROBES)
    assert made.parity is not None and made.parity["passed"] and made.parity["compared"] == "head outputs"
    assert made.parity["num_figures"] == len(PROBES) * spec.num_outputs and made.parity["max_difference"] < 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"].startswith(spec.problem_type) and config["architectures"][0].endswith(
        "ForSequenceClassification"
    )
    if spec.labels:
        assert [config["id2label"][str(i)] for i in range(spec.num_outputs)] == list(spec.labels)


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("bert", HeadSpec(num_outputs=2, pooling="mean")),
        ("llama", HeadSpec(num_outputs=2, bias=True)),
        ("llama", HeadSpec(num_outputs=2, hidden_layers=1)),
        ("llama", HeadSpec(num_outputs=1, problem_type="regression", target_mean=1.0)),
    ],
)
def test_other_heads_are_refused_by_name_before_anything_is_merged(tmp_path: Path, family: str, spec: HeadSpec) -> None:
    policy = trained_policy(tmp_path / "base", family, head=spec)
    with pytest.raises(MachineError, match=r"E432.*" + family):
        export(policy, tmp_path / "out")
    assert any(name.startswith("adapter.") for name in policy.trained()) and not (tmp_path / "out").exists()


def test_targets_forms_and_adapters_that_cannot_be(tmp_path: Path) -> None:
    policy = trained_policy(tmp_path / "base", "llama", "full")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for code, options in {
        "E437": {"to": tmp_path / "full"},
        "E271": {"to": tmp_path / "out", "form": "gguf"},
    }.items():
        with pytest.raises((ConfigError, MachineError), match=code):
            export(policy, **options)
    with pytest.raises(ConfigError, match="E271"):
        export(policy, tmp_path / "out", form="peft")
    with pytest.raises(MachineError, match="E432"):
        export(trained_policy(tmp_path / "b2", head=HEADS["llama"]), tmp_path / "out", form="peft")
    assert not (tmp_path / "out").exists()


def test_probe_rows_are_bounded_and_never_empty() -> None:
    assert [len(r) for r in parity.probe_rows([[5] * 900, [1], [1, 2]] * 9, 50)] == [256, 2] * 4
    invented = parity.probe_rows([], 50)
    assert invented == parity.probe_rows([[3]], 50) and all(0 <= t < 50 for row in invented for t in row)
