"""What a training step will need, before it runs: bytes by component and FLOPs per token, from config.json alone.

Instead of a formula per model family, the step itself is carried out on tensors without data (torch's FakeTensor): the
real model class, the real adapter, the real attention, forward and backward. Whoever allocates a tensor is seen doing
so, and the highest sum of what lives at once is the figure. It takes a second or two and no memory. What the fake step
cannot see is added by rule: the optimizer's state, the chunked output head, the buffer of a save, and what Python and
its libraries take before any tensor exists.

    peak = runtime + weights + optimizer + max(gradients + activations + head, save)

That is what lives. What the process holds is more under glibc's allocator, which keeps freed tensors of up to 32 MB
for itself: a quarter to a half more was measured after a few steps, growing with them. `release_freed_memory` stops
that, and with it the estimate was within 4 % of the measured peak.

FLOPs are those of speed.md: 2 per multiply-add and weight forward, as much again for each gradient that is really
made, and attention by the causal half.

Shapes: B rows, T positions per row, D hidden width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metier.core.catalog import catalog
from metier.models import attention
from metier.models.base import Base
from metier.models.cache import context_window

RUNTIME_BYTES = 450 * 2**20
"""Resident memory of Python after one step of a tiny model, everything imported: 451 MiB measured (Linux, CPU)."""
LOGITS_CHUNK_BYTES = 48 * 2**20
"""Float32 logits that the output head holds at once in training (training/losses.py)."""
STATE_BYTES = 8
"""AdamW: two float32 moments per trained weight."""
M_MMAP_THRESHOLD = -3
"""The number of this setting in glibc's malloc.h."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of one training step, by component, and FLOPs per token."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Highest sum of live tensors in forward and backward, beyond weights and gradients."""
    head: int
    """The chunk of logits, and what the head's own gradient needs while it is summed."""
    save: int
    """What a checkpoint adds while it is written: one tensor at a time, as safetensors writes from their own memory."""
    runtime: int
    num_parameters: int
    num_trained: int
    flops_per_token: float
    """Forward and backward, per non-padding token."""

    @property
    def peak(self) -> int:
        """The largest resident size of the process."""
        step = self.gradients + self.activations + self.head
        return self.runtime + self.weights + self.optimizer + max(step, self.save)

    def to_json(self) -> dict[str, float]:
        """Return every component and the peak."""
        names = ("weights", "gradients", "optimizer", "activations", "head", "save", "runtime")
        counts = {"num_parameters": self.num_parameters, "num_trained": self.num_trained}
        return {**{name: getattr(self, name) for name in names}, "peak": self.peak, **counts,
                "flops_per_token": self.flops_per_token}  # fmt: skip


def estimate(
    config: Any,
    *,
    adapter: str,
    options: Mapping[str, Any] | None = None,
    rows: int,
    length: int,
    dtype: str = "float32",
    kind: Literal["causal", "encoder"] = "causal",
    supervised_share: float = 1.0,
    num_outputs: int = 0,
) -> Estimate:
    """Return what one training step needs.

    Args:
        config: a transformers configuration, or the directory of a model (its weights are not read).
        adapter: kind of the adapter; `options` are its keys in the recipe.
        rows, length: the largest micro-batch: B rows of T positions (a packed row counts as one).
        dtype: precision of the computation, `float32` or `bfloat16`.
        kind: `causal` or `encoder`.
        supervised_share: share of the tokens with a loss; only those reach the output head.
        num_outputs: outputs of a task head, in place of the vocabulary; 0 = language modelling.

    Raises:
        ConfigError: E210, E211 or E260, the adapter or its options.
        MachineError: E402, E403 or E405, the directory is not a model.
    """
    if isinstance(config, Path):
        from metier.models.base import inspect

        config, kind, _ = inspect(config)
    compute = getattr(torch, dtype)
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # DoRA's cache key
        base = _fake_base(config, kind, compute)
        own = {id(p): p for p in base.model.parameters()}
        plugin = catalog("adapters")
        attached = plugin.get(adapter).attach(base, plugin.options(adapter, dict(options or {})), seed=0)
        trained = list(attached.trainable().values())
        for module in attached.modules():
            module.train()  # dropout keeps its masks
        activations = _live_peak(base, own, trained, rows, length)
    text = base.model.config.get_text_config()
    width = int(text.hidden_size)
    task_head = num_outputs * (width + 1)
    output = base.model.get_output_embeddings() if kind == "causal" and not num_outputs else None
    everything = {id(t): t for t in [*base.model.parameters(), *base.model.buffers()]}
    num_trained = sum(p.numel() for p in trained) + task_head
    return Estimate(
        weights=sum(map(_bytes, everything.values())) + 4 * task_head,
        gradients=4 * num_trained,
        optimizer=STATE_BYTES * num_trained,
        activations=activations,
        head=0 if output is None else _head_bytes(output.weight, rows * length * supervised_share, compute),
        save=max((4 * p.numel() for p in trained), default=0),
        runtime=RUNTIME_BYTES,
        num_parameters=sum(p.numel() for p in own.values()),
        num_trained=num_trained,
        flops_per_token=_flops(base, own, trained, output, length, supervised_share),
    )


