"""What is refused before a run exists, or before its first step: what needs no training to be seen wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metier.actions import train
from metier.core.errors import ConfigError, DataError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Conversation, Labelled, Message


def recipe(method: Any, task: str, metrics: Any = "auto", adapter: str = "lora", **targets: str) -> Recipe:
    values = {"name": "x", "method": method, "adapter": adapter, "objective": {"task": task, "targets": targets}}
    return Recipe.build({**values, "evaluation": {"metrics": metrics}})


def refused(made: Recipe) -> ConfigError:
    with pytest.raises(ConfigError, match="E276") as caught:
        train.check_kinds(made)
    return caught.value


@pytest.mark.parametrize(
    ("method", "task", "name"),
    [
        ("classify", "classify", "rouge"),
        ("classify", "classify", "perplexity"),
        ("classify", "classify", "stopped"),
        ({"kind": "classify", "problem_type": "multi_label"}, "classify", "exact_match"),
        ({"kind": "classify", "problem_type": "regression"}, "classify", "f1:average=micro"),
        ({"kind": "classify", "problem_type": "single_label"}, "classify", "mae"),
        ("sft", "chat", "ece"),
        ("sft", "summarize", "spearman"),
        ("cpt", "continue", "accuracy"),
        ("cpt", "chat", "exact_match"),
    ],
)
def test_a_metric_or_target_that_can_have_no_figure_is_refused(method: Any, task: str, name: str) -> None:
    error = refused(recipe(method, task, metrics=[name]))
    assert f"`{name}`" in error.what
    assert name.partition(":")[0] not in error.expected.split(", ")
    assert refused(recipe(method, task, **{f"gain_over_base.{name}": ">= 0"})).what == error.what


@pytest.mark.parametrize(
    ("method", "task", "names"),
    [
        ("classify", "classify", ["accuracy", "f1:average=micro", "ece", "brier", "mae", "exact_match"]),
        ("sft", "classify", ["accuracy", "ece", "rouge", "perplexity"]),
        ("sft", "chat", ["accuracy", "rouge", "bits_per_byte", "last_number", "regex_match:pattern=^a"]),
        ("cpt", "chat", ["perplexity", "bits_per_byte"]),
    ],
)
def test_what_may_have_a_figure_passes(method: str, task: str, names: list[str]) -> None:
    train.check_kinds(recipe(method, task, metrics=names, **dict.fromkeys(names, ">= 0")))


@pytest.mark.parametrize(
    ("method", "kind", "problem_type", "good", "bad"),
    [
        ("classify", "labelled", "single_label", "accuracy", "mae"),
        ("classify", "labelled", "regression", "mae", "accuracy"),
        ("sft", "labelled", "single_label", "ece", "rouge"),
        ("sft", "conversation", None, "rouge", "ece"),
    ],
)
def test_the_rows_say_which_figures_there_are(method: str, kind: str, problem_type: Any, good: str, bad: str) -> None:
    dataset: Any = SimpleNamespace(manifest={"kinds": {kind: 9}, "problem_type": problem_type}, count=lambda _: 3)
    train.check_figures(recipe(method, "classify", metrics=[good]), dataset)
    train.check_figures(recipe(method, "classify"), dataset)
    made = recipe(method, "classify", metrics=[bad])
    train.check_kinds(made)  # without the rows nobody knows
    with pytest.raises(ConfigError, match=f"E276 `{bad}`"):
        train.check_figures(made, dataset)


def test_a_place_is_the_line_of_the_metric_or_the_target() -> None:
    text = "name: x\nmethod: classify\nobjective:\n  task: classify\n  targets:\n    bleu: '> 1'\n"
    assert train_place(text) == "r.yaml:6"
    metrics = "evaluation:\n  metrics:\n  - accuracy\n  - bleu\n"
    assert train_place(text[: text.index("  targets")] + metrics) == "r.yaml:8"


def train_place(text: str) -> str:
    return refused(Recipe.parse(text, file="r.yaml")).place


def test_a_revision_of_what_has_none_is_refused(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    (tmp_path / "base").mkdir()
    for name in ("metier/nano", "base", "file:base", str(tmp_path / "base")):
        made = Recipe.parse(f"name: x\nmodel:\n  name_or_path: {name}\n  revision: main\n", file="r.yaml")
        with pytest.raises(ConfigError, match="E277") as caught:
            train.check_recipe(made, project)
        assert caught.value.place == "r.yaml:4"
    hub = Recipe.build({"name": "x", "model": {"name_or_path": "org/name", "revision": "main"}})
    train.check_recipe(hub, project)


def test_rows_of_which_none_are_held_out_are_refused_before_hours_of_training() -> None:
    counts = {"train": 9, "validation": 0, "test": 0}
    dataset: Any = SimpleNamespace(manifest={"kinds": {"labelled": 9}, "problem_type": "single_label"})
    dataset.count = counts.__getitem__
    with pytest.raises(DataError) as caught:
        train.check_figures(recipe("classify", "classify"), dataset)
    assert caught.value.code == "E326" and "train 9" in caught.value.received
    counts["validation"] = 1
    train.check_figures(recipe("classify", "classify"), dataset)


@pytest.mark.parametrize(("test", "refused"), [("both", True), ("conversations", False), ("labels", False)])
def test_rows_without_a_single_right_answer_are_refused_before_hours_of_training(test: str, refused: bool) -> None:
    talk = Conversation(messages=(Message("user", "q"), Message("assistant", "a")))
    label = Labelled(text="t", target="a")
    rows = {"both": [talk, label], "conversations": [talk], "labels": [label]}[test]
    manifest = {"kinds": {"labelled": 9, "conversation": 9}, "problem_type": "single_label"}
    dataset: Any = SimpleNamespace(manifest=manifest, count=lambda _: 2, iterate=lambda split: iter(rows))
    if not refused:
        train.check_figures(recipe("sft", "classify"), dataset)
        return
    with pytest.raises(DataError) as caught:
        train.check_figures(recipe("sft", "classify"), dataset)
    assert (caught.value.code, caught.value.received) == ("E361", "conversation, labelled in test")


@pytest.mark.parametrize("method", ["sft", "cpt"])
def test_a_frozen_base_without_a_head_has_nothing_to_train(method: str) -> None:
    frozen = recipe(method, "chat", adapter="none")
    with pytest.raises(ConfigError) as caught:
        train.check_kinds(frozen)
    assert caught.value.code == "E219" and "none" not in caught.value.expected.split("; ")
    train.check_kinds(recipe("classify", "classify", adapter="none"))


def test_labels_under_a_task_that_writes_them_out_are_refused_with_both_ways_on() -> None:
    rows = {"data": {"sources": [{"path": "rows.csv"}]}}
    written = Recipe.build({**recipe("classify", "extract").to_data(), **rows})
    with pytest.raises(ConfigError) as caught:
        train.check_kinds(written)
    assert caught.value.code == "E218" and "objective.task=classify" in caught.value.fix
    train.check_kinds(Recipe.build({**recipe("sft", "extract").to_data(), **rows}))
