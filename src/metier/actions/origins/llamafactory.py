"""LLaMA-Factory: the YAML that `llamafactory-cli train` reads, with its dataset_info.json."""

from __future__ import annotations

import json
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
    only,
    to,
    truth,
    whole,
)
from metier.core.errors import ConfigError

summary = "the YAML of `llamafactory-cli train`"
TOOL = "LLaMA-Factory"
METHODS = {"pt": "cpt", "sft": "sft"}
ADAPTERS = {"lora": "lora", "full": "full", "freeze": "layers"}
COLUMNS = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
    },
    "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
}
"""Per formatting: the tool's name of a column → ours, which is also what it is called where nothing is said."""


def _truth(found: Translation, key: str, value: Any) -> None:
    if value is True:
        found.values["method.assistant_only_loss"] = False


RULES = {
    **trainer.RULES,
    "stage": handled,
    "finetuning_type": handled,
    "template": left("the tokenizer's own template is used; model.chat_template names another"),
    "dataset": handled,
    "dataset_dir": handled,
    "eval_dataset": handled,
    "cutoff_len": to("training.max_length", whole),
    "max_samples": handled,
    "val_size": handled,
    "packing": to("training.packing", truth),
    "neat_packing": handled,
    "train_on_prompt": _truth,
    "mask_history": left("a weight of 0 on a message leaves its reply out: formats openai and sharegpt"),
    "lora_rank": to("adapter.r", whole),
    "lora_alpha": to("adapter.lora_alpha", float),
    "lora_dropout": to("adapter.lora_dropout", float),
    "lora_target": to("adapter.target_modules", names),
    "use_rslora": to("adapter.use_rslora", truth),
    "use_dora": to("adapter.use_dora", truth),
    "freeze_trainable_layers": handled,
    "loraplus_lr_ratio": left("one learning rate for A and B"),
    "adapter_name_or_path": left("a run starts from a base: metier models export merges an adapter into one"),
    "quantization_bit": left(NO_QUANTIZED),
    "pure_bf16": left("weights are kept in float32, products computed in bfloat16"),
    "additional_target": left("an adapter trains nothing else here"),
}
NEEDLESS = {
    *trainer.NEEDLESS, "preprocessing_num_workers", "overwrite_cache", "flash_attn", "upcast_layernorm", "rope_scaling",
    "tokenized_path", "infer_backend", "quantization_method", "use_fast_tokenizer", "enable_liger_kernel",
    "use_unsloth", "lora_task_type", "disable_gradient_checkpointing", "per_device_eval_batch_size", "cache_dir",
}  # fmt: skip


def translate(settings: Settings, folder: Path) -> Translation:
    """Return the recipe that LLaMA-Factory's settings say.

    Raises:
        ConfigError: E280, a value or its dataset_info.json cannot be read; E281, its stage or finetuning_type.
    """
    found = apply(TOOL, settings, RULES, NEEDLESS, prefixes=(*trainer.PREFIXES, "swanlab_", "ray_"))
    trainer.complete(found, settings, learning_rate=5e-5)
    found.values["method.kind"] = only(settings.get("stage", "sft"), METHODS, key="stage", tool=TOOL)
    found.values["adapter.kind"] = only(
        settings.get("finetuning_type", "lora"), ADAPTERS, key="finetuning_type", tool=TOOL
    )
    found.assume(training__max_length=2048)
    if found.values["method.kind"] == "cpt":
        found.values["objective.task"] = "continue"
        found.values.pop("method.assistant_only_loss", None)
    if found.values["adapter.kind"] == "lora":
        found.assume(adapter__r=8, adapter__lora_dropout=0, adapter__target_modules="all-linear")
        found.assume(adapter__lora_alpha=2 * found.values["adapter.r"])
    else:
        found.drop_adapter_options()
    if found.values["adapter.kind"] == "layers":
        layers = settings.get("freeze_trainable_layers", 2)
        if isinstance(layers, int) and layers > 0:
            found.values["adapter.num_layers"] = layers
        else:
            found.left["freeze_trainable_layers"] = (
                f"{layers}: blocks from the input; here they are counted from the output"
            )
    found.hold_out(settings.get("val_size"), "val_size")
    _add_sources(found, settings, folder)
    return found


def _add_sources(found: Translation, settings: Settings, folder: Path) -> None:
    place = _folder_of_data(settings, folder)
    known = _dataset_info(place)
    for key, split in (("dataset", ""), ("eval_dataset", "validation")):
        for name in _names(settings.get(key)):
            entry = known.get(name)
            if entry is None:
                found.left[f"{key}: {name}"] = "it stands in no dataset_info.json that was found: correct its path"
            source = _source(entry or {"file_name": f"{name}.json"}, place)
            if isinstance(settings.get("max_samples"), int):
                source["limit"] = settings["max_samples"]
            found.add_source(source, split)


def _names(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else listed(value)
    return [str(part).strip() for part in parts if str(part).strip()]


def _folder_of_data(settings: Settings, folder: Path) -> Path:
    """Where dataset_info.json lies: the tool looks from where it was started, the file's folder or one above."""
    name = Path(str(settings.get("dataset_dir", "data")))
    for start in (folder, *folder.parents):
        if (start / name / "dataset_info.json").is_file():
            return start / name
    return folder if (folder / "dataset_info.json").is_file() else folder / name


def _dataset_info(place: Path) -> dict[str, Any]:
    path = place / "dataset_info.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            280, "LLaMA-Factory's list of data sets cannot be read", place=str(path), received=str(error)[:120],
            fix="correct the file",
        ) from None  # fmt: skip
    return found if isinstance(found, dict) else {}


def _source(entry: dict[str, Any], place: Path) -> dict[str, Any]:
    if "file_name" in entry:
        source: dict[str, Any] = {"path": str((place / str(entry["file_name"])).resolve())}
    else:
        source = {"path": located(str(entry.get("hf_hub_url", "")), place)}
    formatting = entry.get("formatting", "alpaca")
    ours = COLUMNS.get(formatting, {})
    stated = mapping(entry.get("columns"))
    columns = {ours[theirs]: str(name) for theirs, name in stated.items() if theirs in ours}
    if formatting == "alpaca" and set(stated) == {"prompt"}:
        columns = {"text": str(stated["prompt"])}  # a text to go on with, of stage pt
    renamed = {own: name for own, name in columns.items() if own != name}
    return {**source, **({"map": renamed} if renamed else {})}
