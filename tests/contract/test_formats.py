"""Every format: its SAMPLE, one claimant per row, errors that name row and field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metier.core.catalog import catalog
from metier.core.errors import RowError
from metier.core.types import KINDS, from_json, kind_of, to_json
from metier.data import formats

NAMES = catalog("formats").names()


def test_the_catalog_lists_the_files() -> None:
    assert {"openai", "alpaca", "sharegpt", "prompt_completion", "preference", "rated", "labelled", "text"} <= set(
        NAMES
    )
    assert not [name for name in NAMES if name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_is_read_as_it_says(name: str) -> None:
    module = catalog("formats").get(name)
    rows, expected = module.SAMPLE["rows"], module.SAMPLE["examples"]
    read = [module.read(row, place="", meta_from=row) for row in rows]
    assert read == expected
    assert {kind_of(e) for e in read} == {module.kind}
    assert module.kind in KINDS


@pytest.mark.parametrize("name", NAMES)
def test_exactly_one_format_claims_each_sample_row(name: str) -> None:
    for row in catalog("formats").get(name).SAMPLE["rows"]:
        assert [n for n in NAMES if catalog("formats").get(n).fits(row)] == [name]
        found = formats.detect([row])
        assert found.name == name
        assert found.reason.startswith("has ")


@pytest.mark.parametrize("name", NAMES)
def test_examples_survive_json(name: str) -> None:
    for row in catalog("formats").get(name).SAMPLE["rows"]:
        example = formats.read_row(name, row, place="a.jsonl:1")
        assert example.id and from_json(to_json(example)) == example


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_row_names_row_and_field_and_shows_no_content(name: str) -> None:
    for broken in ({}, dict.fromkeys(catalog("formats").get(name).COLUMNS, 7)):
        with pytest.raises(RowError) as caught:
            formats.read_row(name, {**broken, "secret": "Ada Lovelace"}, place="a.jsonl:3")
        assert caught.value.place == "a.jsonl:3"
        assert caught.value.field
        assert caught.value.reason == caught.value.reason.lower().replace(" ", "-")
        assert "Ada" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_other_columns_go_to_meta_untouched(name: str) -> None:
    module = catalog("formats").get(name)
    row = {**module.SAMPLE["rows"][0], "ward": ["b", {"bed": 4}]}
    example = formats.read_row(name, row, place="x:1")
    assert example.meta["ward"] == ["b", {"bed": 4}]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_content_has_the_same_id_wherever_it_stands(name: str) -> None:
    row = catalog("formats").get(name).SAMPLE["rows"][0]
    one, other = (formats.read_row(name, row, place=place) for place in ("a:1", "b:2"))
    assert one.id == other.id
    assert replace(one, place="b:2") == other


@pytest.mark.parametrize("name", NAMES)
def test_summary_and_options_are_there(name: str) -> None:
    module = catalog("formats").get(name)
    assert module.summary and module.Options.model_json_schema() is not None
