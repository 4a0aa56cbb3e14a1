"""The stores of the data room: what an erasure takes out of each, and what it leaves."""

from __future__ import annotations

import gzip
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erasing import WORDS, Person, interrupted, people, project_with
from metier.core.errors import DataError
from metier.core.project import Project, read_json, write_json
from metier.core.recipe import Recipe
from metier.core.sections import Source
from metier.core.subject import Subject
from metier.core.values import row_digest
from metier.data import review, subject_rows, subjects
from metier.data.dataset import build
from metier.data.erase_caches import TokenCacheStore
from metier.data.erase_private import PrivateListStore, VaultStore
from metier.data.erase_sources import SourceStore
from metier.data.erase_stages import StageStore
from metier.data.erase_versions import VersionStore
from metier.data.privacy import vault
from metier.data.privacy.surrogates import Vault, surrogate
from metier.data.source import read_rows
from metier.data.versions import Dataset

KEY = "P-00123"
ROWS = [{"person": key, "text": f"row {i} of {key}"} for i, key in enumerate([KEY, "P-2", KEY, "P-3", "P-4"])]
COPY = {"text": "a copy without a key"}
ANNA = Subject(KEY, frozenset({"person"}), frozenset({"Anna Quill"}), rows=frozenset({row_digest(COPY)}))


