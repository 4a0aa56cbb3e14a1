"""The modules that adapters put in place of a base's linear layers.

Shapes: N tokens, I inputs, O outputs, R the rank. Weights are stored output-first (O, I), as in torch.nn.Linear;
GPT-2's Conv1D stores (I, O) and is read through a transposed view.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Init = Literal["kaiming", "gaussian"]


class _LowRankSum(torch.autograd.Function):
    """y = x Wᵀ + b + s·(x Aᵀ) Bᵀ with a frozen W, in one node of the graph.

    Kept for the backward pass: x (the layer's input, which the graph holds anyway), x Aᵀ (N, R), and A and B in the
    precision of the computation. The low-rank part is accumulated into y and into the input's gradient in place, so
    that neither exists twice. No gradient of x is made where none is asked for (below the lowest trained layer).
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scaling: float
    ) -> Tensor:
        """Compute y (N, O)."""
        a, b = a_RI.to(x_NI.dtype), b_OR.to(x_NI.dtype)
        y_NO = F.linear(x_NI, weight_OI, bias_O)
        h_NR = x_NI @ a.t()
        y_NO.addmm_(h_NR, b.t(), alpha=scaling)
        ctx.save_for_backward(x_NI, weight_OI, h_NR, a, b)
        ctx.scaling = scaling
        ctx.trained_dtypes = (a_RI.dtype, b_OR.dtype)
        return y_NO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        """Return the gradients of x, A and B."""
        (grad_NO,) = grads
        x_NI, weight_OI, h_NR, a, b = ctx.saved_tensors
        grad_h_NR = (grad_NO @ b).mul_(ctx.scaling)
        grad_x_NI = None
        if ctx.needs_input_grad[0]:
            grad_x_NI = grad_NO @ weight_OI
            grad_x_NI.addmm_(grad_h_NR, a)
        grad_a = (grad_h_NR.t() @ x_NI).to(ctx.trained_dtypes[0])
        grad_b = (grad_NO.t() @ h_NR).to(ctx.trained_dtypes[1]).mul_(ctx.scaling)
        return grad_x_NI, None, None, grad_a, grad_b, None


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank sum: y = x Wᵀ + b + s·dropout(x) Aᵀ Bᵀ.

    LoRA (Hu et al. 2021, arXiv:2106.09685): A random, B zero, so that it starts as the base; s = alpha / r.
    rsLoRA (Kalajdzievski 2023, arXiv:2312.03732): s = alpha / √r.
    DoRA (Liu et al. 2024, arXiv:2402.09353): the rows of W + s·BA are rescaled to a trained length (`magnitude`); their
    own length counts as a constant in the gradient, as in section 4.3 of the paper. The squared length is expanded to
    |W|² + 2s·⟨W, BA⟩ + s²·|BA|², so that BA is never made.

    `weight` and `bias` are the base's own parameters under their own names: the base's state dict keeps its keys.
    A and B are float32 and are cast to the precision of x, in which W is stored.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, original: nn.Module, *, r: int, scaling: float, dropout: float, use_dora: bool) -> None:
        super().__init__()
        self.weight = original.weight  # type: ignore[assignment]
        self.bias = original.bias  # type: ignore[assignment]
        self.transposed = not isinstance(original, nn.Linear)
        self.out_features, self.in_features = self._weight_OI().shape
        self.r, self.scaling, self.dropout, self.enabled = r, scaling, dropout, True
        device = self.weight.device
        self.lora_A = nn.Parameter(torch.zeros(r, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, r, device=device))
        self.magnitude = nn.Parameter(self._row_lengths()) if use_dora else None
        self._original = (original,)  # in a tuple: a module attribute would be registered as a child

    def reset(self, init: Init, generator: torch.Generator) -> None:
        """Draw A (uniform as in torch.nn.Linear, or normal with deviation 1/r); B is zero, the layer the base's."""
        drawn = torch.empty(self.r, self.in_features)
        if init == "gaussian":
            drawn.normal_(0.0, 1.0 / self.r, generator=generator)
        else:
            bound = 1.0 / math.sqrt(self.in_features)
            drawn.uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.lora_A.copy_(drawn)
            self.lora_B.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return y (…, O) for x (…, I)."""
        weight_OI = self._weight_OI()
        if not self.enabled:
            return F.linear(x, weight_OI, self.bias)
        if x.dtype != weight_OI.dtype:
            x = x.to(weight_OI.dtype)
        if torch.compiler.is_compiling():
            return self._written_out(x, weight_OI)
        x_NI = x.reshape(-1, self.in_features)
        # DoRA rescales the product alone, so its bias is added afterwards.
        bias_O = self.bias if self.magnitude is None else None
        if self.training and self.dropout > 0:
            h_NR = F.linear(F.dropout(x_NI, self.dropout), self.lora_A.to(x.dtype))
            y_NO = torch.addmm(F.linear(x_NI, weight_OI, bias_O), h_NR, self.lora_B.to(x.dtype).t(), alpha=self.scaling)
        else:
            y_NO = _LowRankSum.apply(x_NI, weight_OI, bias_O, self.lora_A, self.lora_B, self.scaling)  # type: ignore[no-untyped-call]
        if self.magnitude is not None:
            y_NO = y_NO * (self.magnitude / self._row_lengths()).to(y_NO.dtype)
            y_NO = y_NO if self.bias is None else y_NO + self.bias
        return y_NO.reshape(*x.shape[:-1], self.out_features)

    def _written_out(self, x: Tensor, weight_OI: Tensor) -> Tensor:
        """The sum in plain operations, for torch.compile."""
        if self.magnitude is not None:
            raise NotImplementedError("DoRA in a compiled block")
        dropped = F.dropout(x, self.dropout) if self.training and self.dropout > 0 else x
        low = F.linear(F.linear(dropped, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype) * self.scaling)
        return F.linear(x, weight_OI, self.bias) + low

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Return the weight (O, I) in float32 that alone gives this layer's output."""
        weight_OI = self._weight_OI().float() + self.scaling * (self.lora_B.float() @ self.lora_A.float())
        if self.magnitude is not None:
            weight_OI = weight_OI * (self.magnitude / torch.linalg.vector_norm(weight_OI, dim=1)).unsqueeze(1)
        return weight_OI

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """Write the merged weight into the base's layer and return that layer."""
        merged = self.merged().to(self.weight.dtype)
        self.weight.copy_(merged.t() if self.transposed else merged)
        return self._original[0]

    def _weight_OI(self) -> Tensor:
        return self.weight.t() if self.transposed else self.weight

    @torch.no_grad()
    def _row_lengths(self) -> Tensor:
        """|W + s·BA| of each row (O,), in float32."""
        weight_OI = self._weight_OI()
        squared_O = self._squared_rows()
        w_a_OR = (weight_OI @ self.lora_A.to(weight_OI.dtype).t()).float()
        b_OR = self.lora_B.float()
        gram_RR = self.lora_A.float() @ self.lora_A.float().t()
        cross_O = (w_a_OR * b_OR).sum(1)
        own_O = ((b_OR @ gram_RR) * b_OR).sum(1)
        return (squared_O + 2 * self.scaling * cross_O + self.scaling**2 * own_O).clamp(min=0).sqrt()

    def _squared_rows(self) -> Tensor:
        """|W|² of each row (O,); W is frozen, so it is made once per stored weight."""
        known = getattr(self, "_rows", None)
        key = (self.weight.data_ptr(), self.weight.dtype, self.weight._version)
        if known is None or known[0] != key:
            known = (key, self._weight_OI().float().square().sum(1))
            self._rows = known
        squared_O: Tensor = known[1]
        return squared_O

    def extra_repr(self) -> str:
        """Show shape and rank in the model's print-out."""
        return f"in={self.in_features}, out={self.out_features}, r={self.r}, dora={self.magnitude is not None}"
