"""The loop stops before harm: no step on a loss that is not finite, smaller micro-batches when memory runs out."""

from __future__ import annotations

import pytest
import torch

from contract.test_methods import parts
from metier.core.errors import DataError, MachineError
from metier.core.sections import Training
from metier.training import loop
from metier.training.method import Method


def steps_of(method, feed, policy, **changes):  # type: ignore[no-untyped-def]
    training = Training(batch_size=8, packing=False, **changes)
    plan = loop.Plan(steps=4, peak_learning_rate=3e-3, warmup_steps=0, micro_batch_tokens=4096, training=training)
    state = loop.start(policy, plan)
    return state, loop.train(policy, method, lengths=feed.lengths, collate=feed.collate, plan=plan, state=state)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_rows() -> None:
    method, feed, policy = parts("sft", "lora", {"r": 4})
    state, steps = steps_of(method, feed, policy)
    next(steps)
    with torch.no_grad():
        next(iter(policy.trained().values())).fill_(float("nan"))
    before = {n: p.detach().clone() for n, p in policy.trained().items()}
    with pytest.raises(DataError) as error:
        next(steps)
    assert error.value.code == "E370" and "step 2" in str(error.value)
    assert any(item.example_id in error.value.received for item in feed.items)
    assert state.step == 1
    for name, parameter in policy.trained().items():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0)), "no step may be taken"
        assert parameter.grad is None


class Hungry:
    """A method whose forward pass runs out of memory above a number of tokens, as the allocator would say it."""

    def __init__(self, method: Method, limit: int) -> None:
        self.method, self.limit = method, limit

    def loss(self, policy, batch):  # type: ignore[no-untyped-def]
        if batch.num_slots > self.limit:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"
            )
        return self.method.loss(policy, batch)


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_loss() -> None:
    method, feed, policy = parts("sft")
    _, steps = steps_of(method, feed, policy)
    wanted = [info.loss for info in steps]
    method, feed, policy = parts("sft")
    state, steps = steps_of(Hungry(method, 100), feed, policy)
    infos = list(steps)
    assert [i.loss for i in infos] == pytest.approx(wanted, rel=1e-4)
    assert state.micro_batch_tokens <= 128 and all(i.micro_batches > 1 for i in infos)
    assert state.notes and "micro_batch_tokens" in state.notes[0]


def test_memory_that_is_never_enough_is_an_error_with_a_next_step() -> None:
    method, feed, policy = parts("sft")
    _, steps = steps_of(Hungry(method, 1), feed, policy)
    with pytest.raises(MachineError) as error:
        next(steps)
    assert error.value.code == "E412" and "max_length" in error.value.fix


def test_another_runtime_error_is_not_mistaken_for_memory() -> None:
    class Broken:
        def loss(self, policy, batch):  # type: ignore[no-untyped-def]
            raise RuntimeError("shapes do not match")

    _, feed, policy = parts("sft")
    _, steps = steps_of(Broken(), feed, policy)
    with pytest.raises(RuntimeError, match="shapes"):
        next(steps)
