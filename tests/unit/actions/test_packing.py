"""Packing is what the recipe asks for and the run's own rows allow; everything reads it from one place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.actions import packing
from metier.actions.ahead import look_ahead
from metier.actions.compose import Parts, _choices, compose, for_inference, remember
from metier.actions.plan import plan_parts
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.training import loop
from tiny import chat_rows, tokenizer, write_model

LEAKING = "metier.models.policy.row_lengths"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.create(tmp_path_factory.mktemp("packing") / "desk", "desk")
    write_model(made.root / "base")
    write_bloom(made.root / "bloom")
    (made.root / "chat.jsonl").write_text("\n".join(map(json.dumps, chat_rows(60))))
    return made


def write_bloom(folder: Path) -> None:
    """A family that keeps its own attention."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=416, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def recipe(base: str = "base", *, dtype: str = "float32", **training: Any) -> Recipe:
    return Recipe.build(
        {
            "name": "desk",
            "data": {"sources": [{"path": "chat.jsonl"}]},
            "model": {"name_or_path": base, "dtype": dtype},
            "adapter": {"kind": "full"},
            "training": {"max_length": 64, "batch_size": 8, "max_steps": 4, **training},
        }
    )


def whole_rows(segments_BT: Any) -> list[list[int]]:
    """Segment lengths by which packed rows see each other."""
    return [[segments_BT.shape[1]]] * len(segments_BT)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "packed_gap", lambda *_: pytest.fail("it was settled without a proof"))


def packs(parts: Parts) -> bool:
    return look_ahead(parts).largest.packed


def test_rows_that_come_out_the_same_are_packed(project: Project) -> None:
    parts = compose(recipe(), project)
    assert parts.plan.training.packing and packs(parts)
    assert parts.choices["packing"].startswith(
        "on because the hidden states of 16 of the run's own rows, packed, differ"
    )
    assert parts.pinned["packing"] == "on"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_see_each_other_are_not_packed_and_the_run_says_why(
    project: Project, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LEAKING, whole_rows)
    parts = compose(recipe(dtype=dtype), project)
    assert parts.recipe.training.packing and not parts.plan.training.packing and not packs(parts)
    assert parts.choices["packing"].startswith(
        "off because the hidden states of 16 of the run's own rows, packed, differ"
    )
    assert parts.pinned["packing"] == "off"


def test_a_family_without_packing_pads_to_its_neighbours_and_not_to_the_longest_row(
    project: Project, unproved: None
) -> None:
    parts = compose(recipe("bloom"), project)
    assert parts.choices["packing"] == "off because the family's attention cannot keep packed rows apart"
    assert plan_parts(parts).padding < 0.2
    steps = loop.train(
        parts.policy, parts.method, lengths=parts.train.lengths, collate=parts.train.collate, plan=parts.plan,
        state=loop.start(parts.policy, parts.plan),
    )  # fmt: skip
    info = next(steps)
    assert info.slots < 1.25 * info.tokens
    packed = replace(parts.plan, training=parts.plan.training.model_copy(update={"packing": True}))
    assert look_ahead(replace(parts, plan=packed)).largest.packed, "it would have been"


def test_what_a_first_start_found_is_not_asked_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LEAKING, whole_rows)
        first = compose(recipe(), project)
    monkeypatch.setattr(packing, "packed_gap", lambda *_: pytest.fail("asked again"))
    again = compose(recipe(), project, pinned=json.loads(json.dumps(first.pinned)))
    assert not again.plan.training.packing and again.pinned == first.pinned
    remember(again, {"choices": first.choices})
    assert again.choices["packing"] == first.choices["packing"]


def test_what_the_recipe_says_is_not_pinned_so_that_a_resume_may_say_otherwise(
    project: Project, unproved: None
) -> None:
    off = compose(recipe(packing=False), project)
    assert off.choices["packing"] == "off because the recipe says so"
    assert "packing" not in off.pinned and not packs(off)
    on_before = {"packing": "on"}
    assert not compose(recipe(packing=False), project, pinned=on_before).plan.training.packing
    assert compose(recipe(), project, pinned=on_before).plan.training.packing


def test_another_device_proves_it_anew() -> None:
    pinned = {"device": "cuda", "packing": "off", "micro_batch_tokens": "16384"}
    asked = recipe().with_values({"model.device": "cpu"})
    assert "packing" not in _choices(asked, pinned)
    assert "packing" not in for_inference(asked, pinned)[1]
    assert _choices(asked, {**pinned, "device": "cpu"})["packing"] == "off"


@pytest.mark.parametrize(
    ("lengths", "tokens", "taken"),
    [
        ([4, 9, 2], 4096, [9, 4, 2]),  # the longest comes first
        ([4, 9, 2], 6, [6, 3]),  # a pass is as long as the longest row, and no longer
        ([3000, 3000, 5], 4096, [1024, 512]),  # a second row stands beside the longest
        ([1] * 40, 4096, [1] * 16),
        ([7], 4096, None),
    ],
)
def test_the_probe_holds_the_longest_row_and_is_no_larger_than_a_pass(
    lengths: list[int], tokens: int, taken: list[int] | None
) -> None:
    from metier.data.encoded import Encoded
    from metier.training.feed import Feed

    items = [Encoded(str(i), np.full(n, i, np.int32), np.zeros(n, np.float32), 0) for i, n in enumerate(lengths)]
    batch = packing._probe(Feed(items, np.array(lengths), None, 0), tokens)
    if taken is None:
        assert batch is None
    else:
        assert batch is not None and np.bincount(batch.segments_BT[0])[1:].tolist() == taken
        assert batch.tokens_BT.size == sum(taken)
