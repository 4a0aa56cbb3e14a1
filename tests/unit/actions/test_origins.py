"""`metier init --from`: another tool's settings, its defaults included, become a recipe that trains as they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from metier.actions.origin import ORIGINS, Carried, carry_over
from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.recipe import Recipe


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project", "p")


def carried(project: Project, tool: str, settings: Any, **options: Any) -> tuple[Recipe, Carried, str]:
    file = project.root.parent / "theirs.yaml"
    file.write_text(settings if isinstance(settings, str) else json.dumps(settings), encoding="utf-8")
    made = carry_over(project.root, tool, file, **options)
    return Recipe.read(made.path), made, made.path.read_text(encoding="utf-8")


LLAMAFACTORY = """\
model_name_or_path: some/base
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 12
lora_target: q_proj,v_proj
dataset: desk,elsewhere
dataset_dir: rows
template: llama3
cutoff_len: 900
max_samples: 50
val_size: 0.2
per_device_train_batch_size: 2
gradient_accumulation_steps: 6
learning_rate: 1.0e-4
num_train_epochs: 2.5
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
output_dir: saves/x
logging_steps: 10
plot_loss: true
quantization_bit:
"""


def test_llamafactory_s_settings_and_its_list_of_data_sets(project: Project) -> None:
    rows = project.root.parent / "rows"
    rows.mkdir()
    (rows / "desk.json").write_text('[{"question": "a", "reply": "b"}]')
    (rows / "dataset_info.json").write_text(
        json.dumps(
            {
                "desk": {"file_name": "desk.json", "columns": {"prompt": "question", "response": "reply"}},
                "elsewhere": {"hf_hub_url": "org/rows", "formatting": "sharegpt", "columns": {"messages": "turns"}},
            }
        )
    )
    recipe, made, text = carried(project, "llamafactory", LLAMAFACTORY)
    assert recipe.model.name_or_path == "some/base" and recipe.model.dtype == "bfloat16"
    assert recipe.adapter.kind == "lora"
    assert recipe.adapter.options == {
        "r": 12, "lora_alpha": 24, "lora_dropout": 0, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    training = recipe.training
    assert (training.batch_size, training.max_length, training.num_train_epochs) == (12, 900, 2.5)
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_ratio) == (1e-4, "cosine", 0.1)
    assert recipe.data.split.validation == 0.2 and recipe.data.split.test > 0
    desk, elsewhere = recipe.data.sources
    assert desk.path == str(rows / "desk.json") and desk.limit == 50
    assert desk.map == {"instruction": "question", "output": "reply"}
    assert (elsewhere.path, elsewhere.map) == ("hf:org/rows", {"conversations": "turns"})
    assert set(made.left) == {"template"} and "#   template: " in text
    assert list(yaml.safe_load(text)) == ["version", "name", "data", "model", "adapter", "method", "training"]
    assert next(iter(yaml.safe_load(text)["adapter"])) == "kind"
    assert {"output_dir", "logging_steps", "plot_loss", "trust_remote_code"} <= set(made.needless)
    assert "weight_decay: 0  # LLaMA-Factory's default" in text and "seed: 42  # LLaMA-Factory's default" in text


def test_a_stage_without_a_method_here_is_refused(project: Project) -> None:
    with pytest.raises(ConfigError) as error:
        carried(project, "llamafactory", {"stage": "dpo", "model_name_or_path": "x"})
    assert error.value.number == 281 and "stage dpo" in error.value.what
    assert not list((project.root / "recipes").glob("*"))


def test_llamafactory_s_frozen_layers_and_pre_training(project: Project) -> None:
    settings = {"stage": "pt", "finetuning_type": "freeze", "freeze_trainable_layers": 3, "lora_rank": 4}
    recipe, *_ = carried(project, "llamafactory", settings)
    assert (recipe.method.kind, recipe.objective.task) == ("cpt", "continue")
    assert recipe.adapter.kind == "layers" and recipe.adapter.options == {"num_layers": 3}


AXOLOTL = """\
base_model: some/base
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
chat_template: chatml
datasets:
  - path: mine.jsonl
    type:
      field_instruction: ask
      field_output: say
      format: "{instruction}"
  - path: org/chats
    type: chat_template
    field_messages: turns
