"""The public data sets, read as they are."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Conversation
from metier.data.dataset import Dataset, build
from metier.data.rows import Row
from metier.data.source import read_rows


def prepared(tmp_path: Path, task: str, *sources: dict[str, Any], **data: Any) -> Dataset:
    values = {"name": "real", "objective": {"task": task}, "data": {"sources": list(sources), **data}}
    return build(Recipe.build(values), Project.create(tmp_path, "real"))


def test_banking77_keeps_its_test_and_counts_its_leaks(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "banking77"
    made = prepared(
        tmp_path,
        "classify",
        {"path": str(folder / "train.csv"), "split": "train"},
        {"path": str(folder / "test.csv"), "split": "test"},
    )
    assert made.count("train") + made.count("validation") == 10_003 and made.count("test") == 3_080
    assert made.count("validation") == 1_001
    assert len(made.labels) == 77
    proof = made.manifest["split_proof"]
    assert proof["leaks"] == {"exact": 25, "near": 50}  # 75 of 3,080 at 5-gram Jaccard 0.85, by brute force too
    assert proof["groups_on_both_sides"] == 0
    assert made.manifest["quarantine"]["rows"] == 0


@pytest.mark.parametrize(
    ("file", "rows", "name", "kind"),
    [
        ("alpaca_en_demo", 999, "alpaca", "conversation"),
        ("identity", 91, "alpaca", "conversation"),
        ("glaive_toolcall_en_demo", 300, "sharegpt", "conversation"),
        ("dpo_en_demo", 300, "preference", "preference"),
        ("kto_en_demo", 300, "rated", "rated"),
    ],
)
def test_llamafactory_rows_are_all_read(
    shared_data: Path, tmp_path: Path, file: str, rows: int, name: str, kind: str
) -> None:
    made = prepared(tmp_path, "chat", {"path": str(shared_data / "llamafactory_demo" / f"{file}.json")})
    assert sum(made.count(s) for s in SPLITS) == rows
    assert made.manifest["quarantine"]["rows"] == 0
    assert made.manifest["sources"][0]["format"] == name
    assert made.manifest["kinds"] == {kind: rows}
    if file.startswith("glaive"):
        examples = [e for e in made.examples("train") if isinstance(e, Conversation)]
        assert any(m.tool_calls for e in examples for m in e.messages)
        assert any(e.tools and "function" in e.tools[0] for e in examples)


def test_mts_dialog_with_map_and_prompt(shared_data: Path, tmp_path: Path) -> None:
    folder, columns = shared_data / "mts_dialog", {"prompt": "dialogue", "completion": "section_text"}
    made = prepared(
        tmp_path,
        "summarize",
        {"path": str(folder / "MTS-Dialog-TrainingSet.csv"), "split": "train", "map": columns},
        {"path": str(folder / "MTS-Dialog-ValidationSet.csv"), "split": "validation", "map": columns},
        {"path": str(folder / "MTS-Dialog-TestSet-1*.csv"), "split": "test", "map": columns},
        prompt={"user": "Summarize as {section_header}:\n{dialogue}"},
    )
    assert {s: made.count(s) for s in SPLITS} == {"train": 1201, "validation": 100, "test": 200}
    first = made.examples("train")[0]
    assert isinstance(first, Conversation)
    assert first.messages[0].text.startswith("Summarize as GENHX:\nDoctor: What brings you back")
    assert first.meta["section_header"] == "GENHX" and "section_text" not in first.meta


def test_gsm8k_questions_and_answers(shared_data: Path, tmp_path: Path) -> None:
    columns = {"prompt": "question", "completion": "answer"}
    made = prepared(
        tmp_path, "generate", {"path": str(shared_data / "gsm8k" / "test.jsonl"), "map": columns, "limit": 300}
    )
    assert {s: made.count(s) for s in SPLITS} == {"train": 240, "validation": 30, "test": 30}


def test_gutenberg_is_streamed(shared_data: Path) -> None:
    rows = list(itertools.islice(read_rows(shared_data / "gutenberg" / "train.parquet"), 3))
    assert [r.place for r in rows] == [f"train.parquet:{i}" for i in (1, 2, 3)]
    assert all(isinstance(r, Row) and len(r.value["text"]) > 10_000 for r in rows)


def test_transcripts_of_hh_rlhf(shared_data: Path, tmp_path: Path) -> None:
    made = prepared(tmp_path, "chat", {"path": str(shared_data / "hh_rlhf" / "test.jsonl.gz"), "limit": 1200})
    assert made.manifest["kinds"] == {"preference": 1200 - made.manifest["quarantine"]["rows"]}
    assert set(made.manifest["quarantine"]["reasons"]) <= {"empty-reply", "same-replies"}
