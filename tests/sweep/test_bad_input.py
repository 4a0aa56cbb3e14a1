"""Bad input at its real size: a thousand malformed rows among a hundred thousand, a line of 5 GB, bombs of 5 GB.

METIER_SWEEP_SEED=0     which rows are malformed, and how
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from malformed import KINDS, MARK, mixed
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.data.dataset import build
from metier.data.quarantine import listing

pytestmark = pytest.mark.sweep

NUM_ROWS, NUM_BAD = 100_000, 1_000
SIZE_BYTES = 5_000_000_000
MAX_MEMORY_BYTES = 200_000_000
"""Above what the imports take: a line of 64 MB, and the pieces it is joined from."""

READ = """
import json, resource, sys
from pathlib import Path
import pyarrow
from metier.core.errors import DataError
from metier.data.source import read_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = []
try:
    for item in read_rows(Path(sys.argv[1])):
        found.append([getattr(item, "reason", "row"), item.place, len(getattr(item, "raw", b""))])
except DataError as error:
    found.append([error.code, error.place, 0])
print(json.dumps([found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))
"""


def read(path: Path) -> tuple[list[list[Any]], int]:
    """Read a source in a process of its own; return what it gave and the bytes of memory it took at its peak."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    found, memory_bytes = json.loads(done.stdout)
    return found, memory_bytes * (1 if sys.platform == "linux" else 0)


def sparse(path: Path, head: bytes, tail: bytes) -> Path:
    """Write a file of 5 GB, nearly all of it a hole that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.seek(SIZE_BYTES)
        file.write(tail)
    return path


def test_a_thousand_malformed_rows_among_a_hundred_thousand(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", "test")
    rows = mixed(NUM_ROWS, NUM_BAD, seed=int(os.environ.get("METIER_SWEEP_SEED", "0")))
    (project.root / "data" / "rows.jsonl").write_bytes(rows.data)
    recipe = {
        "name": "x",
        "objective": {"task": "classify"},
        "method": "classify",
        "data": {"sources": [{"path": "data/rows.jsonl"}]},
    }
    made = build(Recipe.build(recipe), project)
    facts = made.manifest["quarantine"]
    listed = listing(project.root / facts["file"])
    assert [(int(line.split()[0].partition(":")[2]), reason) for reason, line in listed] == rows.bad
    assert sum(made.manifest["counts"].values()) == rows.num_good == NUM_ROWS - NUM_BAD
    assert {reason: entry["count"] for reason, entry in facts["reasons"].items()} == Counter(r for _, r in rows.bad)
    assert len(KINDS) >= 25
    holding = {p.parent.name for p in project.root.rglob("*") if p.is_file() and MARK.encode() in p.read_bytes()}
    assert holding == {"data", "x"}  # the source, and private/quarantine/x


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_of_five_gigabytes_is_one_bad_row_and_never_in_memory(tmp_path: Path, name: str) -> None:
    good = (b'{"text": "a"}\n', b'{"text": "b"}\n') if name == "a.jsonl" else (b"text,label\na,b\n", b"c,d\n")
    found, memory_bytes = read(sparse(tmp_path / name, good[0] + b'{"text": "', b'"}\n' + good[1]))
    at = 2 if name == "a.jsonl" else 3
    assert [item[:2] for item in found] == [
        ["row", f"{name}:{at - 1}"],
        ["too-long", f"{name}:{at}"],
        ["row", f"{name}:{at + 1}"],
    ]
    assert found[1][2] == 1 << 16
    assert memory_bytes < MAX_MEMORY_BYTES


@pytest.mark.parametrize(("name", "said"), [("a.txt", "too-long"), ("a.md", "too-long"), ("a.json", "E306")])
def test_a_whole_file_of_five_gigabytes_is_refused_unread(tmp_path: Path, name: str, said: str) -> None:
    found, memory_bytes = read(sparse(tmp_path / name, b"text", b"\n"))
    assert found == [[said, name, 0]]
    assert memory_bytes < 1_000_000


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.txt.gz", "a.json.gz"])
def test_a_bomb_of_five_gigabytes_is_refused_before_it_fills_anything(tmp_path: Path, name: str) -> None:
    member = gzip.compress(b"x" * 50_000_000, 9)
    (tmp_path / name).write_bytes(member * (SIZE_BYTES // 50_000_000))  # members follow each other in one file
    before = {p.name for p in tmp_path.iterdir()}
    found, memory_bytes = read(tmp_path / name)
    refusals = {"a.txt.gz": "too-long", "a.json.gz": "E306"}  # by their own bound, which comes first
    assert found == [[refusals.get(name, "E313"), name, 0]]
    assert memory_bytes < 1_300_000_000  # .txt and .json may be 1 GB
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("as_arrow", [True, False], ids=["dictionary", "strings"])
def test_a_parquet_bomb_of_two_terabytes_is_refused(tmp_path: Path, as_arrow: bool) -> None:
    import pyarrow
    import pyarrow.parquet

    indices = pyarrow.array([0] * 100_000, type=pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(["x" * 10_000_000]))
    file = tmp_path / "a.parquet"
    table = pyarrow.table({"text": column, "more": column})
    pyarrow.parquet.write_table(table, file, compression="zstd", store_schema=as_arrow)
    assert file.stat().st_size < 3_000
    found, memory_bytes = read(file)
    assert found == [["E313", "a.parquet", 0]]
    assert memory_bytes < (100_000_000 if as_arrow else 2_500_000_000)  # Arrow unpacks 64 rows of strings at once
