"""The frozen trunk: where it ends, and that a pass that starts behind it is the whole pass, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from metier.core.batch import Batch
from metier.models.base import Base
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build
from metier.models.trunk import Trunk, from_numpy, to_numpy

from .conftest import ENCODERS, FAMILIES

Make = Callable[..., Base]
MakeBatch = Callable[..., Batch]
HEAD = HeadSpec(num_outputs=3)
ROWS = {"packed": [[5, 9, 3], [8, 6]], "padded": [[9], [6]]}


def trunk_of(policy: Policy) -> Trunk:
    found = Trunk.of(policy)
    assert found is not None
    return found


def results(policy: Policy, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The hidden states at real positions, and the gradients of a loss on them."""
    policy.eval()  # without dropout
    real_BT = torch.from_numpy(batch.segments_BT > 0)
    with policy.computing():
        hidden = policy.hidden(batch)[real_BT]
    hidden.float().square().sum().backward()
    found = [p.grad.clone() for p in policy.trained().values() if p.grad is not None]
    for parameter in policy.trained().values():
        parameter.grad = None
    return hidden.detach().float(), found


@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_a_pass_behind_the_trunk_is_the_whole_pass(
    family: str, layout: str, make_base: Make, make_batch: MakeBatch
) -> None:
    policy = build(make_base(family), "layers", {"num_layers": 1})
    batch = make_batch(ROWS[layout])
    if batch.packed and not policy.base.attention.packing:
        pytest.skip("the family cannot take packed rows")
    trunk = trunk_of(policy)
    assert trunk.depth == 2 and not trunk.pooled
    assert trunk.holds(policy, batch)
    whole, whole_gradients = results(policy, batch)
    policy.trunk = trunk
    part, gradients = results(policy, replace(batch, trunk=to_numpy(trunk.states(policy, batch))))
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    assert len(gradients) == len(whole_gradients) > 0
    for one, other in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_states_that_are_kept_are_what_counts(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama"), "lora", {"r": 2, "layers_to_transform": [2]})
    batch = make_batch(ROWS["packed"])
    policy.trunk = trunk = trunk_of(policy)
    assert trunk.depth == 2
    states = trunk.states(policy, batch)
    whole = policy.hidden(batch)
    assert torch.equal(policy.hidden(replace(batch, trunk=to_numpy(states))), whole)
    assert not torch.allclose(policy.hidden(replace(batch, trunk=to_numpy(states + 1))), whole, atol=0.1)
    assert torch.equal(policy.hidden(batch), whole), "the blocks are whole again afterwards"


@pytest.mark.parametrize(
    ("adapter", "options", "head", "depth"),
    [
        ("none", {}, HEAD, 3),
        ("none", {}, None, None),
        ("layers", {"num_layers": 2}, None, 1),
        ("layers", {"num_layers": 3}, None, None),
        ("lora", {"r": 2}, HEAD, None),
        ("lora", {"r": 2, "layers_to_transform": [1]}, HEAD, 1),
        ("full", {}, HEAD, None),
    ],
)
def test_the_trunk_ends_below_the_lowest_block_that_trains(
    adapter: str, options: dict[str, Any], head: HeadSpec | None, depth: int | None, make_base: Make
) -> None:
    found = Trunk.of(build(make_base("llama"), adapter, options, head=head))
    assert (found.depth if found else None) == depth
    assert found is None or found.pooled == (adapter == "none")


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_below_a_head_alone_pooled_vectors_are_kept(pooling: Any, make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("bert"), "none", {}, head=replace(HEAD, pooling=pooling))
    batch = make_batch(ROWS["packed"])
    trunk = trunk_of(policy)
    kept = replace(batch, trunk=to_numpy(trunk.states(policy, batch)))
    assert kept.trunk is not None and kept.trunk.shape == (5, 32)
    assert torch.equal(policy.head_logits(kept), policy.head_logits(batch))
    policy.base.model = None  # nothing of it is needed any more
    policy.head_logits(kept)


def test_dropout_above_the_trunk_goes_on_and_the_trunk_has_none(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("bert", hidden_dropout_prob=0.5), "layers", {"num_layers": 1})
    batch = make_batch(ROWS["packed"])
    policy.trunk = trunk = trunk_of(policy)
    policy.train()
    states = trunk.states(policy, batch)
    assert torch.equal(states, trunk.states(policy, batch))
    assert policy.base.model.encoder.layer[2].training and not policy.base.model.encoder.layer[0].training
    kept = replace(batch, trunk=to_numpy(states))
    assert not torch.equal(policy.hidden(kept), policy.hidden(kept))


def test_a_family_whose_blocks_do_more_than_hand_a_tensor_on_is_found_out(
    make_base: Make, make_batch: MakeBatch
) -> None:
    policy = build(make_base("llama"), "layers", {"num_layers": 1})
    batch = make_batch(ROWS["packed"])
    first, last = policy.base.model.model.layers[0], policy.base.model.model.layers[2]
    calls: list[int] = []
    first.register_forward_hook(lambda *_: calls.append(1))
    inner = last.forward

    def odd(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return inner(hidden * (1 if first.forward.__name__ == "forward" else 2), *args, **kwargs)

    last.forward = odd
    assert not trunk_of(policy).holds(policy, batch)
    assert calls


def test_numpy_holds_the_same_bits() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        states = torch.randn(4, 8).to(dtype)
        assert torch.equal(from_numpy(to_numpy(states), torch.device("cpu")), states)
        assert from_numpy(to_numpy(states), torch.device("cpu")).dtype == dtype


def test_states_for_a_policy_without_a_trunk_are_refused(make_base: Make, make_batch: MakeBatch) -> None:
    policy = build(make_base("llama"), "full", {})
    batch = make_batch(ROWS["packed"])
    with pytest.raises(ValueError, match="trunk"):
        policy.hidden(replace(batch, trunk=to_numpy(torch.zeros(2, 17, 32))))
