"""The frozen trunk: the blocks below the lowest one that trains. What leaves it never changes, and can be kept.

The trunk ends either below a block (its inputs, one vector per token, are kept), or, where only a task head trains, at
the pooled vector of an example. A pass that starts behind it lets the frozen blocks hand their input on untouched and
puts the kept states in front of the first trained block: no family needs code of its own, and a probe compares both
ways before either is trusted.

Shapes: B rows, T positions, D hidden width, N examples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metier.core.batch import Batch
from metier.core.errors import ConfigError
from metier.models.adapters.layers import find_blocks

if TYPE_CHECKING:
    from metier.models.policy import Policy

Kept = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
"""What leaves the trunk, as numpy holds it: bfloat16 as the uint16 of the same bits."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference on the probe, as a share of the largest number."""


class _Reached(Exception):  # noqa: N818: it is no error
    """The pass has come to the end of the trunk; the rest of it is of no use."""


@dataclass(slots=True)
class Trunk:
    """Where a policy's frozen part ends.

    Attributes:
        blocks: the policy's stack; the first `depth` of them are frozen.
        pooled: whether nothing above them trains but the head, so that pooled vectors are kept.
    """

    blocks: nn.ModuleList
    depth: int
    pooled: bool
    _returned: dict[int, Callable[[Tensor], Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, policy: Policy) -> Trunk | None:
        """Return the trunk, or None where the lowest block or the embeddings train, or there is no stack of blocks."""
        try:
            blocks, behind = find_blocks(policy.base.model)
        except ConfigError:
            return None
        above = {id(p) for module in behind for p in module.parameters()}
        trained = {id(p) for p in policy.adapter.trainable().values()}
        if not trained:
            return cls(blocks, len(blocks), pooled=True) if policy.head is not None else None
        depth = next(
            (i for i, block in enumerate(blocks) if any(id(p) in trained for p in block.parameters())), len(blocks)
        )
        inside = {id(p) for block in blocks[depth:] for p in block.parameters()}
        if depth in (0, len(blocks)) or trained - inside - above:
            return None
        return cls(blocks, depth, pooled=False)

    def states(self, policy: Policy, batch: Batch) -> Tensor:
        """Return what leaves the trunk for a batch: (N, D), or (B, T, D) with numbers without meaning in padding."""
        training = policy.base.model.training
        policy.eval()
        try:
            with torch.no_grad():
                return policy.pooled(batch) if self.pooled else self._states_BTD(policy, batch)
        finally:
            if training:
                policy.train()

    def _states_BTD(self, policy: Policy, batch: Batch) -> Tensor:
        kept: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(_hidden(args, kwargs))
            raise _Reached

        with contextlib.ExitStack() as stack:
            for index in range(self.depth):
                stack.callback(self.blocks[index].register_forward_hook(self._learn(index)).remove)
            stack.callback(self._first().register_forward_pre_hook(stop, with_kwargs=True).remove)
            with contextlib.suppress(_Reached):
                policy.hidden(batch)
        return kept[0]

    @contextlib.contextmanager
    def skipped(self, states_BTD: Tensor) -> Iterator[None]:
        """Within this context a forward pass starts behind the trunk, with these states.

        `states` must have been called once: it learns what the family's blocks return.
        """

        def put(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (states_BTD, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": states_BTD}

        frozen = [self.blocks[index] for index in range(self.depth)]
        handle = self._first().register_forward_pre_hook(put, with_kwargs=True)
        try:
            for index, block in enumerate(frozen):
                returned = self._returned[index]
                block.forward = lambda *args, _r=returned, **kwargs: _r(_hidden(args, kwargs))
            yield
        finally:
            handle.remove()
            for block in frozen:
                del block.forward

    def holds(self, policy: Policy, batch: Batch) -> bool:
        """Whether a pass from kept states gives what the whole pass gives, on a probe."""
        if self.pooled:
            return True  # there is nothing behind them but the head
        policy.eval()
        with torch.no_grad():
            whole = policy.hidden(batch).float()
            before, policy.trunk = policy.trunk, self
            try:
                part = policy.hidden(replace(batch, trunk=to_numpy(self.states(policy, batch)))).float()
            except Exception:  # a family that does more between its blocks than hand a tensor on
                return False
            finally:
                policy.trunk = before
        real_BT = torch.from_numpy(batch.segments_BT > 0).to(whole.device)
        gap = (whole - part).abs()[real_BT].max()
        return bool(gap <= TOLERANCE[policy.dtype] * whole[real_BT].abs().max())

    def _first(self) -> nn.Module:
        return self.blocks[self.depth]

    def _learn(self, index: int) -> Callable[..., None]:
        def look(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if isinstance(out, Tensor):
                self._returned[index] = lambda hidden: hidden
            else:
                size = len(out)
                self._returned[index] = lambda hidden: (hidden, *[None] * (size - 1))

        return look


def to_numpy(states: Tensor) -> Kept:
    """Return the states as numpy holds them."""
    states = states.detach().cpu().contiguous()
    if states.dtype == torch.bfloat16:
        return states.view(torch.uint16).numpy()
    return states.float().numpy()


def from_numpy(kept: Kept, device: torch.device) -> Tensor:
    """Return kept states as a tensor of the dtype they left the trunk in."""
    states = torch.from_numpy(kept)
    return (states.view(torch.bfloat16) if states.dtype == torch.uint16 else states).to(device)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found
