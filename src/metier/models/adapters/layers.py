"""Train the top blocks of the base and the norm behind them; the rest is frozen.

No gradient is made below the lowest trained block, so that a step costs 2P + 2(k/L)P less than full fine-tuning, and
the frozen part's output can be computed once and kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from metier.core import catalog
from metier.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from metier.models.adapters import Adapter
    from metier.models.base import Base

summary = "The top blocks of the base and its final norm train."


class Options(catalog.Options):
    """How much of the base trains."""

    num_layers: int = Field(2, ge=1, description="Blocks that train, counted from the output.")


def attach(base: Base, options: Options, *, seed: int, head: bool) -> Adapter:
    """Make the top blocks trainable. `seed` is not used: nothing is drawn; nor is `head`: no output layer trains.

    Raises:
        ConfigError: E261, the base has fewer blocks.
    """
    from metier.models.adapters import store_frozen
    from metier.models.adapters._weights import OwnWeights

    blocks, behind = find_blocks(base.model)
    if options.num_layers > len(blocks):
        raise ConfigError(
            261,
            "The base has fewer blocks than are to train",
            received=f"adapter.num_layers: {options.num_layers}",
            expected=f"at most {len(blocks)}",
            fix=f"adapter.num_layers={len(blocks)}, or adapter.kind=full",
        )
    modules: list[Any] = [*blocks[len(blocks) - options.num_layers :], *behind]
    chosen = {id(p) for module in modules for p in module.parameters()}
    parameters = {name: p for name, p in base.model.named_parameters() if id(p) in chosen}
    store_frozen(base, chosen)
    return OwnWeights(base, "layers", parameters, modules)


def find_blocks(model: Any) -> tuple[nn.ModuleList, list[nn.Module]]:
    """Return the stack of a model's blocks and the norms that follow it.

    Raises:
        ConfigError: E261, the family has no such stack.
    """
    from torch import nn

    depth = int(model.config.get_text_config().num_hidden_layers)
    for owner in model.modules():
        children = list(owner.named_children())
        for place, (_, child) in enumerate(children):
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                behind = [
                    module
                    for name, module in children[place + 1 :]
                    if ("norm" in name or "ln" in name) and any(True for _ in module.parameters())
                ]
                return child, behind
    raise ConfigError(
        261, "The base has no stack of blocks to choose from", received=type(model).__name__, fix="adapter.kind=lora"
    )
