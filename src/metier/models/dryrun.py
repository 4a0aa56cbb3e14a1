"""A training pass on tensors without data: who allocates what, and what every operation reads, writes and computes.

The real model class, the real adapter, the real attention and the real loss run forward and backward on torch's
FakeTensors: a second, and no memory. models/memory.py makes bytes of it, models/duration.py seconds. What it does not
see is the optimizer.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metier.core.batch import Batch
from metier.models import attention, gates, norms
from metier.models.attention import Support
from metier.models.base import Base
from metier.models.heads import HeadSpec
from metier.models.output import plain
from metier.models.policy import Policy, build
from metier.models.trunk import Trunk

LARGE_BYTES = 32 * 2**20
"""By default glibc gives a freed block of this size back to the system (DEFAULT_MMAP_THRESHOLD_MAX), and keeps smaller
ones."""
SHARED_ELEMENTS = 32_768
"""PyTorch divides an operation among threads from this size on (at::internal::GRAIN_SIZE)."""
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}
"""Matrix products, and where their left factor stands among the arguments."""
DRAWING = {"bernoulli_", "bernoulli", "native_dropout", "rand_like"}
PICKING = {"embedding", "index_select", "gather", "index"}
"""Operations that read of their first input only what they write."""
FUNCTIONS = {
    *("exp", "exp_", "tanh", "sigmoid", "erf", "sin", "cos", "log", "logsumexp", "gelu", "gelu_backward", "silu"),
    *("silu_backward", "_softmax", "_safe_softmax", "_log_softmax", "softplus", "mish"),
}


Loss = Callable[[Policy, Batch], Tensor]
"""What is trained on: a method's loss on one batch, handed in by actions."""


class Attention(NamedTuple):
    """The shape of one fused attention."""

    queries: int
    keys: int
    width: int
    dtype: str
    causal: bool
    backward: bool
    masked: bool = False
    """With a dense mask."""


@dataclass(slots=True)
class Work:
    """What the operations of a pass do, summed by what takes their time. The keys `True` and `False` say whether an
    operation is large enough to be divided among threads."""

    flops: Counter[bool] = field(default_factory=Counter)
    operands: Counter[bool] = field(default_factory=Counter)
    """Bytes of the operands and results of matrix products."""
    fresh: Counter[bool] = field(default_factory=Counter)
    """Bytes read and written by other operations with a new result."""
    in_place: Counter[bool] = field(default_factory=Counter)
    functions: Counter[bool] = field(default_factory=Counter)
    """Elements of exp, tanh and their like."""
    draws: int = 0
    mapped: int = 0
    """Bytes of large results: memory that the system hands out each time."""
    heads: Counter[Attention] = field(default_factory=Counter)
    """Rows times heads of each shape of fused attention."""
    launches: int = 0
    joins: int = 0
    """Operations that are divided among threads, which start and wait for one another."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One pass, or with `passes` several that add up their gradients."""

    peak: int
    """Highest sum of live tensors beyond the weights, gradients included."""
    heap: int
    """How much of it was in small blocks, which the allocator keeps when they are freed."""
    passes: int
    work: Work
    """Of one pass that adds to gradients which are there, or makes them."""
    products: int
    """Different low-precision matrix products, by shape: each is compiled."""


class DryRun:
    """A policy without data.

    Args:
        config: a transformers configuration.
        adapter: kind of the adapter; `options` are its keys in the recipe.
        kind: `causal` or `encoder`.
        head: the task head of the method, None for language modelling.
        dtype: precision of the computation, `float32` or `bfloat16`.
        support: what the loaded base was found to support; None assumes everything.

    Raises:
        ConfigError: E210, E211 or E260, the adapter or its options.
    """

    def __init__(
        self,
        config: Any,
        *,
        adapter: str,
        options: Mapping[str, Any] | None = None,
        kind: Literal["causal", "encoder"] = "causal",
        head: HeadSpec | None = None,
        dtype: str = "float32",
        support: Support | None = None,
    ) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._faking():
            base = _base(config, kind, getattr(torch, dtype), support)
            self.own = {id(p): p for p in base.model.parameters()}
            self.policy: Policy = build(base, adapter, dict(options or {}), head=head)
            if kind == "causal":
                self.policy._output = plain(base.model.get_output_embeddings())  # there are no numbers to prove it on
            self.trained = list(self.policy.trained().values())
            self.policy.train()  # dropout keeps its masks

    def run(self, batch: Batch, loss: Loss | None = None, *, passes: int = 1, large: int = LARGE_BYTES) -> Trace:
        """Run forward and backward on a batch.

        Args:
            batch: its values do not count, only its shapes, its segments, and which positions have a loss.
            loss: without one the hidden states (or the task head's outputs) are the end.
            passes: so many times, with gradients that add up.
            large: bytes from which on the allocator gives a freed block back to the system.
        """
        watch = Watch(large)
        with self._faking():
            for parameter in self.trained:
                parameter.grad = None
            for _ in range(passes):
                watch.work = Work()
                self._pass(batch, loss or _outputs, watch)
            for parameter in self.trained:
                parameter.grad = None
        return Trace(watch.peak, watch.heap_at_peak, passes, watch.work, len(watch.products))

    def behind_trunk(self, batch: Batch) -> Batch:
        """Return the batch with states of the frozen trunk, so that `run` starts behind it (models/trunk.py)."""
        with self._faking():
            self.policy.trunk = self.policy.trunk or Trunk.of(self.policy)
            if self.policy.trunk is None:
                raise ValueError("this policy has no frozen trunk")
            states = self.policy.trunk.states(self.policy, batch)
        if states.dtype == torch.bfloat16:
            return replace(batch, trunk=np.zeros(states.shape, dtype=np.uint16))
        return replace(batch, trunk=np.zeros(states.shape, dtype=np.float32))

    def trunk_work(self, batch: Batch) -> Work:
        """Return what a pass through the frozen trunk alone does."""
        trunk = self.policy.trunk or Trunk.of(self.policy)
        assert trunk is not None
        return self.run(batch, trunk.states).work

    def _pass(self, batch: Batch, loss: Loss, watch: Watch) -> None:
        with watch:
            with self.policy.computing():
                out = loss(self.policy, batch)
            if out.requires_grad:
                torch.autograd.backward(out, torch.ones_like(out))

    @contextlib.contextmanager
    def _faking(self) -> Iterator[None]:
        with self._mode, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # DoRA's cache key
            yield


