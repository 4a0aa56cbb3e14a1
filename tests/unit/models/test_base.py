"""Loading: what is read, what is refused and why, and the digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from metier.core.errors import MachineError
from metier.core.sections import ModelSection
from metier.models import base as bases
from metier.models import files
from metier.models.base import Base
from metier.models.policy import build

Saved = Callable[..., Path]


def load(folder: Path, *, dtype: str = "float32", **choices: str) -> Base:
    section = ModelSection(name_or_path=str(folder), dtype=dtype, device="cpu")
    return bases.load(section, resolve=Path, choices={"threads": "1", **choices})


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "encoder")])
def test_a_directory_is_loaded_with_its_reasons(family: str, kind: str, saved_model: Saved) -> None:
    base = load(saved_model(family))
    assert base.kind == kind
    assert base.dtype == torch.float32
    assert base.num_parameters == sum(p.numel() for p in base.model.parameters())
    norms = {"norms", "gates"} if family == "llama" else set()
    chosen = {"dtype", "device", "threads", "kind", "attention_kernel"}
    assert set(base.reasons) == chosen | {"attention"} | norms
    assert all("because" in base.reasons[key] for key in chosen)
    assert base.choices == {"dtype": "float32", "device": "cpu", "threads": "1", "attention_kernel": "pytorch"}
    assert not base.model.training


def test_pinned_choices_win(saved_model: Saved) -> None:
    section = ModelSection(name_or_path=str(saved_model("llama")), dtype="float32")
    again = bases.load(section, resolve=Path, choices={"dtype": "bfloat16", "threads": "1", "device": "cpu"})
    assert again.dtype == torch.bfloat16
    assert again.reasons["dtype"] == "bfloat16 because the run began with it"


def test_float32_weights_stay_until_an_adapter_has_chosen_and_bfloat16_ones_are_not_blown_up(
    saved_model: Saved,
) -> None:
    folder = saved_model("llama")
    assert next(load(folder, dtype="bfloat16").model.parameters()).dtype == torch.float32
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.to(torch.bfloat16) for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert next(load(folder, dtype="bfloat16").model.parameters()).dtype == torch.bfloat16
    assert next(load(folder, dtype="float32").model.parameters()).dtype == torch.float32


def test_an_encoder_is_taken_out_of_a_masked_language_model(tmp_path: Path, saved_model: Saved) -> None:
    from transformers import BertConfig, BertForMaskedLM

    folder = saved_model("bert")
    config = BertConfig(vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    model = BertForMaskedLM(config)
    model.save_pretrained(folder)
    base = load(folder)
    assert base.kind == "encoder"
    wanted = model.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(base.model.encoder.layer[0].output.dense.weight, wanted)


def expect(code: str, folder: Path) -> MachineError:
    with pytest.raises(MachineError) as caught:
        load(folder)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.place
    return caught.value


def test_e401_a_model_that_is_not_here(tmp_path: Path) -> None:
    assert "hf download nobody/nothing" in expect("E401", Path("nobody/nothing")).fix
    expect("E401", tmp_path / "nowhere" / "at" / "all")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_e402_a_pickle_is_not_opened(name: str, saved_model: Saved) -> None:
    folder = saved_model("llama")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    expect("E402", folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_e403_code_in_the_folder_is_refused(file: str, saved_model: Saved) -> None:
    folder = saved_model("llama")
    change(folder / file, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil", "AutoTokenizer": ["a.B", None]})
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')\n")
    expect("E403", folder)


def test_e404_a_tokenizer_larger_than_the_vocabulary(saved_model: Saved) -> None:
    folder = saved_model("llama", vocab_size=60)
    assert expect("E404", folder).received == "token id 60"
    assert load(saved_model("qwen2", vocab_size=70)).kind == "causal"  # spare embedding rows are common


def test_e405_unreadable_files(saved_model: Saved) -> None:
    folder = saved_model("llama")
    good = (folder / "model.safetensors").read_bytes()
    for bad in (good[: len(good) // 2], b"", b"\xff" * 100):
        (folder / "model.safetensors").write_bytes(bad)
        expect("E405", folder)
    (folder / "model.safetensors").unlink()
    expect("E405", folder)
    (folder / "model.safetensors").write_bytes(good)
    config = (folder / "config.json").read_text()
    for text in ("{", "[]", '{"model_type": "no-such-family"}'):
        (folder / "config.json").write_text(text)
        expect("E405", folder)
    (folder / "config.json").write_text(config)
    (folder / "tokenizer.json").write_text("{")
    expect("E405", folder)


def test_e405_an_encoder_decoder(saved_model: Saved) -> None:
    folder = saved_model("llama")
    change(
        folder / "config.json", model_type="t5", is_encoder_decoder=True, architectures=["T5ForConditionalGeneration"]
    )
    expect("E405", folder)


def test_e405_a_family_whose_hidden_states_are_not_behind_one_body() -> None:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, intermediate_size_mlp=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(MachineError, match=r"E405.*Llama4ForCausalLM") as caught:
        bases.from_model(Llama4ForCausalLM(config), None, kind="causal", name="another")
    assert "model.name_or_path" in caught.value.fix


def test_e406_tensors_that_do_not_fit(saved_model: Saved) -> None:
    folder = saved_model("llama")
    path = folder / "model.safetensors"
    good = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    for change_, said in (
        ({k: v for k, v in good.items() if k != name}, "missing"),
        ({**good, "model.layers.1.mlp.extra.weight": torch.zeros(2)}, "unexpected"),
        ({**good, name: torch.zeros(3, 32)}, "of another shape"),
    ):
        save_file(change_, path, {"format": "pt"})
        assert said in expect("E406", folder).what


@pytest.mark.parametrize("inside", ["", "text_config"])
@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8", "mxfp4"])
def test_e409_quantized_weights_are_refused_before_anything_is_loaded(
    method: str, inside: str, saved_model: Saved
) -> None:
    folder = saved_model("llama")
    said = {"quantization_config": {"quant_method": method, "bits": 4}}
    change(folder / "config.json", **({inside: said} if inside else said))
    error = expect("E409", folder)
    assert error.received == method
    assert "without quantization" in error.fix


def test_a_config_that_names_no_quantization_is_fine(saved_model: Saved) -> None:
    folder = saved_model("llama")
    change(folder / "config.json", quantization_config=None)
    assert load(folder).kind == "causal"


def test_e450_a_package_that_transformers_wants_for_a_family_is_no_bug(
    saved_model: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def wants(*args: Any, **more: Any) -> None:
        raise ImportError("LlamaForCausalLM requires the `rare` library\nbut it was not found")

    folder = saved_model("llama")
    monkeypatch.setattr(LlamaForCausalLM, "__init__", wants)
    assert "requires the `rare` library" in expect("E450", folder).received


def test_the_digest_is_that_of_weights_tokenizer_and_template_not_of_the_files(saved_model: Saved) -> None:
    folder = saved_model("llama")
    first = load(folder).digest
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(dict(reversed(weights.items())), path, {"format": "pt", "note": "another header"})
    assert load(folder).digest == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert load(folder).digest != first
    (folder / "chat_template.jinja").unlink()
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, path, {"format": "pt"})
    assert load(folder).digest != first


@pytest.mark.parametrize(
    ("changes", "another"),
    [
        ({"rms_norm_eps": 0.5}, True),
        ({"rope_parameters": {"rope_theta": 99.0, "rope_type": "default"}}, True),
        ({"pad_token_id": 2}, True),
        ({"text_config": {"sliding_window": 4}}, True),
        ({"transformers_version": "9.9", "_name_or_path": "elsewhere", "torch_dtype": "float16"}, False),
        ({"use_cache": False}, False),
        ({"id2label": {"0": "a"}, "eos_token_id": [0, 3], "text_config": {"dtype": "bfloat16"}}, False),
    ],
)  # fmt: skip
def test_the_digest_of_the_config_is_that_of_what_computes(
    changes: dict[str, Any], another: bool, saved_model: Saved
) -> None:
    folder = saved_model("llama")
    base = load(folder)
    weights = base.digest
    change(folder / "config.json", text_config={})
    first = files.digest_config(folder)
    change(folder / "config.json", **changes)
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()), indent=7))
    assert (files.digest_config(folder) != first) == another
    assert files.digest_files(folder) == weights, "weights, tokenizer and template are what they were"
    assert base.config_digest not in (first, files.digest_config(folder)), "what was loaded, not what lies there now"


def test_the_context_window_minds_robertas_offset(saved_model: Saved, make_base: Callable[..., Base]) -> None:
    assert make_base("llama").context_window == 64
    assert make_base("bert").context_window == 64
    assert make_base("roberta").context_window == 62


def test_shipped_checkpoints_load(shared_data: Path) -> None:
    base = load(shared_data / "weights" / "stories260K" / "hf")
    assert base.kind == "causal"
    assert base.attention.packing


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# ───────────────────────────────────────────────────────────────────────────── what others find it by


@pytest.fixture
def cached(saved_model: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in a Hugging Face cache, as `hf download org/small` leaves it; returns its directory."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return saved_model("llama").rename(repository / "snapshots" / commit)


def resolve_in(folder: Path) -> Callable[[str], Path]:
    return lambda written: folder / written


@pytest.mark.parametrize("name", ["org/small", "hf:org/small"])
def test_an_adapter_names_a_hub_base_by_id_and_commit_and_no_place_of_this_machine(
    name: str, cached: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    section = ModelSection(name_or_path=name, dtype="float32", device="cpu")
    base = bases.load(section, resolve=resolve_in(tmp_path), choices={"threads": "1"})
    assert (base.path, base.source, base.hub) == (cached, "org/small", ("org/small", cached.name))
    build(base, "lora", {"r": 2}).save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/small", cached.name)
    for file in (tmp_path / "saved").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved").peft_type == "LORA"


def test_an_adapter_names_a_local_base_by_its_directory_so_that_peft_loads_it(
    saved_model: Saved, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    base = load(saved_model("llama"))
    assert (base.source, base.hub) == (str(tmp_path / "llama"), None)
    build(base, "lora", {"r": 2}).save(tmp_path / "saved")
    assert peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved").peft_type == "LORA"


def test_weights_that_train_in_place_are_the_same_bytes_wherever_the_project_lies(
    saved_model: Saved, tmp_path: Path
) -> None:
    saved_model("llama")
    for place in ("here", "there"):
        shutil.copytree(tmp_path / "llama", tmp_path / place / "base")
        section = ModelSection(name_or_path="base", dtype="float32", device="cpu")
        base = bases.load(section, resolve=resolve_in(tmp_path / place), choices={"threads": "1"})
        build(base, "full", {}).save(tmp_path / place / "saved")
    files = {p.name for p in (tmp_path / "here" / "saved").iterdir()}
    assert "trained.safetensors" in files
    for name in files:
        one, other = (tmp_path / place / "saved" / name for place in ("here", "there"))
        assert one.read_bytes() == other.read_bytes(), name
