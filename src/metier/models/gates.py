"""Gated feed-forward layers that keep two tensors of the inner width for the backward pass, instead of four.

Written out, down(act(gate) · up) keeps gate for the activation, act(gate) and up for the product, and the product for
the layer that reads it. Here gate and up are kept, and the rest is made again when the backward pass comes by: one
activation and one product, a few per cent of a layer's time (the idea: Chen et al. 2016, arXiv:1604.06174).

Shapes: N positions (any leading shape), I inner width, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from metier.models.parts import put

SEPARATE, JOINED = ("gate_proj", "up_proj", "down_proj"), ("gate_up_proj", "down_proj")
"""What the linear layers are called: Llama and its kin; Phi-3, gate and up in one."""


class GatedMlp(nn.Module):
    """y = down(act(gate(x)) · up(x)).

    Args:
        original: the replaced layer; its own parts stay, under their own names.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.joined = _parts(original) == JOINED
        for name in _parts(original) or ():
            setattr(self, name, getattr(original, name))
        self.activation = _activation(original)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return y (N, D)."""
        parts = cast("dict[str, nn.Module]", self._modules)
        if self.joined:
            gate_NI, up_NI = parts["gate_up_proj"](x_ND).chunk(2, dim=-1)
        else:
            gate_NI, up_NI = parts["gate_proj"](x_ND), parts["up_proj"](x_ND)
        if torch.compiler.is_compiling():  # which decides itself what to keep and what to make again
            return cast("Tensor", parts["down_proj"](self.activation(gate_NI) * up_NI))
        product_NI: Tensor = _Gate.apply(gate_NI, up_NI, self.activation)  # type: ignore[no-untyped-call]
        node, down = product_NI.grad_fn, parts["down_proj"]
        if node is None:
            return cast("Tensor", down(product_NI))

        def pack(saved: Tensor) -> Any:
            return (node, saved.shape) if _same_numbers(saved, product_NI) else saved.detach()

        with saved_tensors_hooks(pack, _unpack):
            return cast("Tensor", down(product_NI))


class _Gate(torch.autograd.Function):
    """act(gate) · up, which keeps gate and up."""

    @staticmethod
    def forward(ctx: Any, gate_NI: Tensor, up_NI: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(gate_NI, up_NI)
        ctx.activation, ctx.again = activation, None
        product_NI: Tensor = activation(gate_NI) * up_NI
        return product_NI

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NI: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        leaf_NI, activated_NI, up_NI = _again(ctx)
        ctx.again = None
        grad_gate = grad_up = None
        if ctx.needs_input_grad[0]:
            (grad_gate,) = torch.autograd.grad(activated_NI, leaf_NI, grad_NI * up_NI)
        if ctx.needs_input_grad[1]:
            grad_up = grad_NI * activated_NI.detach()
        return grad_gate, grad_up, None


def _again(ctx: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return gate as a leaf, act(gate) above it, and up; made once for the two nodes that ask, one after the other."""
    if ctx.again is None:
        gate_NI, up_NI = ctx.saved_tensors
        with torch.enable_grad():
            leaf_NI = gate_NI.detach().requires_grad_()
            ctx.again = leaf_NI, ctx.activation(leaf_NI), up_NI
    found: tuple[Tensor, Tensor, Tensor] = ctx.again
    return found


def _unpack(saved: Any) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    node, shape = saved
    _, activated_NI, up_NI = _again(node)
    product_NI: Tensor = activated_NI.detach() * up_NI
    return product_NI.reshape(shape)


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one and the same memory, read in the same order."""
    same = one.dtype == other.dtype and one.numel() == other.numel() and one.is_contiguous() and other.is_contiguous()
    return same and one.untyped_storage()._cdata == other.untyped_storage()._cdata


# ───────────────────────────────────────────────────────────────────────────── putting it in


def replace(model: nn.Module) -> dict[str, nn.Module]:
    """Put `GatedMlp` in the place of every layer that computes the same; return what stood there, by name.

    A class counts as the same when a small instance of it gives the same numbers on random rows.
    """
    replaced: dict[str, nn.Module] = {}
    small: dict[int, _Small] = {}
    for name, module in list(model.named_modules()):
        config = getattr(module, "config", None)
        if config is None or _parts(module) is None:
            continue
        if id(config) not in small:
            small[id(config)] = _Small(config)
        if _equal(cast("Hashable", type(module)), small[id(config)]):
            put(model, name, GatedMlp(module))
            replaced[name] = module
    return replaced


def _parts(module: nn.Module) -> tuple[str, ...] | None:
    """Return the names of a gated layer's parts, None where it does not look like one."""
    children = {name for name, child in module.named_children() if any(True for _ in child.parameters())}
    own = [name for name, _ in module.named_parameters(recurse=False)]
    found = next((names for names in (SEPARATE, JOINED) if set(names) == children), None)
    return found if not own and _activation(module) is not None else None


def _activation(module: nn.Module) -> Any:
    return getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)


class _Small:
    """A family's config with small widths; equal where the kinds of activation and the like are."""

    def __init__(self, config: Any) -> None:
        self.config = copy.deepcopy(config)
        self.config.hidden_size, self.config.intermediate_size = 16, 24
        self._key = self.config.to_json_string()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Small) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@cache
@torch.no_grad()
def _equal(kind: Any, small: _Small) -> bool:
    """Whether a class of layers, made small, gives our numbers."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():  # the memory estimate builds its model without data; this needs numbers
        generator = torch.Generator().manual_seed(11)
        rows_ND = torch.randn(5, 16, generator=generator)
        try:
            layer = kind(small.config)
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            return torch.allclose(GatedMlp(layer)(rows_ND), layer(rows_ND), rtol=1e-5, atol=1e-5)
        except (TypeError, AttributeError, RuntimeError):
            return False
