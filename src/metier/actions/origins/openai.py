"""OpenAI: a fine-tuning job as its API takes and returns it, in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metier.actions.origins._rules import (
    Settings,
    Translation,
    apply,
    handled,
    mapping,
    only,
    to,
    whole,
)

summary = "a fine-tuning job's JSON"
TOOL = "OpenAI"
METHODS = {"supervised": "sft"}


def _model(found: Translation, key: str, value: Any) -> None:
    found.left[key] = f"{value} cannot be had: set model.name_or_path to a base that you have"


RULES = {
    "model": _model,
    "training_file": handled,
    "validation_file": handled,
    "hyperparameters": handled,
    "method": handled,
    "suffix": handled,
    "seed": to("training.seed", whole),
}
NEEDLESS = {
    "object", "id", "created_at", "finished_at", "fine_tuned_model", "organization_id", "result_files", "status",
    "trained_tokens", "error", "integrations", "metadata", "estimated_finish", "user_provided_suffix", "usage_metrics",
    "shared_with_openai", "eval_id",
}  # fmt: skip


def translate(settings: Settings, folder: Path) -> Translation:
    """Return the recipe that a fine-tuning job says.

    Raises:
        ConfigError: E281, its method is not supervised fine-tuning.
    """
    found = apply(TOOL, settings, RULES, NEEDLESS)
    stated = mapping(settings.get("method"))
    method = str(stated.get("type", "supervised"))
    found.values["method.kind"] = only(method, METHODS, key="method", tool=TOOL)
    hyperparameters = mapping(mapping(stated.get(method)).get("hyperparameters"))
    for key, value in (hyperparameters or mapping(settings.get("hyperparameters"))).items():
        if value in (None, "auto"):
            continue
        if key == "n_epochs":
            to("training.num_train_epochs", float)(found, key, value)
        elif key == "batch_size":
            to("training.batch_size", whole)(found, key, value)
        else:
            found.left[key] = f"{value} times a rate that OpenAI does not state: training.learning_rate, or auto"
    found.hold_out(None, "")
    for key, split in (("training_file", ""), ("validation_file", "validation")):
        name = settings.get(key)
        if not name:
            continue
        path = folder / str(name)
        if not path.exists():
            found.left[key] = f"{name} is not a file here: put the path of your rows into data.sources"
        source = {"path": str(path.resolve()) if path.exists() else str(name), "format": "openai"}
        found.add_source(source, split)
    return found
