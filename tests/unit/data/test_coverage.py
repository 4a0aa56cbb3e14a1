"""Gaps: what the data lacks for those that the recipe names, each with its number and a command."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from metier.core.recipe import Recipe
from metier.data import coverage

MADE: dict[str, Any] = {
    "counts": {"train": 900, "validation": 50, "test": 300},
    "split": {"made": ["test"], "test": 0.1},
}


def gaps(figures: dict[str, Any], **manifest: Any) -> list[dict[str, Any]]:
    return coverage.gaps({**MADE, **manifest}, figures)


def options(fix: str) -> Any:
    """Return the steps that a command prepares with."""
    return yaml.safe_load(shlex.split(fix)[-1].removeprefix("data.steps="))


def test_what_is_stated_is_the_objective_and_the_slices() -> None:
    recipe = Recipe.build(
        {"name": "a", "objective": {"task": "classify", "description": "Route"}, "evaluation": {"slices": ["region"]}}
    )
    assert coverage.stated(recipe) == {"task": "classify", "description": "Route", "slices": ["region"]}


def test_nothing_to_compare_with_is_no_gap() -> None:
    assert coverage.gaps({}, {}) == [] == gaps({})


def test_rare_labels_are_balanced_and_absent_ones_need_rows() -> None:
    labels = {"fee": {"train": 500, "test": 40}, "card": {"train": 9, "test": 4}}
    (gap,) = gaps({"labels": labels}, steps=[{"name": "clean", "options": {}}])
    assert gap["what"] == "1 of 2 labels have fewer than 10 training rows"
    assert (gap["count"], gap["names"]) == (1, ("card 9",))
    assert options(gap["fix"]) == ["clean", {"kind": "balance", "ratio": 10, "resample": "up"}]
    absent, unmeasured = gaps({"labels": {"fee": {"train": 500, "test": 40}, "card": {"validation": 4}}})
    assert absent["fix"] == "metier data add FILE --split train"
    assert unmeasured["what"] == "1 of 2 labels have no test row: no figure will speak of them"


def test_a_held_out_split_grows_by_a_file_where_it_is_given_and_by_its_share_where_it_is_made() -> None:
    labels = {"fee": {"train": 50}, "card": {"train": 50, "test": 3}}
    (made,) = gaps({"labels": labels})
    assert made["fix"] == "metier data prepare data.split.test=0.2"
    (given,) = gaps({"labels": labels}, split={"made": ["validation"], "test": 0.1})
    assert given["fix"] == "metier data add FILE --split test"
    assert gaps({"labels": labels}, counts={"train": 100}) == []  # nothing is measured where nothing is held out


def test_a_slice_needs_test_rows_for_a_figure_and_training_rows_to_be_learnt() -> None:
    values = {"de": {"train": 500, "test": 150}, "fr": {"train": 380, "test": 99}, "it": {"train": 20, "test": 100}}
    stated = {"slices": ["language"]}
    few, rare = gaps({"stated": stated, "columns": {"language": values}, "column_values": {"language": 3}})
    assert few["names"] == ("fr 99",) and "fewer than 100 test rows" in few["what"]
    assert rare["names"] == ("it 20",)  # an even share is 300
    assert options(rare["fix"]) == [
        {"kind": "balance", "by": "column", "column": "language", "ratio": 10, "resample": "up"}
    ]
    assert gaps({"stated": {"slices": []}, "columns": {"language": values}, "column_values": {"language": 3}}) == []


def test_a_slice_that_no_row_has_is_a_gap() -> None:
    (gap,) = gaps({"stated": {"slices": ["region", "age"]}, "columns": {}, "column_values": {"age": None}})
    assert (gap["what"], gap["names"]) == ("1 of 2 columns of evaluation.slices stand in no row", ("region",))
    assert gap["fix"].startswith("metier data prepare 'evaluation.slices=[age]'")


def test_languages_that_are_kept_but_hardly_there() -> None:
    steps = [{"name": "filter_language", "options": {"languages": ["en", "de"]}}]
    (gap,) = gaps({"languages": {"rows": {"en": 96, "de": 4}}}, steps=steps)
    assert (gap["count"], gap["names"]) == (1, ("de 4 of 100",))
    assert gaps({"languages": {"rows": {"en": 95, "de": 5}}}, steps=steps) == []
    assert gaps({"languages": {"rows": {"en": 29}}}, steps=steps) == []  # too few to say so


def test_topics_of_test_that_train_lacks_and_the_other_way_round() -> None:
    topics = [
        {"keywords": ["fee", "charge", "cost", "pay"], "rows": {"train": 800, "test": 80}},
        {"keywords": [], "rows": {"train": 5, "test": 20}},
        {"keywords": ["pin"], "rows": {"train": 195, "test": 0}},
        {"keywords": ["atm"], "rows": {"train": 0, "test": 9}},
    ]
    unlearnt, unmeasured = gaps({"topics": {"topics": topics}})
    assert unlearnt["names"] == ("a topic without a word that may be shown",)
    assert unmeasured["names"] == ("pin",) and unmeasured["count"] == 1


def test_many_names_are_cut_and_counted() -> None:
    (gap,) = gaps({"labels": {f"label {n}": {"train": n % 10 or 1, "test": 1} for n in range(9)}})
    assert gap["count"] == 9 and len(gap["names"]) == 6 and gap["names"][-1] == "…"
