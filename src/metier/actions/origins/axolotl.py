"""Axolotl: the YAML that `axolotl train` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metier.actions.origins._rules import (
    NO_QUANTIZED,
    OPTIMIZATION,
    Settings,
    Translation,
    apply,
    batch_size,
    handled,
    left,
    listed,
    located,
    names,
    only,
    optimizer,
    schedule,
    text,
    to,
    truth,
    whole,
)

summary = "the YAML of `axolotl train`"
TOOL = "Axolotl"
ADAPTERS = {"lora": "lora", "qlora": "lora", "": "full"}
FORMATS = {
    "alpaca": "alpaca", "sharegpt": "sharegpt", "chat_template": "openai", "completion": "text", "pretrain": "text",
}  # fmt: skip
"""The first word of a data set's type → the format here; anything else is detected from the rows."""
FIELDS = {
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_system": "system",
}


def _replies_only(found: Translation, key: str, value: Any) -> None:
    found.values["method.assistant_only_loss"] = not value


def _template(found: Translation, key: str, value: Any) -> None:
    if value == "chatml":
        found.values["model.chat_template"] = "chatml"
    elif value != "tokenizer_default":
        found.left[key] = "the tokenizer's own template is used; model.chat_template names another"


def _linear(found: Translation, key: str, value: Any) -> None:
    if value:
        found.values["adapter.target_modules"] = "all-linear"


def _modules(found: Translation, key: str, value: Any) -> None:
    if "adapter.target_modules" not in found.values:
        to("adapter.target_modules", names)(found, key, value)


RULES = {
    **OPTIMIZATION,
    "base_model": to("model.name_or_path", text),
    "revision_of_model": to("model.revision", text),
    "chat_template": _template,
    "adapter": handled,
    "lora_r": to("adapter.r", whole),
    "lora_alpha": to("adapter.lora_alpha", float),
    "lora_dropout": to("adapter.lora_dropout", float),
    "lora_target_linear": _linear,
    "lora_target_modules": _modules,
    "peft_use_rslora": to("adapter.use_rslora", truth),
    "peft_use_dora": to("adapter.use_dora", truth),
    "lora_modules_to_save": left("an adapter trains nothing else here"),
    "lora_model_dir": left("a run starts from a base: metier models export merges an adapter into one"),
    "load_in_4bit": left(NO_QUANTIZED),
    "load_in_8bit": left(NO_QUANTIZED),
    "datasets": handled,
    "test_datasets": handled,
    "pretraining_dataset": handled,
    "val_set_size": handled,
    "train_on_inputs": _replies_only,
    "sequence_len": to("training.max_length", whole),
    "sample_packing": to("training.packing", truth),
    "num_epochs": to("training.num_train_epochs", float),
    "max_steps": to("training.max_steps", whole),
    "micro_batch_size": handled,
    "lr_scheduler": schedule,
    "optimizer": optimizer,
    "torch_compile": to("training.torch_compile", lambda value: value if value == "auto" else truth(value)),
    "early_stopping_patience": to("training.early_stopping_patience", whole),
    "eval_steps": handled,
    "save_steps": handled,
    "rl": handled,
    "special_tokens": left("the tokenizer's own special tokens are used"),
    "tokens": left("no token is added to the tokenizer"),
}
NEEDLESS = {
    "output_dir", "dataset_prepared_path", "model_type", "tokenizer_type", "tokenizer_config", "base_model_config",
    "strict", "tf32", "gradient_checkpointing", "gradient_checkpointing_kwargs", "pad_to_sequence_len",
    "eval_sample_packing", "flash_attention", "xformers_attention", "sdp_attention", "s2_attention", "deepspeed",
    "local_rank", "group_by_length", "evals_per_epoch", "saves_per_epoch", "save_strategy", "eval_batch_size",
    "eval_table_size", "eval_max_new_tokens", "debug", "resume_from_checkpoint", "auto_resume_from_checkpoints",
    "lora_fan_in_fan_out", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "loss_watchdog_threshold",
    "loss_watchdog_patience", "hub_model_id", "hub_strategy", "push_dataset_to_hub", "plugins",
    "is_llama_derived_model", "is_mistral_derived_model", "trust_remote_code", "save_safetensors", "dataset_processes",
    "shuffle_merged_datasets", "include_tokens_per_second", "use_tensorboard", "attn_implementation",
}  # fmt: skip
PREFIXES = (
    "wandb_",
    "mlflow_",
    "comet_",
    "logging_",
    "dataloader_",
    "ddp_",
    "fsdp",
    "liger_",
    "unsloth_",
    "dataset_keep",
)


