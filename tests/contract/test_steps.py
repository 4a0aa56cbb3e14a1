"""Every preparation step: its SAMPLE, deterministic, counts in and out, empty input, origins that fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metier.core.catalog import catalog
from metier.core.extras import installed
from metier.core.sections import Kind
from metier.core.types import Conversation, Example, Labelled, Message, Preference, Problem, Rated, Text, identify
from metier.data.steps import Around, packages_of, run_step, run_step_on_given

NAMES = catalog("steps").names()
_ASKED, _GOOD, _BAD = (Message("user", " Hi\x07 "),), (Message("assistant", "Yes "),), (Message("assistant", "No"),)
EVERY_KIND: list[Any] = [
    Text(text="A  text\r\nin two lines "),
    Labelled(text="Where is it?", target="card"),
    Conversation(messages=(*_ASKED, *_GOOD)),
    Preference(prompt=_ASKED, chosen=_GOOD, rejected=_BAD),
    Rated(prompt=_ASKED, completion=_GOOD, label=False),
    Problem(prompt=_ASKED, item={"answer": "42"}),
]


def kind(name: str) -> Kind:
    made = Kind.model_validate({"kind": name, **catalog("steps").get(name).SAMPLE["options"]})
    if absent := [package for package in packages_of([made]) if installed(package) is None]:
        pytest.skip(f"optional packages are not installed: {', '.join(absent)}")
    return made


def identified(examples: list[Any]) -> list[Example]:
    return [replace(identify(e), place=f"a:{i}") for i, e in enumerate(examples)]


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_comes_out_as_it_says(name: str) -> None:
    sample = catalog("steps").get(name).SAMPLE
    around = Around(held_out={"test": identified(sample.get("held_out", []))})
    result = run_step(kind(name), identified(sample["examples"]), around=around)
    assert [replace(e, place="", id="") for e in result.examples] == sample["result"]


@pytest.mark.parametrize("name", NAMES)
def test_counts_add_up_and_origins_fit(name: str) -> None:
    given = identified([*EVERY_KIND, *EVERY_KIND])
    result = run_step(kind(name), given)
    assert len(set(result.origins)) + len(result.dropped) == len(given)  # a row may be repeated (balance)
    assert len(result.origins) == len(result.examples)
    assert result.origins == sorted(result.origins)
    assert len(set(result.origins)) == len(result.origins) or getattr(catalog("steps").get(name), "AFTER_SPLIT", False)
    for origin, example in zip(result.origins, result.examples, strict=True):
        assert type(example) is type(given[origin])
        assert example.place == given[origin].place
        assert example.id == identify(example).id  # type: ignore[type-var]
    assert {identifier for identifier, _ in result.dropped} <= {e.id for e in given}
    assert result.note


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_same_input_gives_the_same_output(name: str) -> None:
    assert run_step(kind(name), identified(EVERY_KIND)) == run_step(kind(name), identified(EVERY_KIND))


@pytest.mark.parametrize("name", NAMES)
def test_its_own_output_passes_unchanged(name: str) -> None:
    once = run_step(kind(name), identified(EVERY_KIND)).examples
    assert run_step(kind(name), once).examples == once


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_no_trouble(name: str) -> None:
    result = run_step(kind(name), [])
    assert (result.examples, result.origins, result.dropped) == ([], [], [])


@pytest.mark.parametrize("name", NAMES)
def test_a_given_split_loses_no_row(name: str) -> None:
    given = identified([*EVERY_KIND, *EVERY_KIND, Text(text="\x07")])
    result = run_step_on_given(kind(name), given)
    assert [e.place for e in result.examples] == [e.place for e in given]
    assert result.dropped == []
