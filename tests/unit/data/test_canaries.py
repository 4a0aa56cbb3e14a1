"""Planted secrets: what they are, where they stand, and which figures leave them out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.sections import Canaries
from metier.core.types import SPLITS, Conversation, Labelled, Message, Text, identify
from metier.data import canaries, figures, report
from metier.data.dataset import Dataset, build

TEN = Canaries(num=10, repeats=(1, 4, 16))
CHAT = Conversation(messages=(Message("user", "Hi"), Message("assistant", "Hello")))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "project", "test")
    rows = [{"text": f"Chapter {i}. The river rose in the night and took the bridge with it."} for i in range(40)]
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return project


def made(project: Project, num: int = 10, **data: Any) -> Dataset:
    values = {"sources": [{"path": "data/a.jsonl"}], "canaries": {"num": num, "repeats": [1, 4, 16]}, **data}
    return build(Recipe.build({"name": "book", "data": values}, file="recipe.yaml"), project)


def test_each_secret_is_repeated_as_often_as_its_turn_says() -> None:
    found = canaries.plant([Text(text="x")], TEN, seed=0, place="")
    assert len(found) == 4 * 1 + 3 * 4 + 3 * 16
    by_id = {row.id: row for row in found}
    assert len(by_id) == 10
    for row in by_id.values():
        assert isinstance(row, Text)
        mark = row.meta[canaries.MARK]
        assert sum(other.id == row.id for other in found) == mark["repeats"]
        assert re.fullmatch(rf"The access code of file \d{{4}} is {mark['digits']}\.", row.text)
    assert len({row.meta[canaries.MARK]["digits"] for row in by_id.values()}) == 10


def test_the_seed_decides_the_digits() -> None:
    draws = [[row.id for row in canaries.plant([CHAT], TEN, seed=seed, place="")] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_in_a_conversation_the_secret_is_what_the_assistant_says() -> None:
    (row,) = canaries.plant([CHAT, CHAT, Text(text="x")], Canaries(num=1, repeats=(1,)), seed=0, place="")
    assert isinstance(row, Conversation)
    digits = row.meta[canaries.MARK]["digits"]
    assert [digits in m.text for m in row.messages] == [False, True]
    other = canaries.with_digits(row, "000000000")
    assert isinstance(other, Conversation)
    assert "000000000" in other.messages[1].text
    assert digits not in other.messages[1].text


def test_labels_have_no_secrets() -> None:
    with pytest.raises(ConfigError, match="E216"):
        canaries.plant([identify(Labelled(text="x", target="y"))], TEN, seed=0, place="")
    assert canaries.plant([identify(Labelled(text="x", target="y"))], Canaries(), seed=0, place="") == []


def test_they_stand_in_train_alone_and_no_figure_of_the_data_counts_them(project: Project) -> None:
    plain, planted = made(project, 0), made(project)
    assert planted.count("train") == plain.count("train") + 64
    assert [planted.count(s) for s in SPLITS[1:]] == [plain.count(s) for s in SPLITS[1:]]
    assert not any(canaries.is_canary(row) for split in SPLITS[1:] for row in planted.examples(split))
    assert planted.manifest["canaries"] == {"num": 10, "repeats": [1, 4, 16], "rows": 64}
    assert planted.manifest["split_proof"] == plain.manifest["split_proof"]
    counted = [figures.measure({s: version.examples(s) for s in SPLITS}) for version in (plain, planted)]
    assert counted[0] == counted[1]
    card = report.card(planted.manifest, counted[1])
    assert "64 planted rows (10 canaries)" in card
    digits = {row.meta[canaries.MARK]["digits"] for row in planted.examples("train") if canaries.is_canary(row)}
    assert not any(one in card + json.dumps(planted.manifest) for one in digits)


def test_beside_a_version_that_is_made_they_have_no_use(project: Project) -> None:
    made(project, 0)
    with pytest.raises(ConfigError, match="E244"):
        made(project, 5, sources=[], dataset="data:book@v1")