def translate(settings: Settings, folder: Path) -> Translation:
    """Return the recipe that Axolotl's settings say.

    Raises:
        ConfigError: E280, a value that cannot be read; E281, preference or reinforcement learning, or its adapter.
    """
    found = apply(TOOL, settings, RULES, NEEDLESS, prefixes=PREFIXES)
    only(settings.get("rl") or "", {"": ""}, key="rl", tool=TOOL)
    found.values["adapter.kind"] = only(settings.get("adapter") or "", ADAPTERS, key="adapter", tool=TOOL)
    if settings.get("adapter") == "qlora" and "load_in_4bit" not in found.left:
        found.left["adapter: qlora"] = NO_QUANTIZED
    if found.values["adapter.kind"] == "full":
        found.drop_adapter_options()
    found.values["training.batch_size"] = batch_size(settings, "micro_batch_size", 1)
    found.assume(
        training__num_train_epochs=1,
        training__lr_scheduler_type="cosine",
        training__warmup_ratio=0,
        training__weight_decay=0,
        training__max_length=512,
        training__seed=42,
    )
    for key, dotted in (("eval_steps", "evaluation.every_steps"), ("save_steps", "training.save_steps")):
        value = settings.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            found.values[dotted] = value
        elif value:
            found.left[key] = f"{value}, a share; a count of steps here: {dotted}"
    found.hold_out(settings.get("val_set_size"), "val_set_size")
    texts = False
    for key, split in (("datasets", ""), ("pretraining_dataset", ""), ("test_datasets", "validation")):
        for one in listed(settings.get(key)):
            entry = one if isinstance(one, dict) else {"path": one}
            source, is_text = _source(found, entry, folder, pretraining=key == "pretraining_dataset")
            texts = texts or is_text
            found.add_source(source, split)
    found.values["method.kind"] = "cpt" if texts else "sft"
    if texts:
        found.values["objective.task"] = "continue"
        found.values.pop("method.assistant_only_loss", None)
    return found


def _source(
    found: Translation, entry: dict[str, Any], folder: Path, *, pretraining: bool
) -> tuple[dict[str, Any], bool]:
    """Return a source, and whether its rows are texts to go on with."""
    files = listed(entry.get("data_files")) or [entry.get("path", "")]
    source: dict[str, Any] = {"path": located(str(files[0]), folder)}
    for more in files[1:]:
        found.add_source({"path": located(str(more), folder)})
    kind = entry.get("type", "pretrain" if pretraining else "")
    columns: dict[str, str] = {}
    fields: dict[str, Any] = {**entry, **kind} if isinstance(kind, dict) else entry
    if isinstance(kind, str):
        format_name = FORMATS.get(kind.partition(".")[0].partition(":")[0], "")
        if kind and not format_name:
            found.left[f"type: {kind}"] = "the format is detected from the rows: metier data preview"
    else:
        format_name = "alpaca"
        if any(kind.get(key) for key in ("format", "no_input_format", "system_prompt")):
            found.left["datasets[].type.format"] = "the prompt is written as data.prompt: {user: …}"
    if format_name:
        source["format"] = format_name
    if format_name == "alpaca":
        columns = {own: str(fields[theirs]) for theirs, own in FIELDS.items() if fields.get(theirs)}
    elif format_name == "text" and entry.get("field"):
        columns = {"text": str(entry["field"])}
    elif format_name == "openai" and entry.get("field_messages"):
        columns = {"messages": str(entry["field_messages"])}
    renamed = {own: name for own, name in columns.items() if own != name}
    if entry.get("split") not in (None, "train"):
        found.left[f"split: {entry['split']}"] = "name its file in data.sources"
    return {**source, **({"map": renamed} if renamed else {})}, format_name == "text"
