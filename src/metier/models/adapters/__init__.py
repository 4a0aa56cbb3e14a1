"""Adapters: which weights train on a frozen base, one file per kind.

Each file has `summary`, `Options` and `attach(base, options, *, seed, head) -> Adapter`. Attaching freezes the base,
stores its frozen weights in the precision of the computation, so that no step casts them again, and keeps trained
weights in float32. `head` says that a task head reads the hidden states, so that no gradient reaches the output layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from metier.models.base import Base


class Adapter(Protocol):
    """What a base with an adapter can do."""

    kind: str
    """The name of the file in this folder."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, in a stable order; float32."""
        ...

    def modules(self) -> Sequence[nn.Module]:
        """Return the modules that go into training mode (dropout); frozen ones never do."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """Within this context the model is the untouched base."""
        ...

    def merge(self) -> None:
        """Fold the adapter into the base's weights; the model is then a plain one, and nothing is left to train."""
        ...

    def save(self, folder: Path, base_name: str) -> None:
        """Write the trained weights; `base_name` is what `from_pretrained` of others should look for."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            MachineError: E408, the file does not fit this model.
        """
        ...


def store_frozen(base: Base, trained: set[int]) -> None:
    """Freeze every parameter but the trained ones (by `id`), and store each in its precision.

    Frozen weights take the precision of the computation, unless the family insists on float32 for them; trained ones
    take float32. Buffers, such as rotary frequencies, stay as they are.
    """
    import torch

    insist = _kept_in_float32(base.model)
    for name, parameter in base.model.named_parameters():
        trains = id(parameter) in trained
        parameter.requires_grad_(trains)
        wide = trains or (insist is not None and insist.search(name) is not None)
        wanted = torch.float32 if wide else base.dtype
        if parameter.dtype != wanted and parameter.is_floating_point():
            parameter.data = parameter.data.to(wanted)


def _kept_in_float32(model: object) -> re.Pattern[str] | None:
    """Return a pattern of the names that stay in float32, read as transformers reads it: found anywhere, `*` is any
    text. Its other list, `_keep_in_fp32_modules`, is of what float16 cannot hold: bfloat16 can."""
    strict = sorted(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    return re.compile("|".join(name.replace("*", ".*") for name in strict)) if strict else None


__all__ = ["Adapter", "store_frozen"]
