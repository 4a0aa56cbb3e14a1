"""What TRL and LLaMA-Factory have from Hugging Face's TrainingArguments."""

from __future__ import annotations

from typing import Any

from metier.actions.origins._rules import (
    OPTIMIZATION,
    Rule,
    Settings,
    Translation,
    batch_size,
    handled,
    left,
    optimizer,
    schedule,
    text,
    to,
    truth,
)


def _revision(found: Translation, key: str, value: Any) -> None:
    if value != "main":
        found.values["model.revision"] = str(value)


def _max_steps(found: Translation, key: str, value: Any) -> None:
    if isinstance(value, int) and value > 0:
        found.values["training.max_steps"] = value
        found.values["training.num_train_epochs"] = 10_000  # the steps alone end it there, however few the rows are
        found.own["training.num_train_epochs"] = "max_steps ends the run"


def _steps(dotted: str) -> Rule:
    def rule(found: Translation, key: str, value: Any) -> None:
        if isinstance(value, int) and value >= 1:
            found.values[dotted] = value
        else:
            found.left[key] = f"a share of the steps or epochs; a count of steps here: {dotted}"

    return rule


RULES: dict[str, Rule] = {
    **OPTIMIZATION,
    "model_name_or_path": to("model.name_or_path", text),
    "model_revision": _revision,
    "num_train_epochs": to("training.num_train_epochs", float),
    "lr_scheduler_type": schedule,
    "optim": optimizer,
    "max_steps": _max_steps,
    "save_steps": _steps("training.save_steps"),
    "eval_steps": _steps("evaluation.every_steps"),
    "torch_compile": to("training.torch_compile", truth),
    "per_device_train_batch_size": handled,
    "label_smoothing_factor": left("there is no label smoothing here"),
}
NEEDLESS = {
    "output_dir", "overwrite_output_dir", "run_name", "report_to", "do_train", "do_eval", "eval_strategy",
    "save_strategy", "logging_strategy", "plot_loss", "tf32", "full_determinism", "remove_unused_columns",
    "resume_from_checkpoint", "gradient_checkpointing", "gradient_checkpointing_kwargs", "per_device_eval_batch_size",
    "deepspeed", "auto_find_batch_size", "disable_tqdm", "use_cpu", "no_cuda", "local_rank", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "log_level", "group_by_length", "save_safetensors", "save_only_model",
    "trust_remote_code", "include_num_input_tokens_seen", "eval_on_start", "use_liger_kernel",
}  # fmt: skip
PREFIXES = ("logging_", "dataloader_", "ddp_", "fsdp", "hub_", "push_to_hub", "wandb_", "torch_empty_cache")


def complete(found: Translation, settings: Settings, *, learning_rate: float) -> None:
    """Add the step's size, and the defaults that the trainer has and the file does not say."""
    found.values["training.batch_size"] = batch_size(settings, "per_device_train_batch_size", 8)
    if "per_device_train_batch_size" not in settings:
        found.assumed.add("training.batch_size")
    found.assume(
        training__num_train_epochs=3,
        training__learning_rate=learning_rate,
        training__lr_scheduler_type="linear",
        training__warmup_ratio=0,
        training__weight_decay=0,
        training__seed=42,
    )
