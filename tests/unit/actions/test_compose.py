"""What a run's first start decides, and what a later start, here or on another machine, takes over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metier.actions import compose, summary
from metier.actions.compose import Parts
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Labelled
from metier.data.batching import collate
from metier.models.base import from_model
from metier.models.heads import HeadSpec
from metier.models.policy import build
from metier.training import optim
from tiny import labelled_rows, tokenizer, write_model


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.create(tmp_path_factory.mktemp("compose") / "desk", "desk")
    write_model(made.root / "base")
    (made.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows(96)))
    return made


def recipe(**more: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "desk",
        "objective": {"task": "classify"},
        "data": {"sources": [{"path": "data/rows.jsonl"}], "split": {"validation": 0.2, "test": 0.2}},
        "model": {"name_or_path": "base"},
        "adapter": {"kind": "lora"},
        "method": {"kind": "classify"},
        "training": {"max_length": 64, "batch_size": 2},
    }
    return Recipe.build({**values, **{k: {**values.get(k, {}), **v} for k, v in more.items()}})


@pytest.fixture(scope="module")
def first(project: Project) -> Parts:
    return compose.compose(recipe(), project)


@pytest.fixture
def other_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a newer Metier, or another machine, would choose."""
    monkeypatch.setattr(optim, "learning_rate", lambda *_, **__: optim.Choice(0.5, "a newer rule"))
    monkeypatch.setattr(compose, "CPU_MICRO_BATCH_TOKENS", 77)
    monkeypatch.setattr(compose, "EVALUATIONS_PER_RUN", 3)


def decided(parts: Parts) -> tuple[float, int, int, int]:
    return parts.plan.peak_learning_rate, parts.plan.micro_batch_tokens, parts.every_steps, parts.save_steps


def test_a_later_start_takes_over_every_automatic_choice_with_its_first_reason(
    project: Project, first: Parts, other_rules: None
) -> None:
    pinned = json.loads(json.dumps(first.pinned))  # as environment.json keeps it
    again = compose.compose(recipe(), project, pinned=pinned)
    assert decided(again) == decided(first)
    assert again.pinned == first.pinned
    compose.remember(again, {"pinned": pinned, "choices": first.choices})
    assert again.choices == first.choices
    for name in ("learning_rate", "micro_batch_tokens", "every_steps", "save_steps"):
        assert " because " in first.choices[name] and "began with it" not in first.choices[name]


def test_what_was_not_pinned_is_chosen_anew(project: Project, first: Parts, other_rules: None) -> None:
    anew = compose.compose(recipe(), project, pinned=dict(first.base.choices))  # a run of an older Metier
    assert decided(anew) == (0.5, 77, anew.every_steps, anew.every_steps)
    assert anew.every_steps != first.every_steps


def test_an_execution_key_given_at_a_resume_wins_over_the_pin(project: Project, first: Parts) -> None:
    asked = recipe(training={"micro_batch_tokens": 640, "save_steps": 5, "num_threads": 1}, model={"device": "cpu"})
    parts = compose.compose(asked, project, pinned={**first.pinned, "threads": "2", "device": "cpu"})
    assert decided(parts) == (first.plan.peak_learning_rate, 640, first.every_steps, 5)
    assert parts.pinned["threads"] == "1"
    compose.remember(parts, {"pinned": first.pinned, "choices": first.choices})
    assert parts.choices["threads"] == "1 because the recipe says so"
    assert "save_steps" not in parts.choices and "micro_batch_tokens" not in parts.choices


def test_another_device_has_its_own_rule_for_the_micro_batch() -> None:
    pinned = {"device": "cuda", "micro_batch_tokens": "16384", "dtype": "bfloat16", "every_steps": "9"}
    assert compose._choices(recipe(model={"device": "cpu"}), pinned) == {"dtype": "bfloat16", "every_steps": "9"}
    assert compose._choices(recipe(model={"device": "cuda"}), pinned)["micro_batch_tokens"] == "16384"


# ───────────────────────────────────────────────────────────────────────────── another machine


@pytest.fixture
def only_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(there, "is_available", lambda: False)


@pytest.mark.parametrize("said", ["auto", "cuda", "mps"])
def test_a_run_that_began_on_a_gpu_is_used_on_a_cpu(said: str, only_a_cpu: None) -> None:
    pinned = {
        "device": "cuda", "threads": "64", "dtype": "bfloat16", "learning_rate": "0.01", "micro_batch_tokens": "16384",
    }  # fmt: skip
    made, kept = compose.for_inference(recipe(model={"device": said}), pinned)
    assert (made.model.device, kept) == ("auto", {"learning_rate": "0.01"})


