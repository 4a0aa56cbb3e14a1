"""The data card and the data report: counts that are right, what is missing, nothing of a row's text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from metier.core.types import Conversation, Example, Labelled, Message
from metier.data import figures as counting
from metier.data import report

HOSTILE = "<script>alert(1)</script>\x00\u202e"
SPLITS: dict[str, list[Example]] = {
    "train": [
        Labelled(
            text="x" * n, target="rare" if n == 7 else "common", meta={"language": "de" if n % 3 else "en", "n": n}
        )
        for n in range(100)
    ],
    "validation": [],
    "test": [Labelled(text="SECRET patient text", target=("common", "rare")) for _ in range(30)],
}
MANIFEST: dict[str, Any] = {
    "name": "support",
    "version": "v3",
    "created": "2026-08-01T09:30:00.000Z",
    "digest": "9f" * 32,
    "counts": {"train": 100, "validation": 0, "test": 30},
    "kinds": {"labelled": 130},
    "sources": [
        {"path": "/home/me/a.csv", "rows": 100, "format": "labelled", "reason": "has `text`", "sha256": "ab" * 32,
         "permission": {"license": "CC-BY-4.0", "basis": None, "personal_data": True}},
        {"path": HOSTILE, "rows": 30, "permission": None},
    ],
    "steps": [{"name": "clean", "rows_in": 131, "rows_out": 130, "note": HOSTILE}],
    "quarantine": {"reasons": {"empty-text": {"count": 1200, "first": "a.csv:12", "field": "text", "what": "no text"}}},
    "split_proof": {"groups_on_both_sides": 0, "leaks": {"exact": 2, "near": 3}, "leaking_ids": ["deadbeef"]},
    "prompt": {"user": "Classify {text}", "system": None},
    "parents": [],
}  # fmt: skip


def test_measure_counts_labels_columns_and_lengths() -> None:
    figures = counting.measure(SPLITS)
    assert figures["labels"] == {"common": {"train": 99, "test": 30}, "rare": {"train": 1, "test": 30}}
    assert figures["columns"] == {"language": {"de": {"train": 66}, "en": {"train": 34}}}  # `n` has too many values
    train = figures["lengths"]["train"]
    assert (train["n"], train["p50"], train["p99"], train["max"]) == (100, 50, 99, 99)
    assert sum(n for _, _, n in train["bins"]) == 100
    assert all(high == low for (_, high, _), (low, _, _) in zip(train["bins"], train["bins"][1:], strict=False))
    assert figures["lengths"]["validation"] == {"n": 0}


def test_conversations_count_all_messages() -> None:
    rows = [
        Conversation(messages=(Message(role="user", content="12345"), Message(role="assistant", content=("6", "78"))))
    ]
    assert counting.measure({"train": rows})["lengths"]["train"]["max"] == 8


def test_what_is_missing_is_said() -> None:
    card = report.card(MANIFEST, counting.measure(SPLITS))
    for sentence in (
        "1 of 2 sources have no license.",
        "2 of 2 sources have no legal basis.",
        "There is no validation split.",
        "The test split has fewer than 100 rows",
        "1 of 2 labels have fewer than 10 training rows: rare",
    ):
        assert sentence in card


def test_pages_hold_no_row_no_script_and_no_foreign_path() -> None:
    figures = counting.measure(SPLITS)
    html, card = report.render(MANIFEST, figures), report.card(MANIFEST, figures)
    for text in (html, card):
        assert "SECRET" not in text and "deadbeef" not in text
        assert "<script" not in text and "\x00" not in text and "\u202e" not in text
    assert not re.search(r"\s(on\w+|style)=", html)
    assert "script-src" not in html and "default-src &#39;none&#39;" in html
    assert "1,200" in html and "a.csv:12" in html
    assert html == report.render(MANIFEST, figures)


def test_front_matter_is_yaml_of_the_hub() -> None:
    front = yaml.safe_load(report.card(MANIFEST, {}).split("---\n")[1])
    assert front["license"] == "other"  # two sources, two licenses
    assert front["size_categories"] == ["n<1K"] and front["task_categories"] == ["text-classification"]


def test_a_bare_manifest_is_enough(tmp_path: Path) -> None:
    page = report.write(tmp_path, {"name": "books", "counts": {"train": 3}}, {})
    assert page.name == "report.html" and (tmp_path / "card.md").exists()
    text = page.read_text("utf-8")
    assert "No sources are recorded" in text and "Lengths were not measured" in text
