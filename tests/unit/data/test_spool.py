"""Examples on disk: what is read is what was added, and the steps make of them what they make of lists."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metier.core.catalog import catalog
from metier.core.sections import Kind
from metier.core.types import (
    Conversation,
    Example,
    Labelled,
    Message,
    Preference,
    Problem,
    Rated,
    Text,
    ToolCall,
    identify,
)
from metier.data.content import num_characters
from metier.data.spool import (
    Choice,
    Lines,
    Rewritten,
    Spool,
    characters_in,
    chosen,
    encoded,
    extended,
    joined,
    kinds_in,
    lines_of,
    replaced,
)
from metier.data.steps import Around, run_step, run_step_on_given

CALL = ToolCall(name="look", arguments={"q": "é"}, arguments_text='{"q": "é"}', id="1")
ROWS: list[Any] = [
    Text(text="Ein Text\nin zwei Zeilen \u2028 und mehr", meta={"n": 1, "of": [1.5, None]}),
    Labelled(text=" Where  is it? ", target="card", place="a.csv:2"),
    Labelled(text="where is IT", target="card"),
    Labelled(text="both", target=("a", "b")),
    Labelled(text="none", target=()),
    Labelled(text="a number", target=0.5),
    Conversation(messages=(Message("user", ("two", "parts")), Message("assistant", "", tool_calls=(CALL,)))),
    Preference(
        prompt=(Message("user", "Q"),), chosen=(Message("assistant", "A"),), rejected=(Message("assistant", "B"),)
    ),
    Rated(prompt=(Message("user", "Q"),), completion=(Message("assistant", "A"),), label=False),
    Problem(prompt=(Message("user", "2 + 2?"),), item={"answer": "4"}),
]


def rows() -> list[Example]:
    return [identify(row) for row in ROWS]


def spooled(folder: Path, examples: list[Example]) -> Choice:
    return Spool(folder / "rows.jsonl").taking(examples)


def test_what_is_read_is_what_was_added(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "rows.jsonl")
    numbers = [spool.add(row) for row in rows()]
    assert numbers == list(range(len(ROWS)))
    assert list(spool) == rows() and spool[-1] == rows()[-1]
    assert [spool[i] for i in (3, 0, 3)] == [rows()[i] for i in (3, 0, 3)]
    assert spool.characters.tolist() == [num_characters(row) for row in rows()]
    with pytest.raises(IndexError):
        spool[len(ROWS)]
    num_bytes, _ = spool.synced()
    assert spool.file.stat().st_size == num_bytes and stat.S_IMODE(spool.file.stat().st_mode) == 0o600
    assert list(Lines(spool.file)) == rows()
    assert spool.file.read_bytes() == b"".join(map(encoded, rows()))


def test_choices_of_choices_and_of_lists_are_the_same_rows(tmp_path: Path) -> None:
    listed = rows()
    choice = spooled(tmp_path, listed)
    for picked in ([], [4, 4, 0], list(range(len(ROWS)))[::-1]):
        on_disk = chosen(chosen(choice, picked), range(len(picked)))
        assert isinstance(on_disk, Choice)
        assert list(on_disk) == chosen(listed, picked)
        assert list(lines_of(on_disk)) == list(lines_of(chosen(listed, picked)))
        assert characters_in(on_disk) == characters_in(chosen(listed, picked))
    assert list(choice[2:5]) == listed[2:5] and choice[-1] == listed[-1]
    assert list(kinds_in(choice)) == list(kinds_in(listed)) == [json.loads(encoded(row))["kind"] for row in listed]
    both = joined([choice[:2], choice[5:]])
    assert isinstance(both, Choice) and list(both) == [*listed[:2], *listed[5:]]
    assert joined([choice[:1], listed[1:2]]) == listed[:2]
    assert list(extended(choice[:1], listed[3:4])) == [listed[0], listed[3]] == extended(listed[:1], listed[3:4])
    assert list(replaced(choice, [1, 2], choice[:2])) == replaced(listed, [1, 2], listed[:2])


def test_a_row_that_stays_is_not_written_again(tmp_path: Path) -> None:
    choice = spooled(tmp_path, rows())
    made = Rewritten(choice)
    made.keep(1, choice[1])
    made.add(3, Text(text="new"))
    assert made.origins == [1, 3] and list(made.examples) == [rows()[1], Text(text="new")]
    assert isinstance(made.examples, Choice) and made.examples.numbers.tolist() == [1, len(ROWS)]
    empty = Rewritten(choice[:0]).examples
    assert isinstance(empty, Choice) and len(empty) == 0


def test_somebody_is_told_how_far_it_is_read(tmp_path: Path) -> None:
    many = spooled(tmp_path, [Text(text=str(i)) for i in range(2500)])
    told: list[int] = []
    watched = many.watched(told.append)
    assert len(list(watched)) == 2500 and told == [1000, 2000]
    assert len(list(watched)) == 2500 and told == [1000, 2000]


def test_a_spool_goes_on_where_it_was_and_nothing_else_is_believed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "rows.jsonl")
    first = spool.taking(rows())
    num_bytes, sha256 = spool.synced()
    characters = spool.characters
    spool.add(Text(text="torn off"))
    spool.synced()
    again = Spool.continued(spool.file, num_bytes, sha256, characters)
    assert list(again) == list(first) and spool.file.stat().st_size == num_bytes
    again.add(Text(text="after"))
    assert again[len(ROWS)] == Text(text="after")
    with pytest.raises(ValueError):
        Spool.continued(spool.file, num_bytes, sha256, characters[1:])
    whole, _ = again.synced()
    data = spool.file.read_bytes()
    for altered in (data[: num_bytes - 3], data.replace(b"card", b"cart", 1)):
        spool.file.write_bytes(altered)
        with pytest.raises(ValueError):
            Spool.continued(spool.file, num_bytes, sha256, characters)
    assert whole > num_bytes


@pytest.mark.parametrize("name", [n for n in catalog("steps").names() if n != "filter_language"])
def test_a_step_makes_of_rows_on_disk_what_it_makes_of_a_list(name: str, tmp_path: Path) -> None:
    sample = catalog("steps").get(name).SAMPLE
    step = Kind.model_validate({"kind": name, **sample["options"]})
    listed = [identify(row) for row in [*sample["examples"], *rows()]]
    held = [identify(row) for row in sample.get("held_out", [])]
    expected = run_step(step, listed, around=Around(held_out={"test": held}))
    choice = spooled(tmp_path, [*listed, *held])
    on_disk = run_step(step, choice[: len(listed)], around=Around(held_out={"test": choice[len(listed) :]}))
    assert isinstance(on_disk.examples, Choice)
    assert list(on_disk.examples) == list(expected.examples)
    assert (on_disk.origins, on_disk.note, on_disk.dropped) == (expected.origins, expected.note, expected.dropped)
    given = run_step_on_given(step, choice[: len(listed)])
    assert list(given.examples) == list(run_step_on_given(step, listed).examples)
    assert np.all(np.diff(on_disk.origins) >= 0)
