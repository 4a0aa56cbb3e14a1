"""Every training method: the loss falls, accumulation does not matter, nothing trains that should not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metier.core.catalog import catalog
from metier.core.sections import Prompt, Training
from metier.core.types import Conversation, Labelled, Message, Text, identify
from metier.data.template import Encoder
from metier.models import base as bases
from metier.models import policy as policies
from metier.training import loop
from metier.training.feed import Feed
from metier.training.method import Facts, Method
from metier.training.validate import validate
from tiny import chat_rows, labelled_rows, llama, tokenizer

METHODS = catalog("methods").names()
LABELS = ("card", "pain", "rate")


def examples(method: str) -> list[object]:
    if method == "classify":
        return [identify(Labelled(text=r["text"], target=r["label"])) for r in labelled_rows()]
    if method == "cpt":
        return [identify(Text(text=" ".join(m["content"] for m in r["messages"]))) for r in chat_rows()]
    return [
        identify(Conversation(messages=tuple(Message(m["role"], m["content"]) for m in r["messages"])))
        for r in chat_rows()
    ]


def parts(kind: str, adapter: str = "full", adapter_options: dict | None = None, seed: int = 0, **model: object):  # type: ignore[no-untyped-def,type-arg]
    facts = Facts(LABELS, "single_label") if kind == "classify" else Facts()
    method = Method.of(kind, {}, facts)
    encoder = Encoder(tokenizer(), max_length=128, prompt=Prompt())
    feed = Feed.of(list(method.encode(examples(kind), encoder)), pad_id=1, facts=facts)  # type: ignore[arg-type]
    base = bases.from_model(llama(seed, **model), tokenizer())
    assert base.digest, "of the untouched weights, before any step"
    policy = policies.build(base, adapter, adapter_options or {}, head=method.head(), encoder=encoder, seed=seed)
    return method, feed, policy


def run(
    method,
    feed,
    policy,
    *,
    steps: int = 6,
    tokens: int = 4096,
    packing: bool = False,
    rate: float = 5e-3,
    size: int = 8,
):  # type: ignore[no-untyped-def]
    training = Training(batch_size=size, packing=packing, max_grad_norm=0.0, lr_scheduler_type="constant")
    plan = loop.Plan(steps=steps, peak_learning_rate=rate, warmup_steps=0, micro_batch_tokens=tokens, training=training)
    state = loop.start(policy, plan)
    infos = list(loop.train(policy, method, lengths=feed.lengths, collate=feed.collate, plan=plan, state=state))
    return infos, state


@pytest.mark.parametrize("kind", METHODS)
def test_loss_falls(kind: str) -> None:
    method, feed, policy = parts(kind)
    before = validate(policy, method, feed, budget_tokens=512, packing=False)["loss"]
    run(method, feed, policy, steps=30)
    after = validate(policy, method, feed, budget_tokens=512, packing=False)["loss"]
    assert after < before * 0.8


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind", METHODS)
def test_micro_batches_do_not_change_the_curve(kind: str, packing: bool) -> None:
    """One forward pass of eight examples equals eight of one (pitfall 6), loss by loss and weight by weight."""
    whole_method, feed, whole = parts(kind)
    one_pass, _ = run(whole_method, feed, whole)
    split_method, feed, split = parts(kind)
    many, _ = run(split_method, feed, split, tokens=1 if not packing else 45, packing=packing)
    assert all(few.micro_batches < lots.micro_batches for few, lots in zip(one_pass, many, strict=True))
    np.testing.assert_allclose([i.loss for i in many], [i.loss for i in one_pass], rtol=2e-4)
    for (name, a), b in zip(whole.trained().items(), split.trained().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-4, msg=name)


@pytest.mark.parametrize("kind", METHODS)
def test_frozen_weights_stay_as_they_were(kind: str) -> None:
    method, feed, policy = parts(kind, "lora", {"r": 4})
    trained = {id(p) for p in policy.trained().values()}
    frozen = {n: p.detach().clone() for n, p in policy.base.model.named_parameters() if id(p) not in trained}
    moved = {n: p.detach().clone() for n, p in policy.trained().items()}
    run(method, feed, policy, steps=3)
    assert len(frozen) > 10
    for name, before in frozen.items():
        assert torch.equal(dict(policy.base.model.named_parameters())[name], before), name
    assert all(not torch.equal(p, moved[n]) for n, p in policy.trained().items())


@pytest.mark.parametrize("kind", METHODS)
def test_weights_of_the_loss_are_those_of_the_batch(kind: str) -> None:
    """The promise the loop divides by: each term's weight key is in the batch before the forward pass."""
    method, feed, policy = parts(kind)
    batch = feed.collate(list(range(5)), [[i] for i in range(5)])
    for term in method.loss(policy, batch):
        assert term.weight_key in batch.weights and batch.weights[term.weight_key] > 0
        assert term.total.ndim == 0 and term.total.requires_grad
    assert set(method.measure(policy, batch)) >= {"loss"}


@pytest.mark.parametrize("kind", METHODS)
def test_tokens_outside_the_mask_do_not_matter_to_the_loss(kind: str) -> None:
    """Padding may hold anything."""
    method, feed, policy = parts(kind)
    policy.eval()
    batch = feed.collate(list(range(6)), [[i] for i in range(6)])
    assert (batch.segments_BT == 0).any(), "the rows must differ in length for this test to mean something"
    first = float(method.loss(policy, batch)[0].total.detach())
    batch.tokens_BT[batch.segments_BT == 0] = 7
    second = float(method.loss(policy, batch)[0].total.detach())
    assert second == pytest.approx(first, rel=1e-6)