val_set_size: 0.05
sequence_len: 2048
sample_packing: true
num_epochs: 4
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 0.0002
lr_scheduler: cosine
warmup_steps: 10
optimizer: adamw_bnb_8bit
train_on_inputs: true
bf16: auto
tf32: false
wandb_project:
flash_attention: true
special_tokens: {pad_token: "<pad>"}
relora_steps: 100
"""


def test_axolotl_s_settings(project: Project) -> None:
    (project.root.parent / "mine.jsonl").write_text('{"ask": "a", "say": "b"}\n')
    recipe, made, text = carried(project, "axolotl", AXOLOTL)
    assert recipe.adapter.kind == "lora"
    assert recipe.adapter.options == {
        "r": 32, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear",
    }  # fmt: skip
    assert recipe.method.options == {"assistant_only_loss": False}
    assert (recipe.training.batch_size, recipe.training.max_length) == (8, 2048)
    assert recipe.model.chat_template == "chatml" and recipe.model.dtype == "auto"
    mine, chats = recipe.data.sources
    assert mine.map == {"instruction": "ask", "output": "say"} and mine.format == "alpaca"
    assert (chats.path, chats.format, chats.map) == ("hf:org/chats", "openai", {"messages": "turns"})
    assert set(made.left) == {
        "load_in_4bit", "warmup_steps", "optimizer", "special_tokens", "relora_steps", "datasets[].type.format",
    }  # fmt: skip
    assert "weight_decay: 0  # Axolotl's default" in text


def test_axolotl_s_texts_are_gone_on_with(project: Project) -> None:
    settings = {"base_model": "b", "learning_rate": 1e-4, "datasets": [{"path": "a.txt", "type": "completion"}]}
    recipe, *_ = carried(project, "axolotl", settings)
    assert (recipe.method.kind, recipe.objective.task, recipe.adapter.kind) == ("cpt", "continue", "full")
    assert recipe.data.sources[0].format == "text"


def test_axolotl_s_test_data_sets_are_the_validation(project: Project) -> None:
    settings = {
        "base_model": "b", "learning_rate": 1e-4, "datasets": [{"path": "a.jsonl"}], "test_datasets": ["b.jsonl"],
    }  # fmt: skip
    recipe, *_ = carried(project, "axolotl", settings)
    assert [source.split for source in recipe.data.sources] == ["auto", "validation"]
    assert recipe.data.split.validation == 0 and recipe.data.split.test > 0


def test_trl_s_defaults_are_carried_over_with_what_it_says(project: Project) -> None:
    recipe, made, text = carried(
        project, "trl", {"model_name_or_path": "b", "dataset_name": "org/rows", "use_peft": True, "warmup_steps": 0.1}
    )
    training = recipe.training
    assert (training.learning_rate, training.num_train_epochs, training.batch_size) == (2e-5, 3, 8)
    assert (training.lr_scheduler_type, training.warmup_ratio, training.weight_decay) == ("linear", 0.1, 0)
    assert (training.max_length, training.seed) == (1024, 42)
    assert recipe.adapter.options == {
        "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert recipe.data.sources[0].path == "hf:org/rows"
    assert "batch_size: 8  # TRL's default" in text and not made.left


def test_trl_without_peft_trains_everything_and_steps_end_it(project: Project) -> None:
    settings = {
        "model_name_or_path": "b", "datasets": [{"path": "org/a"}, {"path": "org/b"}], "lora_r": 4, "max_steps": 70,
        "assistant_only_loss": False, "truncation_mode": "keep_end", "optim": "adafactor", "eval_steps": 0.1,
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "dataset_text_field": "body",
    }  # fmt: skip
    recipe, made, _ = carried(project, "trl", settings)
    assert recipe.adapter.kind == "full" and recipe.adapter.options == {}
    assert (recipe.training.max_steps, recipe.training.batch_size, recipe.training.truncation) == (70, 6, "left")
    assert recipe.method.options == {"assistant_only_loss": False}
    assert [(s.path, s.map) for s in recipe.data.sources] == [
        ("hf:org/a", {"text": "body"}),
        ("hf:org/b", {"text": "body"}),
    ]
    assert set(made.left) == {"optim", "eval_steps"}


def test_a_fine_tuning_job_of_openai(project: Project) -> None:
    (project.root.parent / "train.jsonl").write_text('{"messages": []}\n')
    job = {
        "object": "fine_tuning.job", "model": "some-model", "training_file": "train.jsonl",
        "validation_file": "file-abc", "seed": 7, "suffix": "desk", "status": "succeeded",
        "method": {"type": "supervised", "supervised": {
            "hyperparameters": {"n_epochs": 4, "batch_size": "auto", "learning_rate_multiplier": 1.8}}},
    }  # fmt: skip
    recipe, made, _ = carried(project, "openai", job, name="desk")
    assert recipe.name == "desk" and recipe.model.name_or_path == "metier/nano"
    assert (recipe.training.num_train_epochs, recipe.training.seed) == (4, 7)
    assert [source.split for source in recipe.data.sources] == ["auto", "validation"]
    assert set(made.left) == {"model", "validation_file", "learning_rate_multiplier"}
    other, again, _ = carried(project, "openai", job, name="other", model="my/base")
    assert other.model.name_or_path == "my/base" and "model" not in again.left


def test_a_job_that_learns_preferences_is_refused(project: Project) -> None:
    with pytest.raises(ConfigError) as error:
        carried(project, "openai", {"method": {"type": "dpo"}, "training_file": "x.jsonl"})
    assert error.value.number == 281


def test_a_base_and_rows_that_lie_beside_the_settings_are_found(project: Project) -> None:
    (project.root / "rows.jsonl").write_text("{}\n")
    (project.root / "base").mkdir()
    file = project.root / "theirs.yaml"
    file.write_text(
        yaml.safe_dump({"base_model": "./base", "learning_rate": 1e-3, "datasets": [{"path": "rows.jsonl"}]})
    )
    recipe = Recipe.read(carry_over(project.root, "axolotl", file).path)
    assert recipe.model.name_or_path == str(project.root / "base")
    assert recipe.data.sources[0].path == "rows.jsonl", "as the project reads it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "cannot be read"),
        ('{"messages": []}\n{"messages": []}\n', "cannot be read"),
        ("- a\n- b\n", "not a mapping"),
        ("", "not a mapping"),
        ("learning_rate: -1\nbase_model: b\n", "no recipe can"),
        ("lora_dropout: 3\nadapter: lora\nbase_model: b\n", "no recipe can"),
        ("micro_batch_size: two\nbase_model: b\n", "not a count"),
    ],
)
def test_settings_that_cannot_be_used_are_said_with_their_file_and_nothing_is_written(
    project: Project, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        carried(project, "axolotl", text)
    assert error.value.number == 280 and error.value.place and error.value.fix
    assert not list((project.root / "recipes").glob("*"))


def test_an_unknown_tool_a_missing_file_and_a_recipe_that_is_there(project: Project) -> None:
    with pytest.raises(ConfigError, match="unsloth") as error:
        carry_over(project.root, "unsloth", project.root / "x.yaml")
    assert error.value.number == 210 and "axolotl" in error.value.expected
    with pytest.raises(ConfigError) as missing:
        carry_over(project.root, "trl", project.root / "x.yaml")
    assert missing.value.number == 280
    carried(project, "trl", {"model_name_or_path": "b"})
    with pytest.raises(ConfigError) as there:
        carried(project, "trl", {"model_name_or_path": "b"})
    assert there.value.number == 264


@pytest.mark.parametrize("tool", ORIGINS.names())
def test_whatever_a_file_holds_is_carried_over_left_with_a_reason_or_refused(project: Project, tool: str) -> None:
    odd: tuple[Any, ...] = (None, "", "x: y\n# z", [], [1], {}, {"a": {"b": 1}}, -3, 0.5, True, 10**12)
    rules = ORIGINS.get(tool).RULES
    for value in odd:
        for key in (*rules, "unheard_of"):
            try:
                recipe, made, _ = carried(project, tool, {key: value}, name="odd")
            except ConfigError as error:
                assert error.number in (280, 281), (tool, key, value)
                continue
            assert recipe.name == "odd"
            if key == "unheard_of" and value not in (None, ""):
                assert made.left[key], "nothing unknown is dropped without a word"
            made.path.unlink()


def test_the_demonstration_s_list_of_data_sets_is_read(project: Project, shared_data: Path) -> None:
    settings = {
        "stage": "sft",
        "dataset": "identity,glaive_toolcall_en_demo",
        "dataset_dir": str(shared_data / "llamafactory_demo"),
    }
    recipe, made, _ = carried(project, "llamafactory", settings)
    assert [Path(s.path).name for s in recipe.data.sources] == ["identity.json", "glaive_toolcall_en_demo.json"]
    assert all(Path(s.path).is_file() for s in recipe.data.sources) and not made.left
