"""The demo's data is what its generator writes, and is as described in its README."""

from __future__ import annotations

import csv
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
    assert [p.name for p in tmp_path.iterdir()] == ["messages.csv"]
    made = (tmp_path / "messages.csv").read_bytes()
    assert made == (DEMO / "messages.csv").read_bytes(), "run scripts/make_demo_data.py"


def test_labels_are_balanced_and_the_bad_rows_are_there(rows: list[dict[str, str]]) -> None:
    usable = {r["text"]: r for r in rows if r["text"] and r["label"]}
    assert Counter(Counter(r["label"] for r in usable.values()).values()) == {76: 12}
    assert sum(not r["label"] for r in rows) == 2
    assert sum(not r["text"] for r in rows) == 1
    assert len(rows) - 3 - len(usable) == 3, "three messages were sent twice"


def test_no_slot_is_left_open(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert not re.search(r"[{}\[\]|]", row["text"])


def test_no_wording_dominates(rows: list[dict[str, str]]) -> None:
    assert Counter(r["phrasing"] for r in rows if r["phrasing"]).most_common(1)[0][1] <= 8
