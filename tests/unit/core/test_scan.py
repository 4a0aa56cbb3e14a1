"""What the byte scan opens, by first bytes; what it cannot open it names."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pytest

from metier.core import scan as scanning
from metier.core.scan import scan
from metier.core.subject import Subject

ANNA = Subject("P-00123", frozenset({"person"}), frozenset({"Zoë Müller"}))
THEIRS = "a note of Zoë Müller, by hand"


def zipped(*members: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


def tarred(data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("note.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


TEXT = THEIRS.encode()


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT),
        bz2.compress(TEXT),
        lzma.compress(TEXT),
        zipped(("a.txt", TEXT)),
        zipped(("of P-00123.txt", b"x")),
        zipped(("a.txt.gz", gzip.compress(TEXT))),
        gzip.compress(zipped(("a.txt", bz2.compress(TEXT)))),
        gzip.compress(tarred(TEXT)),
        THEIRS.encode("utf-16"),
        THEIRS.encode("utf-16-le"),
        THEIRS.encode("utf-16-be"),
        THEIRS.encode("utf-32"),
        gzip.compress(THEIRS.encode("utf-16")),
    ],
    ids=range(13),
)
@pytest.mark.parametrize("name", ["file", "file.GZ", "file.bin"])
def test_what_is_packed_or_encoded_is_opened_whatever_its_name(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    found = scan(tmp_path, ANNA)
    assert (found.hits, found.unread) == ([name], [])
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    scan(tmp_path, ANNA)  # cut off: whatever it says, it does not break


def test_what_cannot_be_read_is_named_and_what_the_stores_ask_is_not(tmp_path: Path) -> None:
    files = {
        "a.parquet": b"PAR1....PAR1",
        "b": b"%PDF-1.7 ...",
        "c.7z": b"7z\xbc\xaf\x27\x1c....",
        "d.gz": gzip.compress(os.urandom(1000))[:500],
        "e.docx": zipped(("word/document.xml", b"<w:t>An</w:t><w:t>na</w:t>")),
        "f.xlsx": zipped(("xl/workbook.xml", b"<x/>")),
        "g.zip": zipped(("inner", b"%PDF-1.7 ...")),
        "plain.txt": b"PAR, no sign at all",
        "asked.parquet": b"PAR1....PAR1",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    database = sqlite3.connect(tmp_path / "h.db")
    database.execute("create table t (x)")
    database.commit()
    database.close()
    found = scan(tmp_path, ANNA, asked=["asked.parquet"])
    assert found.hits == []
    named = {line.partition(":")[0] for line in found.unread}
    assert named == {*files, "h.db"} - {"plain.txt", "asked.parquet"}


def test_a_file_that_unpacks_to_too_much_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "UNPACKED_FLOOR_BYTES", 1 << 16)
    monkeypatch.setattr(scanning, "MAX_RATIO", 2)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10 << 20)))
    (tmp_path / "deep.zip").write_bytes(zipped(("b.gz", gzip.compress(bytes(10 << 20)))))
    found = scan(tmp_path, ANNA)
    assert [line.split(": ") for line in found.unread] == [
        [name, "it unpacks to too much"] for name in ("bomb.gz", "deep.zip")
    ]
    assert found.num_bytes < 17 << 20


def test_packed_within_packed_has_an_end(tmp_path: Path) -> None:
    data = TEXT
    for _ in range(scanning.MAX_DEPTH + 2):
        data = gzip.compress(data)
    (tmp_path / "deep.gz").write_bytes(data)
    (line,) = scan(tmp_path, ANNA).unread
    assert "packed within each other" in line


def test_links_that_lead_out_are_named_and_their_targets_names_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "far.txt").write_text(THEIRS)
    (root / "sub" / "own.txt").write_text("nothing")
    (root / "in").symlink_to(root / "sub" / "own.txt")
    (root / "out").symlink_to(tmp_path / "far.txt")
    (root / "nowhere").symlink_to(tmp_path / "P-00123.txt")
    found = scan(root, ANNA)
    assert found.hits == ["nowhere"] and found.num_files == 1
    assert [line.partition(":")[0] for line in found.unread] == ["nowhere", "out"]


def test_an_empty_folder_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "of P-00123").mkdir()
    assert scan(tmp_path, ANNA).hits == ["of P-00123"]


def test_a_short_key_is_looked_for_in_the_columns_of_its_file(tmp_path: Path) -> None:
    subject = Subject("17", frozenset({"id"}), scopes=frozenset({"/tickets.json\t", "/people.json\tid", "/datasets\t"}))
    for name in ("tickets.json", "people.json", "datasets/a/v1/train.jsonl", "other.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"id": 17}')
    assert scan(tmp_path, subject).hits == ["other.json", "people.json"]
