"""Under autocast, an activation that several linear layers read is cast once, not once for each of them.

Autocast remembers its casts of trained weights, but not those of activations: q, k and v each cast the same rows,
each keeps a copy of its own for the backward pass, and there each casts its gradient back. A hook before every linear
layer hands them one cast. Its gradient is summed in the precision of the computation, as in a model whose weights are
stored in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SharedCasts:
    """The last cast of a float32 activation, for the layers that read the same one next."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._version = 0
        self._cast: Tensor | None = None

    def install(self, model: nn.Module) -> None:
        """Hook every linear layer of a model."""
        for module in model.modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                module.register_forward_pre_hook(self._before)

    def forget(self) -> None:
        """Let go of the last cast: it holds on to its graph."""
        self._source = self._cast = None

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if torch.compiler.is_compiling():  # which makes equal casts once
            return None
        x, *rest = inputs
        device = x.device.type
        if x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
            return None
        version = int(x._version)
        if self._source is not x or self._version != version or self._cast is None:
            self._source, self._version, self._cast = x, version, x.to(torch.get_autocast_dtype(device))
        return (self._cast, *rest)
