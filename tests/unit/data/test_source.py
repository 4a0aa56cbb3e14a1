"""Readers: every file type, and every way in which a file or a row can be broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from metier.data import rows as rows_module
from metier.data.rows import Row
from metier.data.source import read_rows, source_digest, source_files

from .conftest import read, refused

# ───────────────────────────────────────────────────────────────────────────── JSON Lines and JSON


def test_jsonl_keeps_good_rows_and_names_each_bad_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"text": "with a mark"}\n'
        b"\n"
        b'{"text": "caf\xe9"}\n'
        b'{"text": "nul\x00"}\n'
        b'{"text": "nul\\u0000"}\n'
        b'{"text": 1, "text": 2}\n'
        b'{"text": "cut\n'
        b'{"text": NaN}\n'
        b"[1, 2]\n"
        b'{"text": "half \\ud83d"}\n'
        b'{"a": 1} {"a": 2}\n' + b"[" * 100_000 + b"\n"
        b'{"text": "last \xc3\xa9\\ud83d\\ude00"}'
    )
    good, bad = read(file)
    assert [(r.value["text"], r.place) for r in good] == [("with a mark", "a.jsonl:1"), ("last é😀", "a.jsonl:13")]
    assert [(b.reason, b.place) for b in bad] == [
        ("not-utf8", "a.jsonl:3"),
        ("nul-byte", "a.jsonl:4"),
        ("nul-byte", "a.jsonl:5"),
        ("duplicate-key", "a.jsonl:6"),
        ("invalid-json", "a.jsonl:7"),
        ("not-a-number", "a.jsonl:8"),
        ("not-an-object", "a.jsonl:9"),
        ("lone-surrogate", "a.jsonl:10"),
        ("invalid-json", "a.jsonl:11"),
        ("invalid-json", "a.jsonl:12"),
    ]
    assert bad[0].raw == b'{"text": "caf\xe9"}'
    assert not any("caf" in b.what or "cut" in b.what for b in bad)


def test_a_million_characters_in_one_row(tmp_path: Path) -> None:
    text = "ab,\n" * 250_000
    jsonl, table = tmp_path / "long.jsonl", tmp_path / "long.csv"
    jsonl.write_text(json.dumps({"text": text}) + "\n")
    one_line = text.replace("\n", " ")
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], [one_line, "x"], ["short", "y"]])
    assert read(jsonl)[0][0].value["text"] == text
    assert [r.value["text"] for r in read(table)[0]] == [one_line, "short"]


def test_a_line_over_the_cap_is_skipped_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 100)
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n{"a": "' + "x" * 1000 + '"}\n{"a": 3}\n')
    good, bad = read(file)
    assert [(r.value["a"], r.place) for r in good] == [(1, "a.jsonl:1"), (3, "a.jsonl:3")]
    assert [(b.reason, b.place) for b in bad] == [("too-long", "a.jsonl:2")]


def test_json_lists_give_the_line_of_each_element(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'[\n {"a": 1},\n {"a": 2,\n  "a": 3}, {"a": "\xff"},\n 5,\n {"a": 4}\n]\n')
    good, bad = read(file)
    assert [(r.value["a"], r.place) for r in good] == [(1, "a.json:2"), (4, "a.json:6")]
    assert [(b.reason, b.place) for b in bad] == [
        ("duplicate-key", "a.json:3"),
        ("not-utf8", "a.json:4"),
        ("not-an-object", "a.json:5"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"version": "1", "data": [{"a": 1}, {"a": 2}]}', [1, 2]),
        ('{"meta": {"data": [{"a": 9}]}, "data": [{"a": 1}]}', [1]),
        ('{"a": 1}\n{"a": 2}\n', [1, 2]),
        ('{"a": 1, "messages": [{"role": "user"}]}', [1]),
        ('  {"a": 1}  ', [1]),
    ],
)
def test_json_objects(tmp_path: Path, text: str, expected: list[int]) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    assert [r.value["a"] for r in read(file)[0]] == expected


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": ', '[{"a": 1} {"a": 2}]', '[{"a": 1}] x', "nonsense"])
def test_json_that_breaks_off_is_an_error_with_a_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    error = refused(file)
    assert (error.code, error.place) == ("E306", "a.json:1")
    assert error.fix


# ───────────────────────────────────────────────────────────────────────────── CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(
        [["text", "label"], ["one, two; three", "x"], ['say "no"\nnow', "y"]]
    )
    file = tmp_path / "a.csv"
    file.write_text("\ufeff" + out.getvalue())
    good, bad = read(file)
    assert [(r.value, r.place) for r in good] == [
        ({"text": "one, two; three", "label": "x"}, "a.csv:2"),
        ({"text": 'say "no"\nnow', "label": "y"}, "a.csv:3"),
    ]
    assert not bad


def test_a_stray_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    lines = [f"text {i},label" for i in range(50)]
    lines[9] = '"never closed,label'
    lines[29] = '"closed" badly,label'
    lines[39] = "a,b,c"
    file = tmp_path / "a.csv"
    file.write_bytes("\r\n".join(["text,label", *lines, ""]).encode() + b"caf\xe9,label\r\nlast,label\r\n")
    good, bad = read(file)
    assert [(b.reason, b.place) for b in bad] == [
        ("broken-quotes", "a.csv:11"),
        ("broken-quotes", "a.csv:31"),
        ("wrong-column-count", "a.csv:41"),
        ("not-utf8", "a.csv:52"),
    ]
    assert len(good) == 48
    assert good[-1].value == {"text": "last", "label": "label"}


def test_a_broken_record_of_many_lines_makes_no_rows_of_its_tail(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text,label\n"one" x\nDoctor: well, yes"\n"two\nlines",y\n')
    good, bad = read(file)
    assert [r.value for r in good] == [{"text": "two\nlines", "label": "y"}]
    assert [b.place for b in bad] == ["a.csv:2"]


def test_one_column_is_a_table_too(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text\nhello\nworld\n")
    assert [r.value for r in read(file)[0]] == [{"text": "hello"}, {"text": "world"}]


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label,text\n1,2,3\n")
    error = refused(file)
    assert error.code == "E308" and "`text`" in error.received


# ───────────────────────────────────────────────────────────────────────────── other files


def test_parquet_is_read_batch_by_batch_and_typed_values_become_json(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "a.parquet"
    values = {
        "text": ["one", "tw\x00o", None],
        "day": [datetime.date(2024, 2, 29)] * 3,
        "score": [0.5, float("nan"), 2.0],
        "blob": [b"\xff\xd8", b"", None],
        "note": [b"caf\xc3\xa9", None, b"x"],
    }
    pyarrow.parquet.write_table(pyarrow.table(values), file)
    good, bad = read(file)
    first = {"text": "one", "day": "2024-02-29", "score": 0.5, "blob": {"bytes": 2}, "note": "café"}
    assert good[0] == Row(first, "a.parquet:1")
    assert good[1].place == "a.parquet:3" and good[1].value["text"] is None
    assert [(b.reason, b.place) for b in bad] == [("nul-byte", "a.parquet:2")]
    assert [r.place for r in read_rows(file, limit=1)] == ["a.parquet:1"]


def test_a_damaged_parquet_and_a_cut_gzip_are_named(tmp_path: Path) -> None:
    parquet, packed = tmp_path / "a.parquet", tmp_path / "a.jsonl.gz"
    parquet.write_bytes(b"PAR1 nothing PAR1")
    packed.write_bytes(gzip.compress(b'{"a": 1}\n' * 5000)[:-20])
    assert (refused(parquet).code, refused(packed).code) == ("E306", "E306")


def test_a_folder_gives_its_known_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("no")
    (tmp_path / "b" / "two.md").write_text("# Two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "LICENSE").write_text("not data")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.txt"
    outside.write_text("elsewhere")
    (tmp_path / "link.txt").symlink_to(outside)
    good, bad = read(tmp_path)
    assert [(r.value["text"], r.place) for r in good] == [("one", "a.txt"), ("# Two", "b/two.md")]
    assert [(b.reason, b.place) for b in bad] == [("empty-file", "c.txt"), ("outside-link", "link.txt")]
    assert [name for _, name in source_files(tmp_path / "**" / "*.md")] == ["b/two.md"]


def test_gzip_and_glob(tmp_path: Path) -> None:
    for name in ("x1", "x2"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write('{"a": 1}\n')
    good, _ = read(tmp_path / "x*.jsonl.gz")
    assert [r.place for r in good] == ["x1.jsonl.gz:1", "x2.jsonl.gz:1"]


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    missing = refused(tmp_path / "trian.jsonl")
    assert missing.code == "E300" and missing.fix == "Did you mean `train.jsonl`?"
    for name, content in (
        ("a.jsonl", b""),
        ("b.jsonl", b"\n \n"),
        ("c.csv", b"text,label\n"),
        ("d.json", b"[]"),
        ("e.txt", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name).code == "E301", name
    (tmp_path / "x.odt").write_bytes(b"PK")
    assert refused(tmp_path / "x.odt").code == "E302"
    (tmp_path / "wide.csv").write_bytes("text,label\na,b\n".encode("utf-16"))
    assert refused(tmp_path / "wide.csv").code == "E307"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").code == "E301"


def test_a_hub_id_that_is_not_here_says_what_to_do() -> None:
    error = refused(Path("hf:nobody/nothing"))
    assert error.code == "E303" and error.fix


@pytest.mark.parametrize("names", [("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), ("HF_DATASETS_OFFLINE",)])
def test_a_hub_id_is_read_with_the_network_refused_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """The library is an extra that is not installed here: a stand-in takes its place, the hub's client is the real."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    said: list[bool] = []

    def load_dataset(name: str, **options: Any) -> list[dict[str, str]]:
        said.extend(getattr(config, each) for each in names)
        with pytest.raises(OfflineModeIsEnabled):
            HfApi(endpoint="http://127.0.0.1:9").dataset_info(name)
        return [{"text": "hello"}]

    config = SimpleNamespace(**dict.fromkeys(names, False))
    library: Any = ModuleType("datasets")
    library.config, library.load_dataset = config, load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (row,) = read_rows(Path("hf:org/rows"))
    assert isinstance(row, Row) and row.value == {"text": "hello"}
    assert said == [True] * len(names)
    assert vars(config) == dict.fromkeys(names, False) and constants.HF_HUB_OFFLINE is False, "and left as it was"


def test_the_digest_follows_bytes_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    before = source_digest(tmp_path)
    assert source_digest(tmp_path) == before
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    renamed = source_digest(tmp_path)
    (tmp_path / "c.txt").write_text("TWO")
    assert len({before, renamed, source_digest(tmp_path)}) == 3
