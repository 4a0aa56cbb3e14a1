"""What the translations of other tools' settings share: rules per key, and what has come of applying them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metier.core.errors import ConfigError

Settings = Mapping[str, Any]
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
NO_QUANTIZED = "the base is not quantized here: metier plan says what it takes as it is"
NOT_KNOWN = "not known here, or not to this translation"
HELD_OUT = {"data.split.validation": 0.1, "data.split.test": 0.1}
"""Metier's own: a run is measured on rows that it has not seen."""


@dataclass(slots=True)
class Translation:
    """A recipe in the making.

    Attributes:
        tool: how its users write it.
        values: dotted key → value.
        sources: entries of data.sources.
        assumed: keys of `values` that the file does not say: the tool's defaults.
        own: keys of `values` that are Metier's, with the reason.
        left: what was not carried over → why.
        needless: keys without a counterpart that would change nothing about the result.
    """

    tool: str
    values: dict[str, Any] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    assumed: set[str] = field(default_factory=set)
    own: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    needless: list[str] = field(default_factory=list)

    def assume(self, **defaults: Any) -> None:
        """Set `section__key` to the tool's default where the file says nothing."""
        for name, value in defaults.items():
            dotted = name.replace("__", ".")
            if dotted not in self.values:
                self.values[dotted] = value
                self.assumed.add(dotted)

    def hold_out(self, share: Any, key: str) -> None:
        """Divide the rows: the tool's share for validation where it has one, and always rows for the test."""
        self.values.update(HELD_OUT)
        self.own["data.split.test"] = "the run and its base are compared on rows that neither has seen"
        if isinstance(share, int | float) and 0 < share < 1:
            self.values["data.split.validation"] = share
        elif share:
            self.left[key] = f"{share} rows; a share of the rows here: data.split.validation"
        if not (isinstance(share, int | float) and 0 < share < 1):
            self.own["data.split.validation"] = "the checkpoint is chosen on it"

    def add_source(self, source: Mapping[str, Any], split: str = "") -> None:
        """Add rows; where they are those of validation, none are divided off the others for it."""
        self.sources.append({**source, **({"split": split} if split else {})})
        if split == "validation":
            self.values["data.split.validation"] = 0
            self.own.pop("data.split.validation", None)

    def drop_adapter_options(self) -> None:
        """Forget what was said of an adapter that is not the one chosen."""
        for key in [key for key in self.values if key.startswith("adapter.") and key != "adapter.kind"]:
            del self.values[key]


Rule = Callable[[Translation, str, Any], None]


def to(dotted: str, read: Callable[[Any], Any] = lambda value: value) -> Rule:
    """Return the rule of a key that says the same here."""

    def rule(found: Translation, key: str, value: Any) -> None:
        try:
            found.values[dotted] = read(value)
        except (TypeError, ValueError):
            found.left[key] = f"{value!r} is not what {dotted} takes"

    return rule