def trim_heap() -> bool:
    """Give the free pages of glibc's heap back to the system; return whether it did.

    Steps of differing lengths leave holes that the next step cannot use: without this, a small model's process grew by
    5 MB a step (LOG.md, 2026-11-21). A call takes about 50 ms.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and malloc_trim(0) == 1


def release_freed_memory(threshold_bytes: int = 2**20) -> bool:
    """Make glibc give every freed block of at least this size back to the system; return whether it did.

    Call it once, early in a process that trains on the CPU. Measured on a 15 M model: peak memory 17–34 % lower and
    equal to the estimate, system time per step up by about 0.3 s in 6. False on systems without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_THRESHOLD, threshold_bytes) == 1


# ───────────────────────────────────────────────────────────────────────────── the step without data


def _fake_base(config: Any, kind: Literal["causal", "encoder"], dtype: torch.dtype) -> Base:
    from transformers import AutoModel, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModel
    model = auto.from_config(config, dtype=torch.float32).eval()
    model.set_attn_implementation(attention.register())
    support = attention.Support(unmasked=True, packing=True, reason="assumed by the plan")
    return Base(model, None, kind, "plan", None, torch.device("cpu"), dtype, {}, support)


def _live_peak(base: Base, own: Mapping[int, Any], trained: list[Any], rows: int, length: int) -> int:
    """Run forward and backward of the trunk and return the highest sum of live bytes beyond weights and gradients."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    tokens_BT = torch.zeros(rows, length, dtype=torch.long)
    segments = attention.RIGHT_PADDED if base.kind == "causal" else [(length,)] * rows
    # Trained weights are float32, so that a bfloat16 step casts them; frozen ones are stored in bfloat16 already.
    casts = base.dtype != torch.float32 and any(id(p) in own for p in trained)
    live = _Live()
    # A packed row may be longer than the window; its segments are not.
    window = context_window(base.model) or length
    positions_BT = (torch.arange(length) % window).expand(rows, length)
    with live, attention.layout(segments), torch.autocast("cpu", torch.bfloat16, enabled=casts):
        hidden_BTD = attention.last_hidden(base.model, tokens_BT, attention_mask=None, position_ids=positions_BT)
        if hidden_BTD.requires_grad:
            torch.autograd.backward(hidden_BTD, torch.ones_like(hidden_BTD))
    return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the storages that operations create, and subtract each when the last tensor on it dies."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):  # what existed before is not ours
            if isinstance(leaf, torch.Tensor):
                self._see(leaf, new=False)
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf, new=True)
        return out

    def _see(self, tensor: torch.Tensor, *, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if new else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _head_bytes(weight_VD: Any, num_rows: float, dtype: torch.dtype) -> int:
    """Bytes of the chunked output head: logits in float32 with their copies in the precision of the products."""
    vocabulary, width = weight_VD.shape
    rows = min(max(1.0, num_rows), max(32, LOGITS_CHUNK_BYTES / (4 * vocabulary)))
    size = torch.finfo(dtype).bits // 8
    total = rows * vocabulary * (4 + size)
    if weight_VD.requires_grad:
        total += 4 * vocabulary * width  # its gradient in float32, beside the one that the embedding may share
        total += size * vocabulary * width  # the product of one chunk
    if weight_VD.element_size() != size:
        total += size * vocabulary * width  # the cast weight
    return int(total)


# ───────────────────────────────────────────────────────────────────────────── arithmetic


def _flops(
    base: Base, own: Mapping[int, Any], trained: list[Any], output: Any, length: int, supervised_share: float
) -> float:
    """Return forward and backward FLOPs per token.

    A weight costs 2 forward, 2 for the gradient of its input where something below it trains, 2 for its own gradient
    where it trains itself. Attention costs 4·ctx·heads·width per layer forward, half of it causal, and twice that
    backward.
    """
    config = base.model.config.get_text_config()
    trains = {id(p) for p in trained}
    skipped = {id(base.model.get_input_embeddings().weight)} | ({id(output.weight)} if output is not None else set())
    total, below = 0.0, id(base.model.get_input_embeddings().weight) in trains
    for parameter in base.model.parameters():
        if id(parameter) in skipped:
            continue
        here = id(parameter) in trains
        if parameter.ndim == 2:
            total += parameter.numel() * (2.0 + 2.0 * (below or here) + 2.0 * here)
        below = below or here
    if output is not None:
        weight = output.weight
        total += supervised_share * weight.numel() * (2.0 + 2.0 * bool(trained) + 2.0 * (id(weight) in trains))
    heads = int(getattr(config, "num_attention_heads", 0))
    head_width = getattr(config, "head_dim", None) or int(config.hidden_size) // max(1, heads)
    context = length / 2 if base.kind == "causal" else length
    return total + 4.0 * context * heads * head_width * int(config.num_hidden_layers) * (3.0 if trained else 1.0)
