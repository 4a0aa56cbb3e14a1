"""The step `label_issues`: planted wrong labels are found, nothing goes unasked, and the list is private."""

from __future__ import annotations

import json
import random
import stat
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Labelled, Text, identify
from metier.data import review
from metier.data.dataset import build
from metier.data.steps import Around, label_issues
from metier.data.steps.label_issues import Ahead, Options

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


def plainly(
    probability_NK: NDArray[np.float64], given_N: NDArray[np.int64], num_judged: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the issues and their leads by the definition, of all probabilities at once."""
    own_N = probability_NK[np.arange(len(given_N)), given_N]
    num_labels = probability_NK.shape[1]
    sums_K = np.bincount(given_N[:num_judged], weights=own_N[:num_judged], minlength=num_labels)
    threshold_K = sums_K / np.maximum(np.bincount(given_N[:num_judged], minlength=num_labels), 1)
    confident_NK = np.where(probability_NK >= threshold_K, probability_NK, -1.0)
    suggested_N = confident_NK.argmax(axis=1)
    lead_N = probability_NK[np.arange(len(given_N)), suggested_N] - own_N
    wrong_N = (confident_NK.max(axis=1) > 0) & (suggested_N != given_N) & (lead_N > 0)
    return np.where(wrong_N, suggested_N, -1), np.where(wrong_N, lead_N, 0.0)


def test_confident_learning_by_hand() -> None:
    probability_NK = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.05, 0.95], [0.6, 0.4]])
    given_N = np.array([0, 0, 0, 1, 1, 1])
    found = Ahead(given_N, 2)
    found.add(np.arange(6), probability_NK)
    # Means of a class on its own rows: (.9+.7+.2)/3 = .6 and (.9+.95+.4)/3 = .75.
    assert found.thresholds(6) == pytest.approx([0.6, 0.75])
    for suggested_N, lead_N in (found.issues(found.thresholds(6)), plainly(probability_NK, given_N, 6)):
        assert suggested_N.tolist() == [-1, -1, 1, -1, -1, 0]
        assert lead_N == pytest.approx([0, 0, 0.6, 0, 0, 0.2])


@pytest.mark.parametrize("most", [1, 2, 16])
def test_what_is_kept_of_the_probabilities_says_the_same_as_all_of_them(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_issues, "MAX_AHEAD", most)
    draw = np.random.default_rng(most)
    num_again = num_issues = 0
    for _ in range(300):
        num_rows, num_labels = int(draw.integers(2, 40)), int(draw.integers(2, 30))
        probability_NK = draw.dirichlet(draw.choice([0.05, 0.3, 3.0], size=num_labels), size=num_rows)
        if draw.random() < 0.5:
            probability_NK = probability_NK.round(1)  # many that are equal, and zeros
        given_N = draw.integers(0, num_labels, size=num_rows)
        num_judged = int(draw.integers(1, num_rows + 1))
        found = Ahead(given_N, num_labels)
        order = draw.permutation(num_rows)
        for rows_B in np.array_split(order, int(draw.integers(1, 5))):
            found.add(rows_B, probability_NK[rows_B])
        threshold_K = found.thresholds(num_judged)
        again = found.undecided(threshold_K)
        found.add(again, probability_NK[again], threshold_K)
        suggested_N, lead_N = plainly(probability_NK, given_N, num_judged)
        assert [part.tolist() for part in found.issues(threshold_K)] == [suggested_N.tolist(), lead_N.tolist()]
        num_again += len(again)
        num_issues += int((suggested_N >= 0).sum())
    assert num_issues > 500
    assert num_again > 20 or most == 16


def test_blocks_and_rows_that_are_asked_again_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    made = [{"text": " ".join(draw.choices("abcdefghijkl", k=4)), "label": draw.choice("abcdefgh")} for _ in range(160)]
    test = [{"text": " ".join(draw.choices("abcdefghijkl", k=4)), "label": draw.choice("abcdefgh")} for _ in range(40)]
    around = Around(held_out={"test": examples(test)})
    told: list[tuple[list[int], NDArray[np.float64]]] = []

    class Watched(Ahead):
        def add(self, rows_B: Any, probability_BK: Any, threshold_K: Any = None) -> None:
            told.append((rows_B.tolist(), probability_BK.copy()))
            super().add(rows_B, probability_BK, threshold_K)

    monkeypatch.setattr(label_issues, "Ahead", Watched)
    whole = label_issues.run(examples(made), Options(), around)
    assert sorted(row for rows_B, _ in told for row in rows_B) == list(range(200)) and len(told) == 6
    probability_NK = np.zeros((200, 8))
    for rows_B, probability_BK in told:
        probability_NK[rows_B] = probability_BK
    given_N = np.array(["abcdefgh".index(row["label"]) for row in [*made, *test]])
    suggested_N, lead_N = plainly(probability_NK, given_N, 160)
    assert len(whole.review) == (suggested_N >= 0).sum() > 50
    for row in whole.review:
        index = int(row["place"].partition(":")[2]) + 160 * (row["split"] == "test")
        assert row["suggested"] == "abcdefgh"[suggested_N[index]] and row["ahead"] == round(lead_N[index], 3)
    told.clear()
    monkeypatch.setattr(label_issues, "BLOCK_NUMBERS", 8 * 7)
    monkeypatch.setattr(label_issues, "MAX_AHEAD", 1)
    assert label_issues.run(examples(made), Options(), around) == whole
    assert max(len(rows_B) for rows_B, _ in told) == 7
    assert sum(len(rows_B) for rows_B, _ in told) > 200  # some rows were asked again


def test_many_labels_take_no_memory_for_each_row_and_label(monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows, num_labels = 20_000, 200

    class Guess:
        """A model that is sure of every text, and of its label but for every forty-ninth."""

        classes_ = np.arange(num_labels)

        def predict_proba(self, texts: Iterable[str]) -> NDArray[np.float64]:
            numbers = np.array([int(text) for text in texts])
            probability_BK = np.tile(np.linspace(0.001, 0.002, num_labels), (len(numbers), 1))
            probability_BK[np.arange(len(numbers)), (numbers + (numbers % 49 == 0)) % num_labels] = 0.7
            return probability_BK

    monkeypatch.setattr(label_issues, "_fitted", lambda texts, targets: Guess())
    given = [Labelled(text=str(i), target=f"{i % num_labels:03}", place=f"a:{i}") for i in range(num_rows)]
    tracemalloc.start()
    result = label_issues.run(given, Options(), Around())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {row["place"] for row in result.review} == {f"a:{i}" for i in range(0, num_rows, 49)}
    assert peak_bytes < num_rows * num_labels * 8 * 0.7


def test_of_a_row_few_classes_are_kept_whatever_the_probabilities() -> None:
    draw = np.random.default_rng(0)
    found = Ahead(draw.integers(0, 200, size=5_000), 200)
    tracemalloc.start()
    for start in range(0, 5_000, 500):
        found.add(np.arange(start, start + 500), draw.random((500, 200)))
    kept_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept_bytes < 5_000 * 16 * 17  # of 200 × 8 bytes a row


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
