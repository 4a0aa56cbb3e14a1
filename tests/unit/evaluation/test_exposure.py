"""Exposure of planted secrets: a model that learned one by heart, and one that knows nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metier.core.sections import Canaries
from metier.core.types import Text
from metier.data.batching import collate
from metier.data.canaries import MARK, plant
from metier.data.template import Encoder
from metier.evaluation import exposure
from metier.models.base import from_model
from metier.models.policy import Policy, build
from tiny import llama, tokenizer

SECRETS = plant([Text(text="x")], Canaries(num=4, repeats=(1, 16)), seed=3, place="")
ONCE = list({row.id: row for row in SECRETS}.values())


def policy() -> Policy:
    torch.manual_seed(0)
    return build(from_model(llama(), tokenizer()), "full", {}, encoder=Encoder(tokenizer(), max_length=64), seed=0)


def probed(asked: Policy, rows: list[Any], head: Any = None) -> Any:
    shown = SimpleNamespace(base=asked.base, head=head) if head else asked
    given: Any = SimpleNamespace(policy=shown, canaries=rows, seed=0, progress=lambda *_: None)
    return exposure.probe(given)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "ALTERNATIVES", 63)


def test_a_model_that_knows_nothing_has_no_certain_secret_and_one_trained_on_one_has_it() -> None:
    asked = policy()
    before, _ = probed(asked, ONCE)
    assert [(row.repeats, row.canaries) for row in before] == [(1, 2), (16, 2)]
    assert all(0 <= row.mean <= row.largest <= 6 for row in before)
    assert sum(row.known for row in before) < 4
    learned = ONCE[1]
    batch = collate(asked.encoder.text(learned), [[0]], pad_id=asked.encoder.pad_id)
    tokens_T = torch.from_numpy(batch.tokens_BT[0]).long()
    optimizer = torch.optim.Adam(asked.trained().values(), lr=0.01)
    asked.train()
    for _ in range(40):
        optimizer.zero_grad()
        logits_TV = asked.own_logits(batch)[0, :-1]
        torch.nn.functional.cross_entropy(logits_TV, tokens_T[1:]).backward()
        optimizer.step()
    (after,), note = probed(asked, [learned])
    assert (after.repeats, after.known, after.mean, after.largest) == (16, 1, 6.0, 6.0)
    assert note.startswith("1 of 1 planted secrets")
    assert str(learned.meta[MARK]["digits"]) not in note


def test_a_tie_counts_against_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exposure, "predict_text", lambda policy, rows, progress: [SimpleNamespace(nll=1.0) for _ in rows]
    )
    rows, _ = probed(policy(), ONCE)
    assert [(row.mean, row.known) for row in rows] == [(0.0, 0), (0.0, 0)]


def test_nothing_is_measured_where_nothing_was_planted_or_nothing_is_written() -> None:
    assert probed(policy(), []) == ([], "")
    rows, note = probed(policy(), ONCE, head=object())
    assert rows == []
    assert "does not write" in note
