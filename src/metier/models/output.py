"""The output layer: from final hidden states to logits, written so that a loss can compute it in chunks.

    logits = softcap · tanh(x / softcap),  x = scale · (W h + b)

Families differ in scale (Granite, Cohere, Falcon-H1, MiniCPM) and soft-capping (Gemma 2). Instead of a list of
families, candidates are read from the config's numbers that speak of logits, and the right one is the one that
reproduces the model's own logits on a few tokens; where none does, the model's own head computes every token.

Shapes: N rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metier.core.errors import MachineError
from metier.models.attention import last_hidden
from metier.models.support import probe_tokens, same

if TYPE_CHECKING:
    from metier.models.base import Base

CHUNK_VALUES = 1 << 23
"""Logits held at once: 8 Mi values, 32 MB in float32."""


@dataclass(frozen=True)
class OutputLayer:
    """The layer's parts: `weight` (V, D) and `bias` (V,) are the model's own parameters, in their stored precision."""

    weight: Tensor
    bias: Tensor | None
    scale: float = 1.0
    softcap: float | None = None
    trainable: bool = False
    _module: Any = None

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits (N, V) in float32; the matrix product runs in the precision of the hidden states."""
        weight_VD = self.weight.to(hidden_ND.dtype)
        bias_V = None if self.bias is None else self.bias.to(hidden_ND.dtype)
        logits_NV = F.linear(hidden_ND, weight_VD, bias_V).float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = self.softcap * torch.tanh(logits_NV / self.softcap)
        return logits_NV

    def rows_at_once(self) -> int:
        """How many rows a caller should put through together."""
        return max(16, CHUNK_VALUES // self.weight.shape[0])

    def current(self) -> OutputLayer:
        """Return the layer as it stands now: whether it trains may have changed since it was made."""
        weight, bias = self._module.weight, self._module.bias
        trainable = bool(weight.requires_grad)
        if weight is self.weight and bias is self.bias and trainable == self.trainable:
            return self
        return replace(self, weight=weight, bias=bias, trainable=trainable)


@torch.no_grad()
def express(base: Base) -> OutputLayer | None:
    """Find the output layer of a causal base and prove it on seven tokens; None where it cannot be written this way.

    Raises:
        MachineError: E407, the base has no output head.
    """
    model = base.model
    module = model.get_output_embeddings() if base.kind == "causal" else None
    if module is None or getattr(module, "weight", None) is None:
        raise MachineError(
            407,
            "The base has no output layer for tokens",
            received=type(model).__name__,
            expected="a causal language model",
            fix="method.kind=classify, or another model.name_or_path",
        )
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        tokens_1T = probe_tokens(model)
        hidden = last_hidden(model, tokens_1T)
        wanted = model(input_ids=tokens_1T, use_cache=False).logits[0].float()
    finally:
        for part in training:
            part.training = True
    for scale, softcap in _candidates(model.config.get_text_config()):
        layer = replace(plain(module), scale=scale, softcap=softcap)
        if same(layer(hidden[0].to(base.dtype)), wanted, coarse=base.dtype != torch.float32):
            return layer
    return None


def plain(module: Any) -> OutputLayer:
    """Return a head's module as an output layer with neither scale nor soft cap, unproved."""
    trainable = bool(module.weight.requires_grad)
    return OutputLayer(module.weight, getattr(module, "bias", None), trainable=trainable, _module=_WithBias(module))


@dataclass(frozen=True)
class _WithBias:
    """A view on the head's module for which a missing bias is None."""

    module: Any

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.module.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, "bias", None)


def _candidates(config: Any) -> Iterator[tuple[float, float | None]]:
    """Scale and soft cap from the config's numbers whose names speak of logits or of the head; the plain ones first."""
    numbers = {
        name: float(value)
        for name, value in config.to_dict().items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value
        and any(word in name for word in ("logit", "lm_head"))
        and "attn" not in name
    }  # fmt: skip
    caps = [value for name, value in numbers.items() if "cap" in name]
    scales = [value for name, value in numbers.items() if "cap" not in name]
    for softcap in [*caps, None]:
        yield 1.0, softcap
        for scale in scales:
            yield scale, softcap
            yield 1.0 / scale, softcap