def blank(rows: int, length: int, *, window: int | None = None) -> Batch:
    """Return a batch of B rows of T positions without content, every token with a loss that can have one.

    A row over the model's window holds several segments.
    """
    window = window or length
    along_T = np.arange(length)
    segments_BT = np.broadcast_to((along_T // window + 1).astype(np.int32), (rows, length))
    positions_BT = np.broadcast_to(along_T % window, (rows, length)).copy()
    return Batch(
        tokens_BT=np.zeros((rows, length), dtype=np.int64),
        loss_mask_BT=(positions_BT > 0).astype(np.float32),  # nothing predicts the first token of a segment
        segments_BT=segments_BT,
        positions_BT=positions_BT,
        example_ids=tuple(str(i) for i in range(rows * -(-length // window))),
        weights={},
    )


def _outputs(policy: Policy, batch: Batch) -> Tensor:
    return policy.hidden(batch) if policy.head is None else policy.head_logits(batch)


def _base(config: Any, kind: Literal["causal", "encoder"], dtype: torch.dtype, support: Support | None) -> Base:
    from transformers import AutoModel, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModel
    model = auto.from_config(config, dtype=torch.float32).eval()
    norms.replace(model)
    gates.replace(model)
    model.set_attn_implementation(attention.register())
    support = support or Support(unmasked=True, packing=True, reason="assumed by the plan")
    base = Base(model, None, kind, "plan", None, torch.device("cpu"), dtype, {}, support)
    base.casts.install(model)
    return base


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the storages that operations create, subtract each when the last tensor on it dies, and sum the work."""

    def __init__(self, large: int = LARGE_BYTES) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.large = large
        self.now = self.peak = self.heap = self.heap_at_peak = 0
        self.work = Work()
        self.products: set[tuple[Any, ...]] = set()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in inputs:  # what existed before is not ours
            self._see(tensor, new=False)
        out = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        made = [tensor for tensor in outputs if self._see(tensor, new=True)]
        if func.namespace == "aten":
            self._count(func, args, kwargs or {}, inputs, outputs, made)
        return out

    def _count(
        self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor], made: list[Tensor]
    ) -> None:
        name, work = func.overloadpacket.__name__, self.work
        if not (made or func._schema.is_mutable):
            return  # a view
        work.launches += 1
        work.mapped += sum(size for size in map(_bytes, made) if size >= self.large)
        if name.startswith(("empty", "new_empty")):
            return  # nothing is written yet
        if name.startswith("_scaled_dot_product"):
            self._count_attention(name, args, masked=kwargs.get("attn_mask") is not None)
            return
        elements = max((t.numel() for t in outputs), default=0)
        shared = max([elements, *(t.numel() for t in inputs)]) >= SHARED_ELEMENTS
        work.joins += shared
        if name in DRAWING:
            work.draws += elements
        written = sum(map(_bytes, outputs))
        read = written if name in PICKING else sum(map(_bytes, inputs))
        if name in FUNCTIONS:
            work.functions[shared] += elements
        if name not in PRODUCTS:
            (work.fresh if made else work.in_place)[shared] += read + written
        else:
            left = args[PRODUCTS[name]]
            work.operands[shared] += read + written
            work.flops[shared] += 2 * outputs[0].numel() * left.shape[-1]
            if left.dtype != torch.float32:
                self.products.add(tuple((tuple(t.shape), t.stride()) for t in inputs))

    def _count_attention(self, name: str, args: Any, *, masked: bool) -> None:
        backward = "backward" in name
        query, key = args[1:3] if backward else args[0:2]
        causal = next((a for a in args if isinstance(a, bool)), False)
        dtype = str(query.dtype).removeprefix("torch.")
        shape = Attention(query.shape[2], key.shape[2], query.shape[3], dtype, causal, backward, masked)
        self.work.heads[shape] += query.shape[0] * query.shape[1]
        self.work.joins += 1

    def _see(self, tensor: Tensor, *, new: bool) -> bool:
        """Return whether the tensor's storage had not been seen."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return False
        self._known.add(key)
        size = storage.nbytes() if new else 0
        self._add(size)
        weakref.finalize(storage, self._drop, key, size)
        return True

    def _add(self, size: int) -> None:
        self.now += size
        if abs(size) < self.large:
            self.heap += size
        if self.now > self.peak:
            self.peak, self.heap_at_peak = self.now, self.heap

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._add(-size)


def _bytes(tensor: Tensor) -> int:
    """Bytes behind a tensor; an expanded one has fewer than its elements say."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
