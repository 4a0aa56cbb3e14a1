"""The figures of a data report: counted by hand, the same in any order of the rows, and whole for odd and tiny data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.core.project import read_json
from metier.core.types import Conversation, Example, Labelled, Message, Preference, Problem, Text, identify
from metier.data import figures as counting
from metier.data import report
from metier.data.figures import measure

MANIFEST: dict[str, Any] = {"name": "desk", "version": "v1", "counts": {"train": 1}, "digest": "9f" * 32}


def talk(question: str, answer: str, **meta: Any) -> Conversation:
    said = (Message("system", "be kind"), Message("user", question), Message("assistant", answer))
    return identify(Conversation(messages=said, meta=meta))


def many(num: int = 120) -> list[Example]:
    words = "card rent fever lease cough pin flat pain".split()  # noqa: SIM905
    return [
        identify(
            Labelled(
                text=f"please tell about {words[n % 4 * 2]} and {words[n % 4 * 2 + 1]} {n}",
                target="ab"[n % 2],
                meta={"region": "north" if n % 3 else "south", "person": f"P-{n % 4}"},
            )
        )
        for n in range(num)
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Text(text="")],
        [Text(text="one word")],
        [identify(Text(text="銀行卡丢失了怎么办")), identify(Text(text="كيف أدفع الرسوم"))],
        [identify(Labelled(text=f"text {n}", target="only")) for n in range(10)],
        [Labelled(text="a number", target=0.5)] * 3,
        [Labelled(text="", target=("a", "b")), Labelled(text="x", target=())],
        [talk("", "")] * 10,
        [Problem(prompt=(Message("user", "2 + 2?"),), item={"answer": 4})],
        [Preference(prompt=(), chosen=(Message("assistant", "yes"),), rejected=(Message("assistant", "no"),))],
    ],
)
def test_tiny_and_odd_data_have_a_page_a_card_and_json(rows: list[Example], tmp_path: Path) -> None:
    found = measure({"train": rows, "validation": [], "test": []}, MANIFEST, {})
    report.write(tmp_path, MANIFEST, found)
    assert read_json(tmp_path / "report.json")["topics"]["topics"] == []
    assert "too few for topics" in (tmp_path / "report.html").read_text("utf-8")
    assert found["sample"]["rows"] == len(rows)


def test_the_json_beside_the_page_holds_the_figures(tmp_path: Path) -> None:
    found = measure({"train": many()}, MANIFEST, {"task": "classify", "description": "Route", "slices": []})
    report.write(tmp_path, MANIFEST, found)
    value = read_json(tmp_path / "report.json")
    assert (value["schema_version"], value["dataset"], value["digest"]) == (1, "data:desk@v1", "9f" * 32)
    assert {name: value[name] for name in found} == json.loads(json.dumps(found))
    card, page = report.card(MANIFEST, found), (tmp_path / "report.html").read_text("utf-8")
    for keyword in found["topics"]["topics"][0]["keywords"]:
        assert keyword in card and keyword in page
    assert "Route" in card and "Route" in page


def test_the_order_of_the_rows_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "NUM_ROWS", 110)
    rows = many()
    forward, backward = measure({"train": rows}), measure({"train": rows[::-1]})
    assert forward == backward == measure({"train": rows})
    assert forward["sample"] == {"rows": 110, "of": 120, "characters": 1000}
    assert sum(topic["rows"]["train"] for topic in forward["topics"]["topics"]) == 110


def test_prompts_and_completions_are_told_apart_and_the_template_is_no_part_of_a_prompt() -> None:
    rows = [talk(f"Read this text: {'red' if n % 2 else 'blue'}", "yes it is so") for n in range(12)]
    found = measure({"train": rows}, {**MANIFEST, "prompt": {"user": "Read this text: {text}"}})
    assert (found["diversity"]["prompts"]["words"], found["diversity"]["prompts"]["distinct_1"]) == (
        12,
        round(2 / 12, 4),
    )
    assert found["openings"]["completions"]["largest"] == 1.0
    assert found["openings"]["completions"]["shown"] == [["yes it is", 12]]
    assert "texts" not in found["diversity"]


def test_people_and_groups_are_counted_but_their_keys_are_never_listed() -> None:
    manifest = {
        **MANIFEST,
        "split": {"group_by": "ward"},
        "sources": [{"path": "a.csv", "permission": {"subject_key": "person"}}],
    }
    rows = [identify(Text(text=f"row {n}", meta={"person": f"P-{n % 4}", "ward": f"W-{n % 3}"})) for n in range(12)]
    found = measure({"train": rows, "test": rows[:1]}, manifest)
    assert found["columns"] == {} and found["column_values"] == {"person": 4, "ward": 3}
    assert found["groups"] == {"column": "ward", "num": {"train": 3, "test": 1}, "largest": 5}
    shown = json.dumps(found) + report.card(manifest, found) + report.render(manifest, found)
    assert "P-1" not in shown and "W-1" not in shown


def test_a_word_that_one_group_says_is_no_keyword() -> None:
    rows = many()
    split = {"split": {"group_by": "person"}}
    open_words = {w for t in measure({"train": rows})["topics"]["topics"] for w in t["keywords"]}
    assert open_words
    assert {w for t in measure({"train": rows}, split)["topics"]["topics"] for w in t["keywords"]} == set()


def test_a_slice_is_listed_with_more_values_than_another_column() -> None:
    rows = [identify(Text(text=f"row {n}", meta={"ward": f"ward {n % 20}"})) for n in range(200)]
    assert measure({"train": rows})["columns"] == {}
    sliced = measure({"train": rows}, MANIFEST, {"slices": ["ward"]})
    assert len(sliced["columns"]["ward"]) == 20
    assert sliced["balance"]["columns"]["ward"]["evenness"] == 1.0
    assert measure({"train": [identify(Text(text=str(n), meta={"key": str(n)})) for n in range(99)]})[
        "column_values"
    ] == {"key": None}


def test_repeated_rows_are_those_with_the_content_of_an_earlier_one() -> None:
    one, other = identify(Text(text="one")), identify(Text(text="other"))
    found = measure({"train": [one, one, other], "validation": [], "test": [other]})
    assert found["repeated"] == {"train": 1, "validation": 0, "test": 1}
    assert measure({"train": [Text(text="no id")] * 3})["repeated"] == {"train": 0}


def test_writing_systems_are_shares_of_the_words() -> None:
    found = measure({"train": [Text(text="one two три 12"), Text(text="卡")]})
    assert found["scripts"] == {"Latin": 0.5, "Cyrillic": 0.25, "Cjk": 0.25}


def test_languages_are_named_where_they_can_be_told() -> None:
    pytest.importorskip("lingua")
    chinese = [Text(text="上周我寄给你的信一直没有到，请问怎么办")] * 3
    assert measure({"train": chinese})["languages"] == {"rows": {"zh": 3}, "too_short": 0}
    english = [Text(text=f"The letter that I sent to you last week never arrived, number {n}.") for n in range(60)]
    german = [Text(text=f"Der Brief, den ich letzte Woche geschickt habe, kam nie an, Nummer {n}.") for n in range(20)]
    found = measure({"train": [*english, *german, Text(text="kurz")]})
    assert found["languages"] == {"rows": {"en": 60, "de": 20}, "too_short": 1}
    assert measure({"train": [*english, *german[:1]]})["languages"]["rows"] == {"en": 60, "other": 1}
    kept = [{"name": "filter_language", "options": {"languages": ["en", "de"]}}]
    found = measure({"train": [*english, *german[:1]]}, {"steps": kept})
    assert (found["languages"]["rows"], found["gaps"][0]["names"]) == ({"en": 60, "de": 1}, ("de 1 of 61",))
    steps = [{"name": "filter_language", "options": {"languages": ["en", "fr"]}}]
    (gap,) = measure({"train": [*english, *german]}, {"steps": steps})["gaps"]
    assert gap["names"] == ("fr 0 of 80",)
