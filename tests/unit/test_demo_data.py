"""The demo's data is what its generator writes, and is as described in its README."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "src" / "metier" / "actions" / "assets" / "demo"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (DEMO / "messages.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_generator_writes_the_shipped_bytes(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "make_demo_data.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, capture_output=True)
    for name in ("messages.csv", "notes.jsonl"):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes(), f"run scripts/make_demo_data.py: {name}"


def test_labels_are_balanced_and_the_bad_rows_are_there(rows: list[dict[str, str]]) -> None:
    usable = {r["text"]: r for r in rows if r["text"] and r["label"]}
    assert Counter(Counter(r["label"] for r in usable.values()).values()) == {76: 12}
    assert sum(not r["label"] for r in rows) == 2
    assert sum(not r["text"] for r in rows) == 1
    assert len(rows) - 3 - len(usable) == 3, "three messages were sent twice"


def test_no_slot_is_left_open(rows: list[dict[str, str]]) -> None:
    notes = [json.loads(line) for line in (DEMO / "notes.jsonl").read_text(encoding="utf-8").splitlines()]
    for text in [r["text"] for r in rows] + [n["prompt"] + n["completion"] for n in notes]:
        assert not re.search(r"[{}\[\]|]", text)


def test_no_wording_dominates(rows: list[dict[str, str]]) -> None:
    assert Counter(r["phrasing"] for r in rows if r["phrasing"]).most_common(1)[0][1] <= 8


def test_a_note_says_what_its_message_asks() -> None:
    text = (DEMO / "messages.csv").read_text(encoding="utf-8")
    labels = {r["label"].replace("_", " ") for r in csv.DictReader(text.splitlines())}
    for line in (DEMO / "notes.jsonl").read_text(encoding="utf-8").splitlines():
        first, *rest = json.loads(line)["completion"].split("\n")
        assert first.removeprefix("do: ") in labels
        assert all(r.partition(": ")[0] in ("about", "doctor", "for", "when", "only mentioned") for r in rest)