def test_where_it_began_the_precision_stays_and_float32_stays_everywhere(only_a_cpu: None) -> None:
    _, kept = compose.for_inference(recipe(), {"device": "cpu", "threads": "2", "dtype": "bfloat16"})
    assert kept == {"dtype": "bfloat16"}
    _, kept = compose.for_inference(recipe(), {"device": "mps", "threads": "2", "dtype": "float32"})
    assert kept == {"dtype": "float32"}


def test_a_resume_on_a_machine_without_the_device_says_how_to_go_on(
    project: Project, first: Parts, only_a_cpu: None
) -> None:
    from metier.core.errors import MachineError

    with pytest.raises(MachineError, match="E410") as caught:
        compose.compose(recipe(), project, pinned={**first.pinned, "device": "cuda"})
    assert "model.device=cpu" in caught.value.fix
    assert compose.compose(
        recipe(model={"device": "cpu"}), project, pinned={**first.pinned, "device": "cuda"}
    ).policy.device == torch.device("cpu")


def test_the_chosen_checkpoint_of_a_seventh_digit_is_found(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-1000000").mkdir(parents=True)
    assert compose.checkpoint_of(tmp_path, "1000000").name == "step-1000000"


def test_rows_that_are_cut_are_named_per_split_also_from_the_cache(project: Project) -> None:
    short = recipe(training={"max_length": 12})
    first, again = (compose.compose(short, project) for _ in range(2))
    counts = first.dataset.manifest["counts"]
    notes = [note for note in first.notes if "training.max_length=12" in note]
    assert [note.partition(" rows cut")[0] for note in notes] == [
        f"train: {counts['train']}",
        f"validation: {counts['validation']}",
    ]
    place = next(first.dataset.iterate("validation")).place
    assert f": {place}, " in notes[1] and notes[1].endswith(f" and {counts['validation'] - 5} more")
    assert again.notes == first.notes and again.lengths == first.lengths
    found = summary.data_summary(again, "test")
    assert found.cut_rows == {"train": counts["train"], "validation": counts["validation"]}
    assert found.dropped_rows == {"train": 0, "validation": 0}


def test_rows_that_are_dropped_are_named_too(project: Project) -> None:
    alone = {"split": {"validation": 0, "test": 0}}
    half = compose.compose(recipe(data=alone), project).lengths.percentiles[50]
    parts = compose.compose(recipe(data=alone, training={"max_length": half, "truncation": "drop"}), project)
    found = summary.data_summary(parts, "test")
    lost = found.dropped_rows["train"]
    assert 0 < lost < parts.dataset.count("train") and len(parts.train) == parts.dataset.count("train") - lost
    assert found.dropped_rows["validation"] == 0 and not any(found.cut_rows.values())
    (note,) = [note for note in parts.notes if "dropped" in note]
    assert note.startswith(f"train: {lost} rows dropped ") and ": rows.jsonl:" in note


def test_a_context_window_below_max_length_is_named_as_what_cuts(project: Project) -> None:
    write_model(project.root / "narrow", max_position_embeddings=16)
    parts = compose.compose(recipe(model={"name_or_path": "narrow"}), project)
    assert any("rows cut at the base's 16 tokens: " in note for note in parts.notes)


# ───────────────────────────────────────────────────────────────────────────── the context window


@pytest.mark.parametrize(("max_length", "wanted"), [(512, 64), (65, 64), (64, 64), (40, 40)])
def test_an_encoder_that_counts_positions_behind_the_padding_cuts_where_its_table_ends(
    max_length: int, wanted: int, project: Project, first: Parts, tmp_path: Path
) -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=416, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    base = from_model(RobertaModel(config), tokenizer(), kind="encoder")
    long = recipe(training={"max_length": max_length})
    encoder = compose.encoder_of(long, project, first.dataset, base)
    assert encoder.max_length == wanted
    row = encoder.labelled(Labelled(text="the cat sat on the mat " * 40, target="card"))
    batch = collate([row], [[0]], pad_id=1)
    assert batch.tokens_BT.shape == (1, wanted)
    assert build(base, "none", {}, head=HeadSpec(num_outputs=2)).head_logits(batch).shape == (1, 2)
