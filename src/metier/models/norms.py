"""RMS normalisation in one node of the graph, which keeps its input and one number per position, nothing else.

Written out in single operations, as the families do, a norm keeps up to four tensors of its input's size for the
backward pass, and where the trained weights are float32 its result is cast anew for each linear layer that reads it:
q, k, v, gate, up. Here the result leaves in the precision of the computation at once (LOG.md, 2026-11-21).

Shapes: N positions (any leading shape), D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metier.models.parts import put


class Form(NamedTuple):
    """In what the families' RMS norms differ."""

    offset: float
    """0, or 1 where a family stores the weight as its distance from one (Gemma)."""
    widens: bool
    """The result takes the wider type of rows and weight (Llama); else that of the rows (Gemma, GPT-OSS)."""


class RmsNorm(nn.Module):
    """y = x / √(mean(x²) + eps) · (offset + weight), computed in float32 (Zhang and Sennrich 2019, arXiv:1910.07467).

    Args:
        weight: the replaced norm's own parameter (D,); its name in the state stays.
        eps: added to the mean of squares.
        form: of the family.
        narrow: under autocast, hand on the result in its precision: for norms that only linear layers read.
    """

    def __init__(self, weight: nn.Parameter, *, eps: float, form: Form, narrow: bool) -> None:
        super().__init__()
        self.weight = weight
        self.eps, self.narrow = eps, narrow
        self.offset, self.widens = form

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the normalised rows (N, D)."""
        dtype = torch.promote_types(x_ND.dtype, self.weight.dtype) if self.widens else x_ND.dtype
        if torch.compiler.is_compiling():  # which fuses this with what stands around it
            wide_ND = x_ND.float()
            unit_ND = wide_ND * torch.rsqrt(wide_ND.square().mean(-1, keepdim=True) + self.eps)
            return (unit_ND * (self.weight.float() + self.offset)).to(dtype)
        device = x_ND.device.type
        if self.narrow and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            y_ND: Tensor = _RmsNorm.apply(x_ND, self.weight, self.eps, self.offset, dtype)  # type: ignore[no-untyped-call]
        return y_ND

    def extra_repr(self) -> str:
        """Say what a printed model shows."""
        return f"{self.weight.shape[0]}, eps={self.eps:g}"


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float, offset: float, dtype: torch.dtype) -> Tensor:
        wide_ND = x_ND.float()
        scale_N1 = torch.linalg.vector_norm(wide_ND, dim=-1, keepdim=True).square_()
        scale_N1.div_(x_ND.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        ctx.offset = offset
        y_ND: Tensor = (wide_ND * scale_N1).mul_(weight_D.float() + offset)
        return y_ND.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_ND, weight_D, scale_N1 = ctx.saved_tensors
        unit_ND = x_ND.float() * scale_N1
        wide_ND = grad_ND.float()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide_ND * unit_ND).flatten(0, -2).sum(0).to(weight_D.dtype)
        if ctx.needs_input_grad[0]:
            through_ND = wide_ND * (weight_D.float() + ctx.offset)
            along_N1 = torch.linalg.vecdot(through_ND, unit_ND).unsqueeze(-1).div_(x_ND.shape[-1])
            grad_x = through_ND.addcmul_(unit_ND, along_N1, value=-1).mul_(scale_N1).to(x_ND.dtype)
        return grad_x, grad_weight, None, None, None


def replace(model: nn.Module) -> dict[str, nn.Module]:
    """Put `RmsNorm` in the place of every norm that computes the same; return what stood there, by name.

    A class counts as the same when a small instance of it gives the same numbers on random rows.
    """
    replaced: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        eps, kind = _eps(module), cast("Hashable", type(module))
        if eps is None or (form := _form(kind)) is None:
            continue
        inside = any(part.isdigit() for part in name.split("."))  # the last norm's readers want its full precision
        weight: Any = module.weight
        put(model, name, RmsNorm(weight, eps=eps, form=form, narrow=inside))
        replaced[name] = module
    return replaced


def _eps(module: nn.Module) -> float | None:
    """Return a norm's eps, None where the module does not look like an RMS norm."""
    if not type(module).__name__.endswith("RMSNorm") or [n for n, _ in module.named_parameters()] != ["weight"]:
        return None
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(found) if isinstance(found, float) else None


@cache
@torch.no_grad()
def _form(kind: Any) -> Form | None:
    """Return the form in which a class of norms equals ours, None where it does not."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():  # the memory estimate builds its model without data; this needs numbers
        generator = torch.Generator().manual_seed(11)
        rows_ND = torch.randn(5, 16, generator=generator)
        try:
            norm = kind(16, eps=0.1)
            norm.weight.copy_(torch.randn(16, generator=generator))
            wanted_ND = norm(rows_ND)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's own norm says that two types are slower than one
                widens = norm(rows_ND.bfloat16()).dtype == torch.float32
        except (TypeError, AttributeError, RuntimeError):
            return None
        for offset in (0.0, 1.0):
            form = Form(offset, widens)
            found_ND = RmsNorm(norm.weight, eps=0.1, form=form, narrow=False)(rows_ND)
            if torch.allclose(found_ND, wanted_ND, rtol=1e-5, atol=1e-5):
                return form
    return None
