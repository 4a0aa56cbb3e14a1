"""LoRA: a trained low-rank sum on frozen linear layers; rsLoRA and DoRA as options. PEFT's file format.

Papers: LoRA, Hu et al. 2021 (arXiv:2106.09685); rsLoRA, Kalajdzievski 2023 (arXiv:2312.03732); DoRA, Liu et al. 2024
(arXiv:2402.09353). The layer itself stands in models/layers.py.

Left out: embeddings and the output head as targets (they are tied or large; train them with `full`), trained biases,
mixtures of experts whose experts are one tensor, initialisations that change the base (PiSSA, OLoRA), several adapters
at a time. With DoRA, dropout acts on the low-rank part alone, whereas PEFT drops the base's input, too.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from metier.core import catalog
from metier.core.errors import ConfigError, MachineError
from metier.core.project import write_text

if TYPE_CHECKING:
    from torch import nn

    from metier.models.base import Base
    from metier.models.layers import LoraLinear

summary = "Low-rank sums on the frozen linear layers train (LoRA, rsLoRA, DoRA)."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."


class Options(catalog.Options):
    """Rank, scale and place of the low-rank sums; the names are PEFT's."""

    r: int = Field(16, ge=1, le=4096, description="Rank of each sum.")
    lora_alpha: float = Field(32.0, gt=0, description="The sum is scaled by alpha / r (rsLoRA: alpha / √r).")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of a layer's inputs dropped before the sum.")
    target_modules: tuple[str, ...] | str = Field(
        "all-linear",
        description="`all-linear`, a list of module names (`q_proj`), or a regular expression on the whole name.",
    )
    layers_to_transform: tuple[int, ...] | None = Field(
        None, description="Only these blocks, counted from 0; none = all of them."
    )
    use_rslora: bool = Field(False, description="Scale by alpha / √r, which suits high ranks.")
    use_dora: bool = Field(False, description="Train the length of each row of the weights as well (slower).")
    init_lora_weights: Literal["kaiming", "gaussian"] = Field(
        "kaiming", description="How A is drawn; B is zero, so that training starts from the base."
    )


def attach(base: Base, options: Options, *, seed: int, head: bool) -> Lora:
    """Put a low-rank sum on every target. `head` is not used: the output layer is never one.

    Raises:
        ConfigError: E260, a target that the base does not have.
    """
    import torch

    from metier.models.adapters import store_frozen
    from metier.models.layers import LoraLinear
    from metier.models.parts import put

    names = targets(base.model, options)
    store_frozen(base, set())
    scaling = options.lora_alpha / (math.sqrt(options.r) if options.use_rslora else options.r)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, LoraLinear] = {}
    for name in names:
        layer = LoraLinear(
            base.model.get_submodule(name),
            r=options.r,
            scaling=scaling,
            dropout=options.lora_dropout,
            use_dora=options.use_dora,
        )
        layer.reset(options.init_lora_weights, generator)
        put(base.model, name, layer)
        layers[name] = layer
    return Lora(base, options, layers)