def file_with(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    return file


def erased(file: Path, subject: Subject = ANNA) -> int:
    """Erase from one file and return how many rows were found; asking again finds none."""
    project = Project.create(file.parents[1], "p")
    store = SourceStore(project, [file])
    found = store.find(subject)
    assert store.erase(subject) == found
    assert store.find(subject) == [] == store.erase(subject)
    return found[0].num if found else 0


# ───────────────────────────────────────────────────────────────────────────── sources


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.jsonl.gz", "rows.json"])
def test_lines_of_json_go_and_the_others_keep_every_byte(tmp_path: Path, name: str) -> None:
    lines = [*(json.dumps(row) for row in ROWS), json.dumps(COPY), '{"person":  "P-5", "text": "spaced"}', '{"broken']
    broken = '{"text": "no end, Anna Quill'
    file = file_with(tmp_path / "data", name, "\n".join([*lines, broken]) + "\n")
    assert erased(file) == 4
    data = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
    assert data.decode().splitlines() == [lines[1], lines[3], lines[4], lines[6], lines[7]]


def test_records_of_csv_go_with_all_their_lines(tmp_path: Path) -> None:
    text = 'person,text\nP-00123,"two\nlines"\nP-2,"also\ntwo"\nP-3,one\nP-00123,x,too many\n\n'
    text += 'P-4,"of ANNA quill"\nP-5,last\n'
    file = file_with(tmp_path / "data", "rows.csv", text)
    file.chmod(0o640)
    assert erased(file) == 3
    assert file.read_text() == 'person,text\nP-2,"also\ntwo"\nP-3,one\nP-5,last\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("wrapped", [False, True])
def test_elements_of_a_json_document_go(tmp_path: Path, wrapped: bool) -> None:
    value: Any = {"version": 2, "data": ROWS} if wrapped else ROWS
    file = file_with(tmp_path / "data", "rows.json", json.dumps(value))
    assert erased(file) == 2
    left = json.loads(file.read_text())
    assert (left["data"] if wrapped else left) == [ROWS[1], ROWS[3], ROWS[4]]
    assert not wrapped or left["version"] == 2


def test_records_of_parquet_go_and_the_schema_stays(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "data" / "rows.parquet"
    file.parent.mkdir()
    table = pyarrow.Table.from_pylist([{**row, "n": i} for i, row in enumerate(ROWS)])
    pyarrow.parquet.write_table(table, file)
    assert erased(file) == 2
    left = pyarrow.parquet.read_table(file)
    assert left.schema == table.schema
    assert left.column("n").to_pylist() == [1, 3, 4]


def test_text_loses_places_and_a_file_of_theirs_goes(tmp_path: Path) -> None:
    memo = file_with(tmp_path / "data", "memo.md", "# Memo\n\nAsk Anna Quill (P-00123).\n")
    assert erased(memo) == 1
    assert memo.read_text() == "# Memo\n\nAsk (erased) ((erased)).\n"
    theirs = file_with(tmp_path / "data", "P-00123.txt", "nothing else says it")
    copy = file_with(tmp_path / "data", "copy.txt", COPY["text"])
    assert (erased(theirs), erased(copy)) == (1, 1)
    assert not theirs.exists() and not copy.exists()


def test_what_cannot_be_rewritten_goes_on_being_named(tmp_path: Path) -> None:
    import zipfile

    file = tmp_path / "data" / "letter.docx"
    file.parent.mkdir()
    body = "<w:p><w:r><w:t>Dear Anna Quill</w:t></w:r></w:p>"
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("word/document.xml", f'<w:document xmlns:w="{namespace}"><w:body>{body}</w:body></w:document>')
    before = file.read_bytes()
    store = SourceStore(Project.create(tmp_path, "p"), [file])
    assert store.find(ANNA) and store.erase(ANNA) == [] and store.find(ANNA)
    assert file.read_bytes() == before


def test_a_source_of_another_person_is_not_touched(tmp_path: Path) -> None:
    file = file_with(tmp_path / "data", "rows.jsonl", json.dumps(ROWS[1]) + "\n")
    before = file.stat()
    assert erased(file) == 0
    assert file.stat().st_mtime_ns == before.st_mtime_ns


# ───────────────────────────────────────────────────────────────────────────── who it is


@pytest.fixture(scope="module")
def persons() -> list[Person]:
    return people(30, seed=5)


@pytest.fixture
def desk(tmp_path: Path, persons: list[Person]) -> tuple[Project, Dataset, Subject]:
    project, version, recipe = project_with(tmp_path / "desk", persons, persons[:2])
    first = persons[0]
    stated = subject_rows.stated_sources(project, [recipe])
    named = Subject(first.key, subject_rows.columns_of(stated), frozenset({first.name}))
    return project, version, subjects.gather(project, named, stated, [recipe.to_yaml()])


def test_a_subject_is_known_by_column_copy_and_name(
    desk: tuple[Project, Dataset, Subject], persons: list[Person]
) -> None:
    _, version, subject = desk
    examples = [e for split in ("train", "validation", "test") for e in version.examples(split)]  # type: ignore[arg-type]
    mine = [e for e in examples if e.id in subject.ids]
    own = [e for e in mine if e.meta.get("person") == persons[0].key]
    assert len(own) == 2 and len(mine) == 4, "two rows of their own, a copy in capitals, one that says the name"
    assert subject.columns == {"person"}
    assert subject.fragments and all(any(f.lower() in t for t in persons[0].texts) for f in subject.fragments)
    others = [row for p in persons[1:] for row in p.texts]
    assert not any(subject.seen(text.encode()) for text in others)


def test_what_all_rows_say_is_nobodys(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    polite = "Thank you very much for calling our service today."
    rows = [
        {"person": f"P-{i:06d}", "prompt": f"{word} " * 8, "completion": polite}
        for i, word in enumerate(("first", "second", "third", "fourth"))
    ]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject = subjects.gather(project, Subject("P-000002", frozenset({"person"})), [])
    assert subject.seen(rows[2]["prompt"].encode())
    assert not subject.seen(polite.encode())
    kept = subjects.gather(project, Subject("P-000002", frozenset({"person"})), [], [rows[2]["prompt"]])
    assert not kept.fragments, "a recipe says it too"


def test_the_same_words_of_somebody_else_stay_theirs(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    text = "my card was stolen on monday morning in the old town"
    rows = [{"person": "P-000001", "text": text}, {"person": "P-000002", "text": text}, {"text": text + " yes"}]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject = subjects.gather(project, Subject("P-000001", frozenset({"person"})), [])
    SourceStore(project, [tmp_path / "data" / "rows.jsonl"]).erase(subject)
    assert [r.value for r in read_rows(tmp_path / "data" / "rows.jsonl")] == [rows[1]]  # type: ignore[union-attr]


def test_sources_inside_and_outside_are_told_apart(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p", "p")
    outside = file_with(tmp_path, "far.csv", "text\nx\n")
    inside = file_with(tmp_path / "p" / "data", "near.csv", "text\nx\n")
    file_with(tmp_path / "p" / "data", "picture.png", "no rows")
    stated = [Source(path=str(outside)), Source(path="data/near.csv"), Source(path="gone.csv"), Source(path="hf:a/b")]
    assert subject_rows.source_files_of(project, stated) == ([inside.resolve()], sorted([str(outside), "hf:a/b"]))


# ───────────────────────────────────────────────────────────────────────────── versions


def test_a_version_is_written_anew_with_a_tombstone(
    desk: tuple[Project, Dataset, Subject], persons: list[Person]
) -> None:
    project, old, subject = desk
    store = VersionStore(project, "erasure-1", "ann")
    (facts,) = store.affected(subject)
    assert (facts["ref"], facts["digest"], sum(facts["rows"].values())) == (old.ref, old.digest, 4)
    before = {s: [e.id for e in old.examples(s)] for s in ("train", "validation", "test")}  # type: ignore[arg-type]
    (trace,) = store.erase(subject)
    assert trace.num == 4
    assert store.find(subject) == []
    new = Dataset.find(project, old.ref)
    assert not old.dir.exists() and new.digest != old.digest and new.dir.name.endswith(new.digest[:6])
    for split, ids in before.items():
        assert [e.id for e in new.examples(split)] == [i for i in ids if i not in subject.ids]  # type: ignore[arg-type]
        assert new.count(split) == len(new.examples(split))  # type: ignore[arg-type]
    (tombstone,) = new.manifest["tombstones"]
    assert tombstone["rows"] == facts["rows"] and tombstone["replaces"] == old.digest
    assert (tombstone["certificate"], tombstone["who"]) == ("erasure-1", "ann")
    counts = new.manifest["label_counts"]
    assert sum(n for label in counts.values() for n in label.values()) == sum(new.manifest["counts"].values())
    for name in ("card.md", "report.html", "report.json", "manifest.json", "train.jsonl"):
        assert not subject.seen((new.dir / name).read_bytes()), name
    found = read_json(new.dir / "report.json")
    assert (found["digest"], found["counts"]) == (new.digest, new.manifest["counts"])
    assert found["stated"]["task"] == "classify"  # what the recipe says is not lost with the rows
    assert f"{new.count('train'):,}" in (new.dir / "card.md").read_text()


def test_a_name_in_what_the_recipe_says_goes_from_the_report_too(
    desk: tuple[Project, Dataset, Subject], persons: list[Person]
) -> None:
    project, old, _ = desk
    file = old.dir / "report.json"
    value = read_json(file)
    value["stated"]["description"] = f"Letters to {persons[-1].name}"
    write_json(file, value)
    other = Subject(persons[-1].key, also=frozenset({persons[-1].name}))
    other_store = VersionStore(project, "erasure-2", "ann")
    assert other_store.find(other)
    other_store.erase(other)
    said = read_json(Dataset.find(project, old.ref).dir / "report.json")["stated"]["description"]
    assert said == "(erased)" and other_store.find(other) == []


def test_an_altered_tombstone_is_an_altered_version(desk: tuple[Project, Dataset, Subject]) -> None:
    project, old, subject = desk
    VersionStore(project, "erasure-1", "ann").erase(subject)
    new = Dataset.find(project, old.ref)
    file = new.dir / "manifest.json"
    file.write_text(file.read_text().replace("erasure-1", "erasure-2"))
    with pytest.raises(DataError, match="E340"):
        Dataset.find(project, old.ref)


def test_an_interrupted_rewrite_is_finished(
    desk: tuple[Project, Dataset, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, old, subject = desk
    store = VersionStore(project, "erasure-1", "ann")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", _killed_at(2))
        with pytest.raises(KeyboardInterrupt):
            store.erase(subject)
    assert old.dir.exists() and len(list(old.dir.parent.glob("v1-*"))) == 2
    store.erase(subject)
    assert store.find(subject) == []
    (new,) = old.dir.parent.glob("v1-*")
    assert len(read_json(new / "manifest.json")["tombstones"]) == 1
    (new.parent / ".v1-aaaaaa.tmp").mkdir()
    assert [t.what for t in store.erase(subject)] == ["left by a killed process"]


def _killed_at(call: int) -> Any:
    calls, real = [0], Path.rename

    def rename(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return real(self, target)

    return rename


def test_preparing_again_does_not_bring_the_rows_back(
    desk: tuple[Project, Dataset, Subject], persons: list[Person]
) -> None:
    project, old, subject = desk
    recipe = Recipe.read(project.root / "recipes" / "desk.yaml")
    files, _ = subject_rows.source_files_of(project, recipe.data.sources)
    VersionStore(project, "erasure-1", "ann").erase(subject)
    assert build(recipe, project).digest != old.digest, "the sources are as they were: the version without the rows"
    assert build(recipe, project).version == "v1"
    SourceStore(project, files).erase(subject)
    again = build(recipe, project)
    assert not any(subject.in_example(json.loads(line)) for line in (again.dir / "train.jsonl").open())


# ───────────────────────────────────────────────────────────────────────────── private, caches


def test_lists_lose_lines_and_an_empty_one_goes(desk: tuple[Project, Dataset, Subject], persons: list[Person]) -> None:
    project, _, subject = desk
    folder = review.folder(project, "desk")
    review.write(folder / "a.jsonl", [{"id": "x", "text": t} for t in (persons[0].texts[1], persons[3].texts[0])])
    review.write(folder / "b.jsonl", [{"id": next(iter(subject.ids)), "text": "short"}])
    store = PrivateListStore(project)
    assert sum(t.num for t in store.find(subject)) == 3, "one in quarantine, two in the lists"
    store.erase(subject)
    assert store.find(subject) == []
    assert [r["text"] for r in review.read(folder / "a.jsonl")] == [persons[3].texts[0]]
    assert stat.S_IMODE((folder / "a.jsonl").stat().st_mode) == 0o600
    assert not (folder / "b.jsonl").exists()
    (quarantine,) = (project.private_dir / "quarantine").rglob("*.jsonl")
    assert persons[1].key in quarantine.read_text() and persons[0].key not in quarantine.read_text()


def test_an_interrupted_preparation_goes_as_a_whole_where_they_are_in_it(
    desk: tuple[Project, Dataset, Subject], persons: list[Person]
) -> None:
    project, _, subject = desk
    folder = interrupted(project, Recipe.read(project.root / "recipes" / "desk.yaml"))
    said = [persons[0].key.encode(), persons[0].texts[1][:50].encode()]
    assert all(any(word in file.read_bytes() for file in folder.iterdir()) for word in said)
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(b'{"kind":"labelled","text":"torn: ' + persons[0].key.encode())
    store = StageStore(project)
    (trace,) = store.find(subject)
    assert trace.file == folder.relative_to(project.root).as_posix() and trace.num >= 5
    assert store.erase(subject) == [trace]
    assert not folder.exists() and store.find(subject) == [] == store.erase(subject)


def test_bytes_that_are_no_text_are_looked_at_in_quarantine(tmp_path: Path) -> None:
    import base64

    project = Project.create(tmp_path, "p")
    file = project.private_dir / "quarantine" / "x" / "y.jsonl"
    file.parent.mkdir(parents=True)
    raws = [b"P-00123,\xff", b"P-2,\xff"]
    entries = [{"place": "a:1", "reason": "not-utf8", "raw_base64": base64.b64encode(raw).decode()} for raw in raws]
    file.write_text("".join(json.dumps(e) + "\n" for e in entries))
    PrivateListStore(project).erase(ANNA)
    assert [json.loads(line) for line in file.open()] == entries[1:]


def test_a_vault_loses_what_is_theirs_alone(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    project = Project.create(tmp_path, "p")
    opened = Vault(b"s" * 32)
    made = {value: surrogate(value, kind, opened) for kind, value in (("PERSON", "Anna Quill"), ("ID", KEY))}
    for kind, value in (("PERSON", "Jan Quill"), ("EMAIL", "anna@quill.org"), ("EMAIL", "jan@rest.org")):
        surrogate(value, kind, opened)
    file = project.private_dir / "vaults" / "desk.vault"
    vault.save(opened, file)
    store = VaultStore(project)
    assert store.surrogates([KEY]) == {made[KEY]}
    assert store.surrogates(["anna quill"]) == {made["Anna Quill"].lower()}, "both words together"
    assert store.surrogates(["Anna Nobody"]) == frozenset()
    opened.entries["MRN"] = {made[KEY].lower(): ("X-99999", made[KEY])}
    vault.save(opened, file)
    assert store.surrogates([KEY]) == frozenset(), "it is the number of somebody else"
    del opened.entries["MRN"]
    vault.save(opened, file)
    subject = replace(ANNA, words=frozenset({"anna"}))  # `quill` is Jan's too
    assert store.find(subject)[0].num == 3
    store.erase(subject)
    assert store.find(subject) == [] == store.erase(subject)
    left = {key for known in vault.load(file).entries.values() for key in known}
    assert left == {"quill", "jan", "jan@rest.org"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def table(project: Project, name: str, ids: list[str], dataset: str) -> None:
    folder = project.cache_dir / "tokens" / name
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps([i, 1, 0, None]) + "\n" for i in ids))
    write_json(folder.with_suffix(".json"), {"dataset": dataset})


def test_token_tables_with_a_row_of_theirs_go_and_others_stay(desk: tuple[Project, Dataset, Subject]) -> None:
    project, version, _ = desk
    table(project, "one", ["a", "b"], version.digest)
    table(project, "other", ["c"], version.digest)
    store = TokenCacheStore(project)
    subject = replace(ANNA, ids=frozenset({"b"}))
    assert [(t.file, t.num) for t in store.find(subject)] == [("cache/tokens/one", 1)]
    store.erase(subject)
    assert sorted(p.name for p in (project.cache_dir / "tokens").iterdir()) == ["other", "other.json"]


def test_token_tables_of_no_version_go_with_anybody(desk: tuple[Project, Dataset, Subject]) -> None:
    project, version, _ = desk
    table(project, "mine", ["c"], version.digest)
    table(project, "stray", ["d"], "0" * 64)
    table(project, ".half.0.tmp", ["e"], "")
    store = TokenCacheStore(project)
    assert store.find(ANNA) == [], "nobody knows whose they are"
    assert [(t.file, t.what) for t in store.erase(ANNA)] == [
        ("cache/tokens/.half.0.tmp", "of no version"),
        ("cache/tokens/stray", "of no version"),
    ]
    assert (project.cache_dir / "tokens" / "mine").is_dir() and store.erase(ANNA) == []


# ───────────────────────────────────────────────────────────────────────────── typed files, odd files


@pytest.mark.parametrize("kind", ["float64", "int64", "binary", "large_binary", "decimal"])
def test_a_key_in_a_typed_column_is_found_whatever_its_type(tmp_path: Path, kind: str) -> None:
    from decimal import Decimal

    import pyarrow
    import pyarrow.parquet

    numbers: list[Any] = [123456789, None, 123456780]
    if kind == "decimal":
        values = pyarrow.array([None if n is None else Decimal(n) for n in numbers], pyarrow.decimal128(12, 1))
    elif "binary" in kind:
        values = pyarrow.array([None if n is None else str(n).encode() for n in numbers], getattr(pyarrow, kind)())
    else:
        values = pyarrow.array(numbers, getattr(pyarrow, kind)())
    file = tmp_path / "data" / "rows.parquet"
    file.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"person": values, "text": ["a", "b", "c"]}), file)
    for column in ("person", "other"):
        subject = Subject("123456789", frozenset({column}))
        assert SourceStore(Project.create(tmp_path, "p"), [file]).find(subject)[0].num == 1
    assert erased(file, Subject("123456789", frozenset({"person"}))) == 1
    assert pyarrow.parquet.read_table(file).column("text").to_pylist() == ["b", "c"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('"of Anna Quill"', []),
        ('"of somebody"', "of somebody"),
        ("123", 123),
        ("null", None),
        ('["of Anna Quill", {"person": "P-2"}, 5]', [{"person": "P-2"}, 5]),
        (r'{"data": [{"person": "P-00123"}, {"person": "\ud800"}]}', {"data": [{"person": "\ud800"}]}),
    ],
)
def test_a_json_document_that_is_no_list_of_rows_breaks_nothing(tmp_path: Path, text: str, left: Any) -> None:
    file = file_with(tmp_path / "data", "x.json", text)
    erased(file)
    assert json.loads(file.read_text()) == left


def test_a_row_that_names_them_with_a_sign_beside_it_goes(tmp_path: Path) -> None:
    texts = [
        "“Anna Quill” said",
        "— Anna Quill",
        "Patient:\nAnna Quill’s",
        "Anna Quill…",
        "Annabel Quill",
        "Anna Quillo",
    ]
    lines = [json.dumps({"text": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)]
    file = file_with(tmp_path / "data", "rows.jsonl", "\n".join(lines) + "\n")
    assert erased(file) == 4
    assert [json.loads(line)["text"] for line in file.open()] == texts[4:]


# ───────────────────────────────────────────────────────────────────────────── columns per source


def two_numberings(folder: Path) -> tuple[Project, Recipe]:
    """People numbered by `id` in one source, tickets by `id` in the other; both in one version."""
    project = Project.create(folder, "p")
    people_rows = [{"id": i, "text": f"person {i} says {' '.join(WORDS[i : i + 9])}"} for i in range(10, 30)]
    tickets = [{"id": i, "text": f"ticket {i} asks {' '.join(WORDS[i + 30 : i + 39])}"} for i in range(10, 30)]
    for name, rows in (("people/rows", people_rows), ("tickets/rows", tickets)):
        file_with(folder / "data", f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    sources = [
        {"path": "data/people/rows.jsonl", "permission": {"subject_key": "id"}},
        {"path": "data/tickets/rows.jsonl"},
    ]
    return project, Recipe.build({"name": "p", "data": {"sources": sources}, "objective": {"task": "continue"}})


def test_a_column_of_one_source_is_none_of_another(tmp_path: Path) -> None:
    project, recipe = two_numberings(tmp_path)
    tickets = recipe.with_values({"name": "t", "data.sources": [{"path": "data/tickets/rows.jsonl"}]})
    own = build(recipe.with_values({"data.sources": recipe.to_data()["data"]["sources"][:1]}), project)
    others = build(tickets, project)
    stated = subject_rows.stated_sources(project, [recipe, tickets])
    rows = subject_rows.Rows(project, stated)
    subject = subjects.gather(project, Subject("17", subject_rows.columns_of(stated)), stated, rows=rows)
    found = {t.file.split("/")[1]: t.num for t in VersionStore(project, "e", "ann").find(subject)}
    assert found == {own.name: 1} and others.count("train")
    assert [(t.file, t.num) for t in SourceStore(project, rows.files).find(subject)] == [("data/people/rows.jsonl", 1)]
    assert rows.notes == [
        "data/tickets/rows.jsonl: 1 rows have the key in a column that no source of this file names as subject_key"
    ]


def test_in_one_version_the_place_of_a_row_says_which_source_it_is_from(tmp_path: Path) -> None:
    project, recipe = two_numberings(tmp_path)
    for old, new in (("people", "people.jsonl"), ("tickets", "tickets.jsonl")):
        (tmp_path / "data" / old / "rows.jsonl").rename(tmp_path / "data" / new)
    sources = recipe.to_data()["data"]["sources"]
    sources[0]["path"], sources[1]["path"] = "data/people.jsonl", "data/tickets.jsonl"
    version = build(recipe.with_values({"data.sources": sources}), project)
    stated = subject_rows.stated_sources(project, [])
    subject = subjects.gather(project, Subject("17", frozenset({"id"})), stated)
    VersionStore(project, "e", "ann").erase(subject)
    left = [json.loads(line) for file in Dataset.find(project, version.ref).dir.glob("*.jsonl") for line in file.open()]
    assert sorted(e["text"].split(" says")[0].split(" asks")[0] for e in left if e["meta"]["id"] == 17) == ["ticket 17"]
    assert len(left) == 39


# ───────────────────────────────────────────────────────────────────────────── sources that are not there


def test_a_source_that_cannot_be_read_is_noted_and_the_rest_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("OLD_DISK", raising=False)
    project = Project.create(tmp_path / "p", "p")
    file_with(tmp_path / "p" / "data", "rows.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    file_with(tmp_path / "p" / "data", "utf16.csv", "")
    (tmp_path / "p" / "data" / "utf16.csv").write_bytes(f"person,text\n{KEY},x\n".encode("utf-16"))
    file_with(tmp_path, "broken.json", '[{"person": ')
    paths = ["${OLD_DISK}/x.jsonl", "gone.csv", "hf:org/rows", str(tmp_path / "broken.json")]
    stated = [Source(path=path) for path in paths]
    rows = subject_rows.Rows(project, stated)
    subject = subjects.gather(project, ANNA, stated, rows=rows)
    assert subject.rows and len(rows.files) == 1
    assert rows.notes == sorted(rows.notes[:3]) + rows.notes[3:]
    assert {note.partition(": ")[0]: note.partition(": ")[2] for note in rows.notes} == {
        "${OLD_DISK}/x.jsonl": "not read (E231)",
        "gone.csv": "not read (E300)",
        "hf:org/rows": "a hub data set is not looked through",
        str(tmp_path / "broken.json"): "not read as rows (E306)",
        "data/utf16.csv": "not read as rows (E307)",
    }


def test_a_stated_source_of_the_project_has_to_be_readable(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    file_with(tmp_path / "data", "broken.json", '[{"person": ')
    with pytest.raises(DataError, match="E306"):
        subjects.gather(project, ANNA, [Source(path="data/broken.json")])
