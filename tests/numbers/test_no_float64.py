"""What is measured on a device without float64 (Apple's) is what is measured on a CPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.types import Conversation, Labelled, Message, Text, identify
from metier.data.template import Encoder
from metier.evaluation.predict import predict_head, predict_label_likelihood, predict_text
from metier.models import parity, score
from metier.models.base import from_model
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build
from metier.training import loop
from metier.training.calibration import calibrate
from metier.training.feed import Feed
from metier.training.method import Facts, Method
from no_float64 import DEVICE, away, moved_to_it
from tiny import chat_rows, labelled_rows, llama, tokenizer

LABELS = ("card", "pain", "rate")


def labelled(n: int = 60) -> list[Labelled]:
    return [identify(Labelled(text=r["text"], target=r["label"])) for r in labelled_rows(n)]


def texts() -> list[Text]:
    return [identify(Text(text=" ".join(m["content"] for m in r["messages"]))) for r in chat_rows(8)]


def feed_of(policy: Policy, kind: str, rows: list[Any]) -> tuple[Method, Feed]:
    facts = Facts(LABELS, "single_label") if kind == "classify" else Facts()
    method = Method.of(kind, {}, facts)
    return method, Feed.of(list(method.encode(rows, policy.encoder)), pad_id=1, facts=facts)


def head_outputs(policy: Policy) -> Any:
    return parity._head_outputs(policy, [3, 9, 7, 30])


def head_predictions(policy: Policy) -> Any:
    found = predict_head(policy, labelled(8), labels=LABELS, problem_type="single_label")
    return [[p.label_probs[label] for label in LABELS] for p in found if p.label_probs]


def temperature(policy: Policy) -> Any:
    _, feed = feed_of(policy, "classify", labelled())
    found = calibrate(policy, feed, budget_tokens=512, packing=False)
    assert found is not None
    return [found.temperature, found.loss_before]


def likelihoods(policy: Policy) -> Any:
    score._proved.clear()
    found = predict_label_likelihood(policy, labelled(4), labels=LABELS)
    return [[p.label_probs[label] for label in LABELS] for p in found if p.label_probs]


def text_nats(policy: Policy) -> Any:
    return [p.nll for p in predict_text(policy, texts())]


def token_loss(policy: Policy) -> Any:
    method, feed = feed_of(policy, "sft", [
        identify(Conversation(messages=tuple(Message(**m) for m in r["messages"]))) for r in chat_rows(8)
    ])  # fmt: skip
    with torch.no_grad():
        found = method.measure(policy, feed.collate(list(range(5)), [[i] for i in range(5)]))
    return list(found.values())


def drawn(policy: Policy, **options: Any) -> Any:
    found = policy.generate([[3, 9, 7], [5, 30, 31, 8]], max_new_tokens=6, temperature=1.5, seed=1, **options)
    return [[*c.token_ids, c.logprob] for c in found]


@pytest.mark.parametrize(
    ("figure", "head"),
    [
        (head_outputs, True),
        (head_predictions, True),
        (temperature, True),
        (likelihoods, False),
        (text_nats, False),
        (token_loss, False),
        (drawn, False),
        (lambda policy: drawn(policy, top_k=5), False),
        (lambda policy: drawn(policy, top_p=0.8), False),
    ],
)
def test_a_figure_is_that_of_a_cpu(figure: Callable[[Policy], Any], head: bool) -> None:
    spec = HeadSpec(num_outputs=3, labels=LABELS) if head else None
    encoder = Encoder(tokenizer(), max_length=128, labels=LABELS)
    policy = build(from_model(llama(), tokenizer()), "none" if head else "lora", {}, head=spec, encoder=encoder, seed=0)
    policy.eval()
    if policy.head is not None:
        policy.head.temperature = 1.0
    wanted = figure(policy)
    policy.base.device = DEVICE
    with moved_to_it(policy.base.model, policy.head):
        found = figure(policy)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_stand_in_refuses_what_the_device_refuses() -> None:
    with pytest.raises(TypeError, match="float64"):
        away(torch.ones(2)).double()
    with pytest.raises(TypeError, match="cpu"):
        away(torch.ones(2)).numpy()
    assert away(torch.ones(2)).cpu().double().dtype == torch.float64


@pytest.mark.parametrize("name", ["mps", "xpu", "cuda"])
def test_every_accelerator_that_is_in_use_is_seeded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws from the device's own generator: a resume repeats a step only where that is seeded, too."""
    seen: list[int] = []
    where: Any = getattr(torch, name)
    state = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    monkeypatch.setattr(where, "manual_seed" if name == "mps" else "manual_seed_all", seen.append)
    if name == "mps":
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    else:
        monkeypatch.setattr(where, "is_initialized", lambda: True)
    for step in (1, 2, 1):
        loop.seed_everything(7, step, 0)
    assert len(seen) == 3 and seen[0] == seen[2] != seen[1]
    torch.random.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