class Lora:
    """LoRA on a base; `layers` are the replaced modules under their names in the model."""

    kind = "lora"

    def __init__(self, base: Base, options: Options, layers: dict[str, LoraLinear]) -> None:
        self.base, self.options, self.layers = base, options, layers
        self._fan_in_fan_out = any(layer.transposed for layer in layers.values())
        self._suffixes = _shortest_targets(base.model, set(layers))

    @property
    def scaling(self) -> float:
        """The factor on each low-rank sum."""
        r = self.options.r
        return self.options.lora_alpha / (math.sqrt(r) if self.options.use_rslora else r)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return A, B (and DoRA's magnitude) of every layer."""
        return {
            f"{name}.{part}": parameter
            for name, layer in self.layers.items()
            for part, parameter in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B), ("magnitude", layer.magnitude))
            if parameter is not None
        }

    def modules(self) -> Sequence[nn.Module]:
        """Return the replaced layers."""
        return list(self.layers.values())

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Leave the sums out for a while."""
        before = {name: layer.enabled for name, layer in self.layers.items()}
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for name, layer in self.layers.items():
                layer.enabled = before[name]

    def merge(self) -> None:
        """Fold every sum into its layer and put the base's own layers back."""
        from metier.models.parts import put

        for name, layer in self.layers.items():
            put(self.base.model, name, layer.fold())
        self.layers = {}

    def save(self, folder: Path, base_name: str) -> None:
        """Write a PEFT directory."""
        from metier.models.tensors import write_tensors

        write_tensors(folder / WEIGHTS, self._in_file(), {"format": "pt"})
        write_text(folder / CONFIG, json.dumps(self.config(base_name), indent=2, sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Read a PEFT directory, ours or another's, whose targets are the same."""
        from metier.models.tensors import fill, read_tensors

        check_config(folder, self.options)
        fill(self._in_file(), read_tensors(folder / WEIGHTS), folder / WEIGHTS)

    def config(self, base_name: str) -> dict[str, Any]:
        """Return PEFT's adapter_config.json."""
        causal = self.base.kind == "causal"
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM" if causal else "FEATURE_EXTRACTION",
            "base_model_name_or_path": base_name,
            "revision": self.base.hub[1] if self.base.hub is not None else None,
            "r": self.options.r,
            "lora_alpha": self.options.lora_alpha,
            "lora_dropout": self.options.lora_dropout,
            "target_modules": self._suffixes,
            "modules_to_save": None,
            "bias": "none",
            "use_rslora": self.options.use_rslora,
            "use_dora": self.options.use_dora,
            "fan_in_fan_out": self._fan_in_fan_out,
            "init_lora_weights": True if self.options.init_lora_weights == "kaiming" else "gaussian",
            "inference_mode": True,
        }

    def _in_file(self) -> dict[str, nn.Parameter]:
        """The trained parameters under PEFT's keys."""
        ends = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
        return {
            f"{PREFIX}{name.rpartition('.')[0]}.{ends[name.rpartition('.')[2]]}": parameter
            for name, parameter in self.trainable().items()
        }


# ───────────────────────────────────────────────────────────────────────────── targets


def targets(model: Any, options: Options) -> list[str]:
    """Return the names of the layers that get a sum, in the model's order.

    Raises:
        ConfigError: E260, nothing fits, or one name of the list fits nothing.
    """
    linear = _linear_layers(model)
    wanted = options.target_modules
    if isinstance(wanted, str) and wanted != "all-linear":
        try:
            found = [name for name in linear if re.fullmatch(wanted, name)]
        except re.error as error:
            raise ConfigError(
                260,
                "adapter.target_modules is not a regular expression",
                received=f"{wanted} ({error})",
                expected="a regular expression on the whole name of a module",
                fix="adapter.target_modules=all-linear, or a list of module names",
            ) from None
    elif isinstance(wanted, str):
        found = linear
    else:
        for target in wanted:
            if not any(_ends_with(name, target) for name in linear):
                raise _no_target(target, linear)
        found = [name for name in linear if any(_ends_with(name, target) for target in wanted)]
    if options.layers_to_transform is not None:
        found = [name for name in found if _block_of(name) in options.layers_to_transform]
    if not found:
        raise _no_target(str(wanted), linear)
    return found


def _linear_layers(model: Any) -> list[str]:
    """Every linear layer but the output head, and poolers, which the hidden states do not pass through."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and "pooler" not in name.split(".")
    ]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _block_of(name: str) -> int | None:
    """The first number in a dotted name: the block's place."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _shortest_targets(model: Any, chosen: set[str]) -> list[str]:
    """Last names where they mean exactly the chosen layers (what vLLM wants), whole names otherwise."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from metier.models.layers import LoraLinear

    last = {name.rpartition(".")[2] for name in chosen}
    meant = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D | LoraLinear) and any(_ends_with(name, target) for target in last)
    }
    return sorted(last if meant == chosen else chosen)


def _no_target(target: str, linear: list[str]) -> ConfigError:
    names = sorted({name.rpartition(".")[2] for name in linear})
    return ConfigError(
        260,
        "No linear layer of the base fits adapter.target_modules",
        received=target,
        expected=", ".join(names),
        fix="adapter.target_modules=all-linear",
    )


def check_config(folder: Path, options: Options) -> None:
    """Refuse an adapter directory whose scale or kind is not the options'.

    Raises:
        MachineError: E408, adapter_config.json is missing, unreadable or says something else.
    """
    from metier.models.tensors import ANOTHER_COPY

    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MachineError(
            408, "The adapter's config cannot be read", place=str(path), received=str(error), fix=ANOTHER_COPY
        ) from None
    for key in ("r", "lora_alpha", "use_rslora", "use_dora"):
        default = False if key.startswith("use_") else None
        if found.get(key, default) != getattr(options, key):
            raise MachineError(
                408,
                f"The adapter was trained with another `{key}`",
                place=str(path),
                received=str(found.get(key)),
                expected=str(getattr(options, key)),
                fix=f"adapter.{key}={json.dumps(found.get(key))}, or another directory",
            )
