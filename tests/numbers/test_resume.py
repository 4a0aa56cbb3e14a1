"""Exact resume: an interrupted run ends in the same bits as an unbroken one (pitfall 12)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from contract.test_methods import parts
from metier.core.sections import Training
from metier.training import checkpoint, loop

CASES = [
    ("sft", "full", {}),
    ("cpt", "full", {"optimizer": "muon"}),
    ("sft", "lora", {"r": 4, "lora_dropout": 0.2}),
    ("cpt", "layers", {"num_layers": 1}),
    ("classify", "lora", {"r": 4}),
    ("classify", "none", {}),
    ("classify", "full", {"tie_word_embeddings": False}),
    ("sft", "full", {"tie_word_embeddings": False}),
]


def plan_for(packing: bool, optimizer: str) -> loop.Plan:
    training = Training(batch_size=5, packing=packing, seed=3, optimizer=optimizer)
    return loop.Plan(
        steps=9, peak_learning_rate=3e-3, warmup_steps=2, micro_batch_tokens=90, training=training, head_multiplier=3.0
    )


def sha(policy) -> str:  # type: ignore[no-untyped-def]
    digest = hashlib.sha256()
    for name, parameter in policy.trained().items():
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def advance(kind, adapter, options, packing, folder: Path | None, stop_at: int, resume: bool):  # type: ignore[no-untyped-def]
    options = dict(options)
    plan = plan_for(packing, options.pop("optimizer", "adamw"))
    model = {"tie_word_embeddings": options.pop("tie_word_embeddings", True)}
    method, feed, policy = parts(kind, adapter, options, seed=1, **model)
    state = loop.start(policy, plan)
    if resume:
        assert folder is not None
        # A fresh process draws other random numbers before it gets here: that must not matter.
        torch.manual_seed(999)
        path, _ = checkpoint.newest(folder)
        assert path is not None
        checkpoint.restore(path, policy, state)
    losses = []
    for info in loop.train(policy, method, lengths=feed.lengths, collate=feed.collate, plan=plan, state=state):
        losses.append(info.loss)
        if info.step == stop_at:
            break
    if folder is not None and not resume:
        checkpoint.save(folder, policy, state, digests={}, figures={})
    return policy, state, losses


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind,adapter,options", CASES)
def test_an_interrupted_run_ends_in_the_same_bits(
    kind: str, adapter: str, options: dict, packing: bool, tmp_path: Path
) -> None:  # type: ignore[type-arg]
    unbroken, whole, losses = advance(kind, adapter, options, packing, None, 9, False)
    _, _, first = advance(kind, adapter, options, packing, tmp_path, 4, False)
    resumed, state, second = advance(kind, adapter, options, packing, tmp_path, 9, True)
    assert first + second == losses
    assert sha(resumed) == sha(unbroken)
    assert (state.step, state.tokens, state.examples) == (whole.step, whole.tokens, whole.examples)
    theirs = state.optimizer.state()
    for name, fields in whole.optimizer.state().items():
        assert fields and fields.keys() == theirs[name].keys()
        assert all(torch.equal(value, theirs[name][field]) for field, value in fields.items())


def test_same_seed_same_bits_and_another_seed_other_bits() -> None:
    one, _, _ = advance("sft", "lora", {"r": 4, "lora_dropout": 0.2}, True, None, 9, False)
    two, _, _ = advance("sft", "lora", {"r": 4, "lora_dropout": 0.2}, True, None, 9, False)
    assert sha(one) == sha(two)
