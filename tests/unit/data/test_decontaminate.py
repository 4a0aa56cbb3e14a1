"""The step `decontaminate` inside a preparation: what it sees, what it drops, and that a benchmark's bytes count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, DataError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Conversation, Message, Text, identify
from metier.data.dataset import Dataset, build
from metier.data.steps import Around, decontaminate
from metier.data.steps.decontaminate import Options

WORDS = "amber birch cedar delta ember fjord grove haven inlet jetty knoll ledge marsh north ocean plain quarry".split()  # noqa: SIM905
RUN = " ".join(WORDS[:13])


def text(value: str) -> Text:
    return identify(Text(text=value))


def reasons(train: list[Any], held_out: list[Any], around: Around | None = None, **options: Any) -> list[str | None]:
    """Return for each training row why it was dropped, or None."""
    seen = around or Around(held_out={"test": held_out})
    result = decontaminate.run(train, Options(**options), seen)
    why = dict(result.dropped)
    assert [train[i].id for i in result.origins] == [e.id for e in result.examples]
    return [why.get(e.id) for e in train]


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    held = [text(f"one two {RUN.upper()}, three")]
    twelve = " ".join(WORDS[:12])
    found = reasons([text(f"first {RUN} last"), text(f"first {twelve} last"), text("nothing")], held)
    assert found == ["13 words in common with test", None, None]
    broken = " ".join([*WORDS[:6], "unseen", *WORDS[6:13]])
    assert reasons([text(broken)], held) == [None]


def test_a_short_row_overlaps_when_it_is_the_same_or_nearly() -> None:
    held = [text("What is the capital of Peru?")]
    train = [text("what is the capital of PERU"), text("What is the capital of Peru, please?"), text("Peru")]
    assert reasons(train, held, threshold=0.6) == ["near duplicate of test"] * 2 + [None]
    assert reasons(train, held, threshold=1) == ["near duplicate of test", None, None]


def test_answers_count_as_well_as_questions() -> None:
    def chat(question: str, answer: str) -> Conversation:
        return identify(Conversation(messages=(Message("user", question), Message("assistant", answer))))

    assert reasons([chat("completely other", f"well, {RUN}")], [chat("a question", RUN)]) == [
        "13 words in common with test"
    ]


def test_a_phrase_of_many_training_rows_is_no_overlap() -> None:
    train = [text(f"{RUN} {i} {i * 7919}") for i in range(4)]
    assert reasons(train, [text(f"{RUN} and what then?")], common_rows=3) == [None] * 4
    assert all(reasons(train, [text(f"{RUN} and what then?")], common_rows=4))


def test_the_fixed_words_of_the_prompt_are_no_overlap() -> None:
    literal = f"Summarize: {RUN} "
    held, train = (
        identify(Conversation(messages=(Message("user", f"{literal}{word}"), Message("assistant", word))))
        for word in ("one", "two")
    )
    assert reasons([train], [], Around(held_out={"test": [held]}, literals=[literal])) == [None]
    assert reasons([train], [held]) != [None]


def test_only_the_named_splits_are_compared() -> None:
    around = Around(held_out={"validation": [text(RUN)]})
    assert reasons([text(RUN)], [], around, splits=["test"]) == [None]
    assert reasons([text(RUN)], [], around) == ["near duplicate of validation"]


def test_texts_longer_than_what_near_duplicates_look_at_are_read_to_the_end() -> None:
    filler = " ".join(f"w{i}" for i in range(8000))
    assert reasons([text(f"{filler} {RUN}")], [text(RUN)]) == ["13 words in common with test"]


# ───────────────────────────────────────────────────────────────────────────── in a preparation


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project", "test")


def write(project: Project, name: str, rows: list[Any]) -> str:
    (project.root / "data" / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return f"data/{name}"


def recipe(sources: list[dict[str, Any]], *steps: Any, **data: Any) -> Recipe:
    values = {"name": "corpus", "data": {"sources": sources, "steps": list(steps), **data}, "method": "cpt"}
    return Recipe.build(values, file="recipe.yaml")


def corpus(n: int) -> list[dict[str, str]]:
    return [
        {"text": " ".join(WORDS[(i * j + i // 7) % 17] + str((i * 31 + j) % 97) for j in range(20))} for i in range(n)
    ]


def made(project: Project, *steps: Any, extra: list[str] | None = None) -> Dataset:
    train = [*corpus(60), *({"text": t} for t in extra or [])]
    sources = [
        {"path": write(project, "train.jsonl", train), "split": "train"},
        {"path": write(project, "test.jsonl", [{"text": f"{RUN} in test"}, {"text": "short one"}]), "split": "test"},
    ]
    return build(recipe(sources, *steps), project)


def test_given_rows_stay_and_their_leaks_are_gone(project: Project) -> None:
    leaks = [f"start {RUN} stop", "Short one!"]
    before = made(project, extra=leaks)
    assert before.manifest["split_proof"]["leaks"]["exact"] == 1
    after = made(project, {"kind": "decontaminate", "against": []}, extra=leaks)
    assert after.manifest["split_proof"]["leaks"] == {"exact": 0, "near": 0}
    assert after.count("test") == 2 and after.count("validation") == before.count("validation")
    (record,) = after.manifest["steps"]
    assert record["dropped"] == {"13 words in common with test": 1, "near duplicate of test": 1}
    assert record["rows_in"] - record["rows_out"] == 2 == before.count("train") - after.count("train")


def test_a_benchmark_file_is_part_of_what_a_version_is_found_by(project: Project) -> None:
    step = {"kind": "decontaminate", "against": ["data/exam.jsonl"]}
    write(project, "exam.jsonl", [{"question": "another matter", "choices": ["a", "b"]}])
    first = made(project, step, extra=[f"start {RUN} stop"])
    assert first.manifest["steps"][0]["dropped"] == {"13 words in common with test": 1}
    row = corpus(60)[int(first.examples("train")[0].place.rpartition(":")[2]) - 1]["text"]
    write(project, "exam.jsonl", [{"question": f"What is {row}", "choices": ["a", "b"]}])
    (project.root / "data" / "exam.jsonl").open("a").write("{broken\n")
    second = made(project, step, extra=[f"start {RUN} stop"])
    assert second.count("train") == first.count("train") - 1
    assert "1 unreadable rows of the benchmark files" in second.manifest["steps"][0]["note"]
    assert any("data/exam.jsonl" in reason for reason in second.manifest["steps"][0]["dropped"])
    assert row not in json.dumps(second.manifest)


def test_a_benchmark_that_is_not_there_is_refused(project: Project) -> None:
    with pytest.raises(DataError) as caught:
        made(project, {"kind": "decontaminate", "against": ["data/exams.jsonl"]})
    assert (caught.value.code, caught.value.place) == ("E300", "exams.jsonl")


def test_steps_are_listed_in_the_order_in_which_they_run(project: Project) -> None:
    with pytest.raises(ConfigError) as caught:
        made(project, "decontaminate", "clean")
    assert caught.value.code == "E213" and caught.value.expected == "`clean` before `decontaminate`"
    assert made(project, "clean", "decontaminate").count("train")