def text(value: Any) -> str:
    """Return a text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def truth(value: Any) -> bool:
    """Return a switch.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def whole(value: Any) -> int:
    """Return a whole number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")
    return value


def left(why: str) -> Rule:
    """Return the rule of a key that changes the result and has no counterpart."""

    def rule(found: Translation, key: str, value: Any) -> None:
        if value not in (False, None, 0, "", "none"):
            found.left[key] = why

    return rule


def handled(found: Translation, key: str, value: Any) -> None:
    """Leave a key to the code around the rules, which reads it together with others."""


def schedule(found: Translation, key: str, value: Any) -> None:
    """Read the shape of the learning rate."""
    if str(value) in SCHEDULES:
        found.values["training.lr_scheduler_type"] = SCHEDULES[str(value)]
    else:
        found.left[key] = f"there is no schedule {value} here: cosine, linear, constant or wsd"


def precision(dtype: str) -> Rule:
    """Return the rule of a switch such as `bf16: true`."""

    def rule(found: Translation, key: str, value: Any) -> None:
        if value not in (True, "true"):
            return
        if dtype == "float16":
            found.left[key] = "float16 overflows without loss scaling; here bfloat16 or float32, by a probe"
        else:
            found.values["model.dtype"] = dtype

    return rule


def optimizer(found: Translation, key: str, value: Any) -> None:
    """Read the optimizer: every kind of AdamW is the one there is."""
    if not str(value).startswith(("adamw", "muon")):
        found.left[key] = f"there is no {value} here: adamw or muon"
    elif str(value).startswith("muon"):
        found.values["training.optimizer"] = "muon"
    elif "8bit" in str(value) or "4bit" in str(value):
        found.left[key] = "AdamW's moments are float32 here"


def warmup_steps(found: Translation, key: str, value: Any) -> None:
    """Read a warm-up; a whole number counts steps, whose total is known once the rows are."""
    if isinstance(value, float) and 0 < value < 1:
        found.values["training.warmup_ratio"] = value
    elif value:
        found.left[key] = f"{value} steps; a share of the steps here, training.warmup_ratio: metier plan counts them"


OPTIMIZATION: dict[str, Rule] = {
    "learning_rate": to("training.learning_rate", float),
    "warmup_ratio": to("training.warmup_ratio", float),
    "warmup_steps": warmup_steps,
    "weight_decay": to("training.weight_decay", float),
    "adam_beta1": to("training.adam_beta1", float),
    "adam_beta2": to("training.adam_beta2", float),
    "adam_epsilon": to("training.adam_epsilon", float),
    "max_grad_norm": to("training.max_grad_norm", float),
    "gradient_accumulation_steps": handled,
    "seed": to("training.seed", whole),
    "save_total_limit": to("training.save_total_limit", whole),
    "bf16": precision("bfloat16"),
    "fp16": precision("float16"),
    "neftune_noise_alpha": left("there is no noise on the embeddings here"),
}
"""Keys that every tool on top of Hugging Face's Trainer has under the same name."""


def apply(
    tool: str,
    settings: Settings,
    rules: Mapping[str, Rule],
    needless: Collection[str],
    *,
    prefixes: tuple[str, ...] = (),
) -> Translation:
    """Apply a tool's rules; a key that no rule knows is left behind unless it is off or empty.

    Args:
        needless: keys that have no counterpart and need none, such as where logs go; `prefixes` begin more of them.
    """
    found = Translation(tool)
    for key, value in settings.items():
        if value is None or value == "":
            continue
        if key in rules:
            rules[key](found, key, value)
        elif key in needless or key.startswith(prefixes):
            found.needless.append(key)
        elif value is not False:
            found.left[key] = NOT_KNOWN
    return found


def located(name: str, folder: Path) -> str:
    """Return a data set's name as a path where it lies beside the settings, else as a hub id."""
    path = (folder / name).expanduser()
    if path.exists():
        return str(path.resolve())
    looks_local = Path(name).suffix != "" or name.startswith((".", "/", "~"))
    return name if looks_local else f"hf:{name}"


def batch_size(settings: Settings, each: str, default: int) -> int:
    """Return the examples of an optimiser step on one device: those of a pass times the passes.

    Raises:
        ConfigError: E280, one of both is not a count.
    """
    return count(settings, each, default) * count(settings, "gradient_accumulation_steps", 1)


def count(settings: Settings, key: str, default: int) -> int:
    """Return a positive count.

    Raises:
        ConfigError: E280, it is none.
    """
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            280, f"`{key}` is not a count", place=key, received=repr(value), fix=f"correct `{key}` in the file"
        )
    return value


def names(value: Any) -> str | list[str]:
    """Return which modules an adapter sits in: `all-linear`, or their names.

    Raises:
        ValueError: neither a text nor a list.
    """
    if not isinstance(value, str | list):
        raise ValueError("neither a text nor a list of names")
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return "all-linear" if parts in (["all"], ["all-linear"]) else parts
    return [str(name) for name in value]


def listed(value: Any) -> list[Any]:
    """Return a list, or one value as a list of it; nothing of what is neither text, mapping nor list."""
    found = value if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, str | dict) and one]


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping; an empty one where the value is none."""
    return value if isinstance(value, dict) else {}


def only(method: Any, known: Mapping[str, str], *, key: str, tool: str) -> str:
    """Return the method that a tool's name stands for.

    Raises:
        ConfigError: E281, there is none here.
    """
    if isinstance(method, str) and method in known:
        return known[method]
    raise ConfigError(
        281,
        f"There is no method here for {tool}'s {key} {method}",
        place=key,
        expected=", ".join(known),
        fix="metier catalog ls methods says what there is",
    )
