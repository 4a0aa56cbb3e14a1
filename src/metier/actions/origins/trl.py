"""TRL: the YAML that `trl sft --config` reads (SFTConfig, ModelConfig, ScriptArguments in one)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metier.actions.origins import _trainer as trainer
from metier.actions.origins._rules import (
    NO_QUANTIZED,
    Settings,
    Translation,
    apply,
    handled,
    left,
    listed,
    located,
    mapping,
    names,
    text,
    to,
    truth,
    whole,
)

summary = "the YAML of `trl sft --config`"
TOOL = "TRL"


def _dtype(found: Translation, key: str, value: Any) -> None:
    if str(value) in ("bfloat16", "float32"):
        found.values["model.dtype"] = str(value)
    elif value != "auto":
        found.left[key] = "here bfloat16 or float32, by a probe"


def _replies_only(found: Translation, key: str, value: Any) -> None:
    found.values["method.assistant_only_loss"] = bool(value)


def _loss(found: Translation, key: str, value: Any) -> None:
    if value != "nll":
        found.left[key] = f"there is no {value} here: the loss is cross-entropy"


def _truncation(found: Translation, key: str, value: Any) -> None:
    sides = {"keep_start": "right", "keep_end": "left"}
    if str(value) in sides:
        found.values["training.truncation"] = sides[str(value)]
    else:
        found.left[key] = "error, left, right or drop here: training.truncation"


RULES = {
    **trainer.RULES,
    "dtype": _dtype,
    "torch_dtype": _dtype,
    "max_length": to("training.max_length", whole),
    "max_seq_length": to("training.max_length", whole),
    "truncation_mode": _truncation,
    "packing": to("training.packing", truth),
    "assistant_only_loss": _replies_only,
    "completion_only_loss": _replies_only,
    "chat_template_path": to("model.chat_template", text),
    "use_peft": handled,
    "lora_r": to("adapter.r", whole),
    "lora_alpha": to("adapter.lora_alpha", float),
    "lora_dropout": to("adapter.lora_dropout", float),
    "lora_target_modules": to("adapter.target_modules", names),
    "use_rslora": to("adapter.use_rslora", truth),
    "use_dora": to("adapter.use_dora", truth),
    "lora_modules_to_save": left("an adapter trains nothing else here"),
    "load_in_4bit": left(NO_QUANTIZED),
    "load_in_8bit": left(NO_QUANTIZED),
    "dataset_name": handled,
    "dataset_config": left("a part of a hub data set: name its files in data.sources"),
    "dataset_train_split": handled,
    "dataset_test_split": left("name its file in data.sources with split: test"),
    "dataset_text_field": handled,
    "datasets": handled,
    "loss_type": _loss,
}
NEEDLESS = {
    *trainer.NEEDLESS,
    "attn_implementation",
    "dataset_num_proc",
    "padding_free",
    "packing_strategy",
}


def translate(settings: Settings, folder: Path) -> Translation:
    """Return the recipe that TRL's settings say.

    Raises:
        ConfigError: E280, a value that cannot be read.
    """
    found = apply(TOOL, settings, RULES, NEEDLESS, prefixes=trainer.PREFIXES)
    trainer.complete(found, settings, learning_rate=2e-5)
    found.values["method.kind"] = "sft"
    found.values.setdefault("method.assistant_only_loss", True)
    if not {"assistant_only_loss", "completion_only_loss"} & set(settings):
        found.own["method.assistant_only_loss"] = "replies are taught; off teaches whole conversations, as TRL does"
    found.assume(training__max_length=1024)
    if settings.get("use_peft"):
        found.values["adapter.kind"] = "lora"
        found.assume(adapter__r=16, adapter__lora_alpha=32, adapter__lora_dropout=0.05)
        found.assume(adapter__target_modules=["q_proj", "v_proj"])
    else:
        found.values["adapter.kind"] = "full"
        found.drop_adapter_options()
    column = settings.get("dataset_text_field")
    mixed = [mapping(entry).get("path") for entry in listed(settings.get("datasets"))]
    for name in [settings.get("dataset_name"), *mixed]:
        if not name:
            continue
        source: dict[str, Any] = {"path": located(str(name), folder)}
        if column not in (None, "text"):
            source["map"] = {"text": str(column)}
        found.add_source(source)
    found.hold_out(None, "")
    return found
