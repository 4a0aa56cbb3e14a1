"""The step `label_issues`: planted wrong labels are found, nothing goes unasked, and the list is private."""

from __future__ import annotations

import json
import random
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Labelled, Text, identify
from metier.data import review
from metier.data.dataset import build
from metier.data.steps import Around, label_issues
from metier.data.steps.label_issues import Options, issues

WORDS = {
    "fee": "fee charge cost price amount euro".split(),  # noqa: SIM905
    "card": "card lost stolen plastic chip swallowed".split(),  # noqa: SIM905
    "rate": "rate exchange currency convert abroad dollar".split(),  # noqa: SIM905
}
FILLER = "please can you tell me about my the a it is when where today why".split()  # noqa: SIM905


def rows(n: int, wrong: int = 0, seed: int = 0) -> tuple[list[dict[str, str]], set[int]]:
    """Return rows whose words tell their label, and which of them got another one."""
    draw = random.Random(seed)
    labels = list(WORDS)
    made = []
    for i in range(n):
        label = labels[i % 3]
        words = draw.sample(WORDS[label], 3) + draw.sample(FILLER, 5)
        draw.shuffle(words)
        made.append({"text": " ".join([*words, f"no {i}"]), "label": label})
    planted = set(draw.sample(range(n), wrong))
    for i in planted:
        made[i]["label"] = labels[(labels.index(made[i]["label"]) + 1) % 3]
    return made, planted


def examples(made: list[dict[str, str]]) -> list[Any]:
    return [identify(Labelled(text=r["text"], target=r["label"], place=f"a:{i}")) for i, r in enumerate(made)]


def test_confident_learning_by_hand() -> None:
    probability_NK = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.05, 0.95], [0.6, 0.4]])
    given_N = np.array([0, 0, 0, 1, 1, 1])
    # Means of a class on its own rows: (.9+.7+.2)/3 = .6 and (.9+.95+.4)/3 = .75.
    suggested_N, lead_N = issues(probability_NK, given_N)
    assert suggested_N.tolist() == [-1, -1, 1, -1, -1, 0]
    assert lead_N == pytest.approx([0, 0, 0.6, 0, 0, 0.2])


def test_planted_wrong_labels_head_the_list_and_nothing_is_dropped() -> None:
    made, planted = rows(300, wrong=15)
    result = label_issues.run(examples(made), Options(), Around())
    assert result.origins == list(range(300)) and result.dropped == []
    first = [int(row["place"].partition(":")[2]) for row in result.review[:15]]
    assert len(planted & set(first)) >= 14
    assert [row["ahead"] for row in result.review] == sorted((row["ahead"] for row in result.review), reverse=True)
    for row in result.review[:15]:
        i = int(row["place"].partition(":")[2])
        assert (row["label"], row["text"], row["split"], row["dropped"]) == (
            made[i]["label"],
            made[i]["text"],
            "train",
            False,
        )
        assert made[i]["text"].split()[0] and row["suggested"] != row["label"]
    assert result == label_issues.run(examples(made), Options(), Around())


def test_what_is_dropped_is_a_number_or_a_share_and_never_more_than_the_issues() -> None:
    made, planted = rows(300, wrong=15)
    given = examples(made)
    three = label_issues.run(given, Options(drop=3), Around())
    assert {given.index(e) for e in given if e not in three.examples} <= planted
    assert len(three.dropped) == 3 and sum(row["dropped"] for row in three.review) == 3
    assert len(label_issues.run(given, Options(drop=0.02), Around()).dropped) == 6
    every = label_issues.run(given, Options(drop=300), Around())
    assert len(every.dropped) == len(every.review) < 100


def test_held_out_rows_are_listed_and_never_dropped() -> None:
    made, _ = rows(300)
    test, planted = rows(30, wrong=3, seed=7)
    result = label_issues.run(examples(made), Options(drop=50), Around(held_out={"test": examples(test)}))
    listed = [row for row in result.review if row["split"] == "test"]
    assert {int(row["place"].partition(":")[2]) for row in listed} >= planted
    assert not any(row["dropped"] for row in listed)
    assert len(result.dropped) == sum(row["split"] == "train" for row in result.review)


def test_an_equal_text_in_another_fold_does_not_confirm_itself() -> None:
    made, _ = rows(150)
    twice = [*made, *({"text": f"{WORDS['fee'][0]} cost price", "label": "card"} for _ in range(4))]
    result = label_issues.run(examples(twice), Options(), Around())
    assert {f"a:{i}" for i in range(150, 154)} <= {row["place"] for row in result.review}


def test_rows_that_cannot_be_judged() -> None:
    rare = [*examples(rows(60)[0]), *examples([{"text": "something else", "label": "rare"}] * 2)]
    result = label_issues.run(rare, Options(drop=0.9), Around())
    assert "2 rows of labels with fewer than 5 rows not judged" in result.note
    assert {60, 61} <= set(result.origins)
    others: list[Any] = [
        identify(Text(text="a")),
        identify(Labelled(text="a", target=1.0)),
        identify(Labelled(text="a", target=("x", "y"))),
    ]
    untouched = label_issues.run(others * 10, Options(drop=9), Around())
    assert untouched.examples == others * 10 and untouched.review == []
    empty = [identify(Labelled(text=" ", target=t)) for t in "ab" * 20]
    assert label_issues.run(empty, Options(), Around()).origins == list(range(40))


def test_the_list_lies_under_private_and_the_manifest_holds_no_text(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", "test")
    made, _ = rows(300, wrong=12)
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    recipe = Recipe.build(
        {
            "name": "desk",
            "objective": {"task": "classify"},
            "data": {"sources": [{"path": "data/a.jsonl"}], "steps": ["label_issues"]},
            "method": "classify",
        }
    )
    version = build(recipe, project)
    facts = version.manifest["steps"][0]["review"]
    file = project.root / facts["file"]
    assert file.is_relative_to(project.private_dir) and stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = list(review.read(file))
    assert len(listed) == facts["rows"] >= 8
    manifest = json.dumps(version.manifest)
    assert not any(row["text"] in manifest for row in listed)
    assert sum(version.count(s) for s in ("train", "validation", "test")) == 300
    file.unlink()
    assert list(review.read(file)) == []
