"""A device that has no float64, as Apple's and some of Intel's: stood in for by tensors that refuse it.

The numbers are real and lie on the CPU; float64 and numpy() are refused as PyTorch refuses them there. It is enough
for forward passes; no gradient flows through. Import as `from no_float64 import …` (pytest puts tests/ on the path).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_map_only

DEVICE = torch.device("mps")
HOMEWARD = (torch.Tensor.cpu, torch.Tensor.tolist)


class Away(torch.Tensor):
    """A tensor on the device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE
        if func is torch.Tensor.numpy:
            raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first")
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = tree_map_only(Away, lambda tensor: tensor.as_subclass(torch.Tensor), (args, kwargs or {}))
            out = func(*args, **kwargs)
        return out if func in HOMEWARD else tree_map_only(torch.Tensor, away, out)


def away(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as one on the device."""
    if tensor.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    return tensor.as_subclass(Away)


class _Moving(TorchFunctionMode):
    """Moves to the device, and tensors made on it: a build for a CPU refuses its name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        if not tree_any(lambda leaf: isinstance(leaf, torch.device) and leaf.type == DEVICE.type, given):
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), given)
        return tree_map_only(torch.Tensor, away, func(*args, **kwargs))


@contextlib.contextmanager
def moved_to_it(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules on the device for a while; tensors may be made there and moved there."""
    whole = [part for module in modules if module is not None for part in module.modules()]
    before = [(part, dict(part._parameters), dict(part._buffers)) for part in whole]
    for part in whole:
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(away(parameter.detach()), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else away(buffer)
    try:
        with _Moving():
            yield
    finally:
        for part, parameters, buffers in before:
            part._parameters.update(parameters)
            part._buffers.update(buffers)
