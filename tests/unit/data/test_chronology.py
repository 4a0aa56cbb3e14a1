"""The division by time: train before validation before test, whatever the rows' order, ties and twins."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metier.core.errors import ConfigError, DataError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Labelled, Split, identify
from metier.data.chronology import assign, boundaries_of, proof, proof_again, side, times_of
from metier.data.dataset import Dataset, build
from metier.data.quarantine import listing
from metier.data.split import Previous

SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.2}


def dated(times: list[Any]) -> list[Labelled]:
    return [identify(Labelled(text=f"note {i * 7919}", target="x", meta={"day": t})) for i, t in enumerate(times)]


def alone(examples: list[Labelled]) -> np.ndarray:
    return np.arange(len(examples))


# ───────────────────────────────────────────────────────────────────────────── what a time is


def test_dates_times_and_zones_are_of_one_scale() -> None:
    values = [
        "2021-03-04",
        "2021-03-04T00:00:00Z",
        "2021-03-04 01:00:00+01:00",
        "20210304",
        "2021-03",
        "2021-03-04T00:00:00.000001",
    ]
    found = times_of(dated(values), "day")
    day = 1_614_816_000_000_000
    assert found.kind == "time" and not found.refused
    assert found.values == [day, day, day, day, day - 3 * 86_400_000_000, day + 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([2019, "2020", 2021.5], [2019, 2020, 2021.5]), (["1614816000", "1614816001.5"], [1614816000, 1614816001.5])],
)
def test_numbers_are_compared_as_numbers(values: list[Any], expected: list[float]) -> None:
    found = times_of(dated(values), "day")
    assert (found.kind, found.values) == ("number", expected)


def test_what_most_values_are_decides_and_the_others_are_refused_by_class() -> None:
    found = times_of(dated(["2021-03-04", "2021-03-05", "03/04/2021", "", None, 17, "soon", True]), "day")
    assert found.values == [1_614_816_000_000_000, 1_614_902_400_000_000, *[None] * 6]
    reasons = {row: reason for row, (reason, _) in found.refused.items()}
    assert reasons == {
        2: "unreadable-time",
        3: "no-time",
        4: "no-time",
        5: "unreadable-time",
        6: "unreadable-time",
        7: "unreadable-time",
    }
    assert not any("soon" in what or "03/04" in what for _, what in found.refused.values())
    said = [found.refused[row][1] for row in (2, 5, 6)]
    assert said[0] == said[2] == "`day` is neither a number nor a date or time of ISO 8601"
    assert said[1] == "`day` is a number here, and a date or time in most rows"
    strange = times_of(dated(["03/15/2021", "03/16/2021"]), "day").refused
    assert {what for _, what in strange.values()} == {said[0]}
    assert times_of(dated(["nan", "inf", 1e400, "7"]), "day").values == [None, None, None, 7]


# ───────────────────────────────────────────────────────────────────────────── who goes where


def test_train_lies_before_validation_and_that_before_test_in_any_order() -> None:
    times = [(i * 37) % 1000 for i in range(1000)]
    examples = dated(times)
    made, begins = assign(examples, alone(examples), times_of(examples, "day"), shares=SHARES)
    assert Counter(made) == {"train": 700, "validation": 100, "test": 200}
    assert begins == {"test": 800, "validation": 700}
    at = {split: [t for t, s in zip(times, made, strict=True) if s == split] for split in SPLITS}
    assert max(at["train"]) < min(at["validation"]) <= max(at["validation"]) < min(at["test"])


def test_rows_of_one_time_are_never_parted_and_the_nearest_share_wins() -> None:
    years = [2018] * 50 + [2019] * 25 + [2020] * 12 + [2021] * 13
    assert boundaries_of(years, {"test": 0.2}) == {"test": 2020}  # 25 is nearer to 20 than 13
    assert boundaries_of(years, {"test": 0.15}) == {"test": 2021}
    assert boundaries_of(years, {"test": 0.01, "validation": 0.01}) == {"test": 2021, "validation": 2020}
    assert boundaries_of(years, {"test": 0.9, "validation": 0.09}) == {"test": 2020, "validation": 2019}
    assert boundaries_of([7] * 5, {}) == {}
    for few, shares in (([7] * 50, {"test": 0.1}), ([7, 8] * 5, SHARES)):
        with pytest.raises(DataError) as caught:
            boundaries_of(few, shares, place="a.yaml:3")  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.place) == ("E324", "a.yaml:3")
        assert caught.value.received.startswith(f"{len(set(few))} among")


def test_a_group_goes_by_its_latest_row_so_that_train_never_knows_the_future() -> None:
    examples = dated(list(range(100)))
    groups = np.arange(100)
    groups[[3, 95]] = 3  # an old row and its twin of test's time
    groups[[5, 6]] = 5
    times = times_of(examples, "day")
    made, begins = assign(examples, groups, times, shares=SHARES)
    assert made[3] == made[95] == "test"
    assert made[5] == made[6] == "train"
    for group in set(groups.tolist()):
        assert len({made[row] for row in np.flatnonzero(groups == group)}) == 1
    facts = proof(times, [split or "train" for split in made], begins, column="day")
    assert (facts["late_rows"], facts["early_rows"]) == (0, 1)
    assert facts["ranges"]["test"][0] == 3 and facts["boundaries"]["test"] == begins["test"] > 70


def test_boundaries_of_an_earlier_version_stay_and_new_rows_fall_by_their_time() -> None:
    old = dated(list(range(100)))
    first, begins = assign(old, alone(old), times_of(old, "day"), shares=SHARES)
    by_id = {e.id: split for e, split in zip(old, first, strict=True) if split}
    previous = Previous("v1", by_id, {}, begins)
    added = [Labelled(text=f"new {i}", target="x", meta={"day": day}) for i, day in enumerate((0.5, 75, 150, 150))]
    everything = [*old, *map(identify, added)]
    groups = np.arange(len(everything))
    groups[103] = 0  # a new row of test's time that is alike to the first row of train
    groups[100] = 99  # an old one that is alike to the last row of test
    made, again = assign(everything, groups, times_of(everything, "day"), shares=SHARES, previous=previous)
    assert made[:100] == first and again == begins
    assert made[100:] == ["test", "validation", "test", None]


def test_an_earlier_version_that_was_divided_otherwise_draws_no_boundary() -> None:
    old = dated([f"2021-01-{d:02d}" for d in range(1, 29)])
    previous = Previous("v1", {old[0].id: "test"}, {}, {"test": 2021, "validation": 2020})
    made, _ = assign(old, alone(old), times_of(old, "day"), shares=SHARES, previous=previous)
    assert made[0] == "train"


def test_the_proof_counts_late_rows_of_given_splits() -> None:
    times = times_of(dated([1, 2, 9, 5, 6, None]), "day")
    facts = proof(times, ["train", "train", "train", "test", "test", "test"], {}, column="day")
    assert facts == {
        "column": "day",
        "ranges": {"train": [1, 9], "test": [5, 6]},
        "boundaries": {"test": 5},
        "late_rows": 1,
        "early_rows": 0,
        "undated_rows": 1,
    }


def test_after_an_erasure_no_time_of_a_row_that_went_is_left_in_the_proof() -> None:
    examples = dated([f"2021-01-{d:02d}" for d in range(1, 29)])
    times = times_of(examples, "day")
    made, begins = assign(examples, alone(examples), times, shares=SHARES)
    facts = proof(times, [split or "train" for split in made], begins, column="day")
    first_of_test = made.index("test")
    kept: dict[Split, list[Labelled]] = {
        split: [e for i, e in enumerate(examples) if made[i] == split and i not in (0, first_of_test)]
        for split in SPLITS
    }
    again = json.dumps(proof_again(facts, kept))
    assert "2021-01-01" in json.dumps(facts) and "2021-01-01" not in again
    gone = examples[first_of_test].meta["day"]
    assert gone in json.dumps(facts) and gone not in again
    assert side(times.values[first_of_test + 1] or 0, begins) == "test"
    assert proof_again(facts, kept)["late_rows"] == 0


# ───────────────────────────────────────────────────────────────────────────── a whole version


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project", "test")


def notes(n: int, start: int = 0) -> list[dict[str, Any]]:
    words = ("fee", "card", "rate", "limit", "refund", "branch", "letter", "cheque", "holiday", "phone", "wage")
    return [
        {
            "text": f"{words[i % 11]} {words[i // 11 % 11]} {i * 7919} {words[i // 3 % 11]} {words[i // 7 % 11]}",
            "label": words[i % 3],
            "client": f"c{i // 2}",
            "day": f"2021-{1 + i // 28 % 12:02d}-{1 + i % 28:02d}",
        }
        for i in range(start, start + n)
    ]


def made(project: Project, rows: list[dict[str, Any]], steps: tuple[Any, ...] = (), **split: Any) -> Dataset:
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"sources": [{"path": "data/a.jsonl"}], "split": {"time_by": "day", **split}, "steps": list(steps)}
    values = {"name": "x", "objective": {"task": "classify"}, "method": "classify", "data": data}
    return build(Recipe.build(values, file="recipe.yaml"), project)


def days(dataset: Dataset, split: Split) -> list[str]:
    return [str(example.meta["day"]) for example in dataset.examples(split)]


def test_the_manifest_of_a_version_proves_the_order(project: Project) -> None:
    dataset = made(project, notes(300), group_by="client")
    found = dataset.manifest["split_proof"]
    assert found["groups_on_both_sides"] == 0 and found["keys_on_both_sides"] == 0
    assert (found["time"]["late_rows"], found["time"]["undated_rows"]) == (0, 0)
    begins = {split: day[:10] for split, day in found["time"]["boundaries"].items()}
    early = sum(day < begins[split] for split in begins for day in days(dataset, split))  # type: ignore[arg-type]
    assert found["time"]["early_rows"] == early == 2  # of the clients who came on both sides of a boundary
    assert max(days(dataset, "train")) < begins["validation"] < begins["test"]
    assert found["time"]["ranges"]["train"][0] == "2021-01-01T00:00:00+00:00"
    assert sum(dataset.manifest["counts"].values()) == 300


def test_rows_without_a_time_go_to_quarantine_with_their_place(project: Project) -> None:
    rows = notes(100)
    rows[3]["day"], rows[7]["day"], rows[9]["day"] = None, "last spring", ""
    dataset = made(project, rows)
    assert sum(dataset.manifest["counts"].values()) == 97
    file = project.root / dataset.manifest["quarantine"]["file"]
    assert sorted(line for _, line in listing(file)) == [
        "a.jsonl:10 no-time day",
        "a.jsonl:4 no-time day",
        "a.jsonl:8 unreadable-time day",
    ]
    assert "spring" not in json.dumps(dataset.manifest)


def test_new_rows_do_not_move_the_boundaries(project: Project) -> None:
    first = made(project, notes(200))
    second = made(project, notes(300))
    assert second.version == "v2"
    for split in SPLITS:
        assert {e.id for e in first.examples(split)} <= {e.id for e in second.examples(split)}
    assert second.manifest["split_proof"]["time"]["boundaries"] == first.manifest["split_proof"]["time"]["boundaries"]
    assert second.manifest["split_proof"]["time"]["late_rows"] == 0
    assert second.count("train") == first.count("train")


def test_a_column_that_is_not_there_or_loses_its_order_is_refused_at_the_start(project: Project) -> None:
    with pytest.raises(ConfigError) as caught:
        made(project, notes(50), time_by="date")
    assert caught.value.code == "E248" and "data.split.time_by" in caught.value.what
    for action in ("drop", "DATE", "text"):
        with pytest.raises(ConfigError) as caught:
            made(project, notes(50), ({"kind": "deidentify", "columns": {"day": action}},))
        assert caught.value.code == "E214" and "data.split.time_by" in caught.value.what
    rows = [{**row, "day": f"{2019 + i // 20}-01-05"} for i, row in enumerate(notes(100))]
    dataset = made(project, rows, ({"kind": "deidentify", "columns": {"day": "year"}},))
    assert set(days(dataset, "test")) == {"2023"} and set(days(dataset, "validation")) == {"2022"}


def test_a_given_test_is_left_alone_and_its_late_rows_are_counted(project: Project) -> None:
    rows = notes(200)
    (project.root / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:150]))
    (project.root / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[100:]))
    sources = [{"path": "data/train.jsonl"}, {"path": "data/test.jsonl", "split": "test"}]
    data = {"sources": sources, "split": {"time_by": "day"}}
    dataset = build(
        Recipe.build({"name": "x", "objective": {"task": "classify"}, "method": "classify", "data": data}), project
    )
    assert dataset.count("test") == 100
    assert max(days(dataset, "train")) < min(days(dataset, "validation"))
    found = dataset.manifest["split_proof"]["time"]
    assert found["boundaries"]["test"][:10] == rows[100]["day"]
    assert found["late_rows"] == 50
