"""Task heads: from the hidden states of a segment to one vector, and from that to the outputs.

Shapes: B rows, T positions, D hidden width, N examples (segments, row by row), K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metier.core.batch import Batch
from metier.core.types import ProblemType
from metier.models.rows import bounds

Pooling = Literal["auto", "last", "mean", "cls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """What a method asks of a head.

    `auto` pooling is the last token for decoders and the mean for encoders; `bias` None means a bias for encoders and
    none for decoders, which is what Hugging Face's sequence classifiers have. A regression is trained on
    (target − target_mean) / target_scale.
    """

    num_outputs: int
    pooling: Pooling = "auto"
    hidden_layers: int = 0
    dropout: float = 0.0
    bias: bool | None = None
    labels: tuple[str, ...] = ()
    problem_type: ProblemType = "single_label"
    target_mean: float = 0.0
    target_scale: float = 1.0

    def resolved(self, *, causal: bool) -> HeadSpec:
        """Return the spec with pooling and bias decided for this kind of base."""
        pooling = ("last" if causal else "mean") if self.pooling == "auto" else self.pooling
        return replace(self, pooling=pooling, bias=(not causal) if self.bias is None else self.bias)


class TaskHead(nn.Module):
    """Extra layers (linear, tanh, dropout), then one linear output layer; float32 throughout.

    Whoever turns the outputs into confidences divides them by `temperature` (training/calibration.py fits it).

    Args:
        width: D.
        spec: a resolved spec.
        seed: of the initial weights (normal, deviation 0.02; biases are zero).
    """

    def __init__(self, width: int, spec: HeadSpec, *, seed: int) -> None:
        super().__init__()
        self.spec = spec
        self.temperature = 1.0
        # skip_init: what nn.Linear draws by itself would move the global random state.
        make: Any = torch.nn.utils.skip_init
        self.hidden = nn.ModuleList([make(nn.Linear, width, width) for _ in range(spec.hidden_layers)])
        self.output = make(nn.Linear, width, spec.num_outputs, bias=bool(spec.bias))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (*self.hidden, self.output):
                assert isinstance(layer, nn.Linear)
                layer.weight.normal_(0.0, 0.02, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.spec.labels

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.spec.num_outputs

    @property
    def problem_type(self) -> ProblemType:
        """What the outputs mean."""
        return self.spec.problem_type

    @property
    def pooling(self) -> Pooling:
        """Which hidden states are read."""
        return self.spec.pooling

    def forward(self, pooled_ND: Tensor) -> Tensor:
        """Return the outputs (N, K) in float32, whatever precision the base computes in."""
        with torch.autocast(pooled_ND.device.type, enabled=False):
            x_ND = pooled_ND.float()
            for layer in self.hidden:
                x_ND = torch.tanh(layer(F.dropout(x_ND, self.spec.dropout, self.training)))
            out_NK: Tensor = self.output(F.dropout(x_ND, self.spec.dropout, self.training))
            return out_NK


def pool(hidden_BTD: Tensor, batch: Batch, pooling: Pooling) -> Tensor:
    """Return one vector per segment (N, D), row by row and segment by segment, as in `batch.example_ids`.

    `last` and `cls` are the segment's last and first position; `mean` is over all its tokens, summed in float32.
    """
    starts, ends = bounds(batch.segments_BT)
    flat = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    device = flat.device
    if pooling in ("last", "cls"):
        where = torch.from_numpy(ends - 1 if pooling == "last" else starts).to(device)
        return flat.index_select(0, where)
    lengths = ends - starts
    owner = torch.from_numpy(np.repeat(np.arange(len(starts)), lengths)).to(device)
    tokens = torch.from_numpy(np.flatnonzero(batch.segments_BT > 0)).to(device)
    sums_ND = torch.zeros(len(starts), flat.shape[1], device=device)
    values = flat.index_select(0, tokens).float()
    # On a GPU index_add sums in whatever order its threads come; index_put sorts first.
    cpu = device.type == "cpu"
    sums_ND = sums_ND.index_add(0, owner, values) if cpu else sums_ND.index_put((owner,), values, accumulate=True)
    return sums_ND / torch.from_numpy(lengths).to(device).unsqueeze(1)
