"""Columns beside the text: dropped, replaced, made coarser; k-anonymity; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.core.catalog import catalog
from metier.core.errors import ConfigError
from metier.core.extras import installed
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Message, Problem, Text, identify
from metier.data import report
from metier.data.dataset import Dataset, build
from metier.data.privacy import vault
from metier.data.privacy.anonymity import statement
from metier.data.privacy.columns import changed
from metier.data.steps import deidentify


def value_of(value: Any, action: str) -> Any:
    return changed(value, action, lambda text, kind: f"<{kind}>", lambda text: f"read {text}")


@pytest.mark.parametrize(
    ("value", "action", "expected"),
    [
        ("Anna Kowal", "PERSON", "<PERSON>"), (48213, "MRN", "<MRN>"), (["a", "b"], "EMAIL", ["<EMAIL>", "<EMAIL>"]),
        ("she came late", "text", "read she came late"), (7, "text", 7), ("x", "keep", "x"), (None, "MRN", None),
        ("", "MRN", ""), ("1961-03-05", "year", "1961"), ("5.3.1961", "year", "1961"), (1961, "year", "1961"),
        ("5 March", "year", None), ("05/03/61", "year", None), (47, "tens", "40-49"), ("47.5", "tens", "40-49"),
        (9, "tens", "0-9"), (89, "tens", "80-89"), (90, "tens", "90+"), (104, "tens", "90+"), ("old", "tens", None),
        ("nan", "tens", None), ("inf", "tens", None), (True, "MRN", "<MRN>"),
        ("60614", "zip3", "606"), ("60614-1234", "zip3", "606"), (60614, "zip3", "606"), ("03601", "zip3", "000"),
        ("82190", "zip3", "000"), ("SW1A 1AA", "zip3", None), ("7", "zip3", None),
        (3601, "zip3", "000"), ("3601", "zip3", "000"), (2139, "zip3", "021"), (2139.0, "zip3", "021"),
        ("2139-1234", "zip3", "021"), (21391234, "zip3", "021"), (6011234, "zip3", "006"), (60614.0, "zip3", "606"),
        ("606141234", "zip3", "606"), ("60614 Chicago", "zip3", "606"), ("1234567890", "zip3", None),
    ],
)  # fmt: skip
def test_what_becomes_of_a_value(value: Any, action: str, expected: Any) -> None:
    assert value_of(value, action) == expected


@pytest.mark.parametrize(("value", "action"), [("1961-03-05", "year"), (47, "tens"), (99, "tens"), ("03601", "zip3")])
def test_what_was_made_coarser_stays_so(value: Any, action: str) -> None:
    once = value_of(value, action)
    assert value_of(once, action) == once


def people(n: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "text": f"The patient of bed {i} slept well and went home.",
            "patient": f"Kowalczyk{'abcdef'[i % 6]}",
            "born": f"19{40 + i % 2}-03-{1 + i % 28:02d}",
            "ward": "north" if i % 10 else "south",
            "note": "Call 212-555-0134.",
        }
        for i in range(n)
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    project = Project.create(tmp_path / "project", "test")
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people()))
    return project


def made(project: Project, data: dict[str, Any] | None = None, **options: Any) -> Dataset:
    values = {"sources": [{"path": "data/a.jsonl"}], "steps": [{"kind": "deidentify", **options}], **(data or {})}
    return build(Recipe.build({"name": "notes", "data": values}, file="recipe.yaml"), project)


COLUMNS = {"patient": "PERSON", "born": "year", "ward": "keep", "note": "text"}


def test_every_split_has_its_columns_changed_and_no_value_is_in_manifest_card_or_report(project: Project) -> None:
    version = made(project, columns=COLUMNS, quasi_identifiers=["born", "ward"])
    rows = [example.meta for split in SPLITS for example in version.examples(split)]
    assert len(rows) == 60
    assert {row["patient"] for row in rows} == {"[PERSON]"}
    assert {row["born"] for row in rows} == {"1940", "1941"}
    assert {row["note"] for row in rows} == {"Call [PHONE]."}
    said = json.dumps(version.manifest) + report.card(version.manifest, {}) + report.render(version.manifest, {})
    assert "Kowalczyk" not in said
    assert "1940" not in said
    assert "k-anonymity by born, ward" in said


def test_k_counts_the_smallest_class_of_what_is_written(project: Project) -> None:
    # 60 rows: 6 on the south ward, all born in 1940; 24 of the north born in 1940, 30 in 1941
    fine = made(project, columns=COLUMNS, quasi_identifiers=["born", "ward"]).manifest["privacy"]["quasi_identifiers"]
    assert fine == {"columns": ["born", "ward"], "k": 6, "rows": 60, "rows_below_5": 0}
    raw = made(project, quasi_identifiers=["born", "ward"]).manifest
    assert raw["privacy"]["quasi_identifiers"]["k"] < 5
    assert raw["privacy"]["quasi_identifiers"]["rows_below_5"] > 30
    assert "by born, ward: k = " in raw["steps"][0]["note"]


def test_k_counts_people_where_a_source_says_who_they_are(project: Project) -> None:
    # Six people on the wards; a class of ten rows may be two of them.
    source = {"path": "data/a.jsonl", "permission": {"subject_key": "patient", "personal_data": True}}
    columns = {**COLUMNS, "patient": "keep"}
    version = made(project, {"sources": [source]}, columns=columns, quasi_identifiers=["born", "ward"]).manifest
    facts = version["privacy"]["quasi_identifiers"]
    # south: beds 0, 10 … 50, of the patients a, e, c; born in 1941: the patients b, d, f of all odd beds
    assert facts == {"columns": ["born", "ward"], "k": 3, "rows": 60, "rows_below_5": 60, "people": True}
    assert "by born, ward: k = 3, 60 of 60 rows (100.0 %) in classes below 5 people" in version["steps"][0]["note"]
    assert "below 5 people" in report.card(version, {})


def test_the_columns_of_a_problem_are_changed_for_its_graders_too() -> None:
    columns = {"patient": "PERSON", "born": "year", "ward": "drop"}
    meta = {"patient": "Kowalczyk", "born": "1961-03-05", "ward": "north", "answer": "42"}
    row = identify(Problem(prompt=(Message("user", "Who?"),), item=dict(meta), meta=meta))
    result = deidentify.run([row], deidentify.Options(columns=columns))
    (changed,) = result.examples
    assert isinstance(changed, Problem)
    assert changed.item == changed.meta == {"patient": "[PERSON]", "born": "1961", "answer": "42"}
    assert changed.id == identify(changed).id != row.id
    assert result.note == "1 of 1 rows changed: nothing found; columns not read: answer"
    bare = identify(Problem(prompt=(Message("user", "Who?"),), item={"doctor": "Kowalczyk"}))
    assert "columns not read: doctor" in deidentify.run([bare], deidentify.Options()).note
    said = statement([bare], profiles=["gdpr"], vault=None)
    assert said["columns_not_read"] == ["doctor"]


def test_a_version_is_made_anew_when_another_year_tells_an_age_over_89(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"profile": "hipaa-safe-harbor", "columns": {**COLUMNS, "patient": "drop"}}
    monkeypatch.setattr("metier.data.privacy.columns.telling_year", lambda profile: 1939)
    first = made(project, **told)
    assert made(project, **told).ref == first.ref
    monkeypatch.setattr("metier.data.privacy.columns.telling_year", lambda profile: 1940)
    second = made(project, **told)
    assert (first.ref, second.ref) == ("data:notes@v1", "data:notes@v2")
    assert {e.meta["born"] for split in SPLITS for e in first.examples(split)} == {"1940", "1941"}
    assert {e.meta["born"] for split in SPLITS for e in second.examples(split)} == {"1940 or earlier", "1941"}


def test_columns_that_nothing_names_are_listed(project: Project) -> None:
    version = made(project, columns={"patient": "drop", "born": "year"})
    assert version.manifest["privacy"]["columns_not_read"] == ["note", "ward"]
    assert "columns not read: note, ward" in version.manifest["steps"][0]["note"]
    assert all("patient" not in example.meta for example in version.examples("train"))


def test_a_value_that_cannot_be_made_coarser_is_gone_and_counted() -> None:
    rows = [identify(Text(text="Hello.", meta={"born": born})) for born in ("1961-01-01", "in spring")]
    result = deidentify.run([*rows], deidentify.Options(columns={"born": "year"}))
    assert [dict(row.meta) for row in result.examples] == [{"born": "1961"}, {"born": None}]
    assert "1 values could not be made coarser and are gone" in result.note


@pytest.mark.skipif(installed("cryptography") is None, reason="cryptography is not installed")
def test_a_name_in_a_column_and_in_the_text_is_the_same_surrogate(project: Project) -> None:
    rows = [{"text": f"Dr. Kowalczyk saw bed {i}.", "doctor": "Kowalczyk"} for i in range(20)]
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    version = made(
        project, {"split": {"group_by": "doctor", "validation": 0, "test": 0}}, columns={"doctor": "PERSON"},
        strategy="surrogate",
    )  # fmt: skip
    row = version.examples("train")[0]
    assert isinstance(row, Text)
    assert row.text.split()[1] == row.meta["doctor"] != "Kowalczyk"


@pytest.mark.skipif(installed("cryptography") is None, reason="cryptography is not installed")
def test_no_surrogate_in_a_column_is_what_somebody_else_is_called_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    numbers = [str(number) for number in range(10, 70)]  # of the ninety that have their form
    rows = [identify(Text(text="Hello.", meta={"patient": number})) for number in numbers]
    with vault.opened(tmp_path / "a.vault"):
        result = deidentify.run([*rows], deidentify.Options(strategy="surrogate", columns={"patient": "MRN"}))
    drawn = [row.meta["patient"] for row in result.examples]
    assert len(set(drawn)) == len(numbers)
    assert set(drawn).isdisjoint(numbers)


@pytest.mark.parametrize(
    ("data", "options", "code"),
    [
        ({}, {"columns": {"patiemt": "drop"}}, "E215"),
        ({}, {"quasi_identifiers": ["age"]}, "E215"),
        ({}, {"columns": {"patient": "remove"}}, "E211"),
        ({"split": {"group_by": "patient"}}, {"columns": {"patient": "PERSON"}}, "E214"),
        ({"split": {"group_by": "patient"}}, {"columns": {"patient": "drop"}}, "E214"),
        *(
            ({"sources": [{"path": "data/a.jsonl", "permission": {"subject_key": "patient"}}], **more}, options, "E214")
            for more in ({}, {"split": {"group_by": "patient"}})
            for options in (
                {"columns": {"patient": "PERSON"}, "strategy": "mask"},
                *({"columns": {"patient": action}} for action in ("text", "year", "tens", "zip3", "drop")),
                *({"columns": {"patient": kind}, "strategy": "surrogate"} for kind in ("DATE", "AGE")),
            )
        ),
    ],
)
def test_what_would_leave_or_break_something_is_refused(
    project: Project, data: dict[str, Any], options: dict[str, Any], code: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        made(project, data, **options)
    assert caught.value.code == code
    assert "Kowalczyk" not in str(caught.value)


def test_a_group_column_may_be_kept_or_made_coarser(project: Project) -> None:
    version = made(project, {"split": {"group_by": "born"}}, columns={"born": "year", "patient": "drop"})
    years = {split: {e.meta["born"] for e in version.examples(split)} for split in SPLITS}
    assert not any(years[a] & years[b] for a, b in (("train", "test"), ("train", "validation")))


def test_the_actions_are_in_the_description() -> None:
    described = catalog("steps").get("deidentify").Options.model_fields["columns"].description
    assert all(f"`{action}`" in described for action in ("drop", "keep", "text", "year", "tens", "zip3"))


def test_the_value_of_a_kept_column_stays_in_the_text_too_where_it_is_a_word_of_its_own() -> None:
    """A prompt that names the column (`Section {section}:`) reads in training as it will when the model is used."""
    options = deidentify.Options(columns={"section": "keep", "visit": "keep"})
    text = "Note, section FAM/SOCHX: seen by Zbigniew Kowalczyk."

    def read(**meta: Any) -> str:
        example = deidentify.run([identify(Text(text=text, meta=meta))], options).examples[0]
        assert isinstance(example, Text)
        return example.text

    assert read() == read(visit=7) == "Note, section [PERSON]/SOCHX: seen by [PERSON]."
    assert read(section="FAM/SOCHX", visit=7) == "Note, section FAM/SOCHX: seen by [PERSON]."
    assert "Kowalczyk" not in read(section="Kowal")  # a part of a name is not the column's value
