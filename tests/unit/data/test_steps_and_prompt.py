"""What the recipe says in every row (`data.prompt`): no step changes it, compares rows by it or measures them by it."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from metier.core.extras import installed
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.sections import Kind, Prompt
from metier.core.types import Conversation, Example, Labelled, Message, Preference, Problem, identify
from metier.data import prompt
from metier.data.dataset import Dataset, build
from metier.data.prompt import fill, fixed_spans
from metier.data.steps import Around, balance, filter_language, run_step
from metier.data.steps.deduplicate import Options, run

SYSTEM = "  You are Dr. Zbigniew Kowalczyk, token=q9Zt7LwX2bVr5KmN8dHs.\u200b "
USER = " Summarize  what Mr. {name} says {{in short}}:\r\n{dialogue}\n\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project", "test")


def made(project: Project, rows: list[dict[str, Any]], steps: list[Any], **said: str) -> Dataset:
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "data/a.jsonl", "map": {"prompt": "dialogue", "completion": "note"}}
    data = {"sources": [source], "steps": steps, "prompt": said, "split": {"validation": 0.0, "test": 0.0}}
    values = {"name": "notes", "objective": {"task": "summarize"}, "method": "sft", "data": data}
    return build(Recipe.build(values, file="recipe.yaml"), project)


def around(**said: str) -> Around:
    return Around.of(Recipe.build({"name": "x", "data": {"prompt": said}}))


# ───────────────────────────────────────────────────────────────────────────── the fixed parts


@pytest.mark.parametrize(
    ("template", "columns"),
    [
        ("{a}", {"a": "x"}),
        ("Q: {a}\nA:", {"a": ""}),
        ("{a}\n\n{b}", {"a": "one", "b": ""}),
        ("{{{a}}} {b} ", {"a": "{", "b": "}"}),
        ("{a}{b}", {"a": "x", "b": "y"}),
        ("Say: {a}, {b}, {c}.", {"a": "1, 2", "b": "Say: ", "c": "3."}),
    ],
)
def test_the_fixed_parts_are_found_in_what_a_template_was_filled_into(template: str, columns: dict[str, str]) -> None:
    text = fill(template, columns)
    spans = fixed_spans(template, text)
    assert spans is not None
    assert [text[start:end] for start, end in spans] == list(prompt._fixed_parts(template))
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize("text", ["", "Q: a", "a\nA:", "q: a\nA:", "Q:\nA:"])
def test_what_a_template_did_not_make_has_none(text: str) -> None:
    assert fixed_spans("Q: {a}\nA:", text) is None


def test_two_fixed_parts_never_share_a_character() -> None:
    assert fixed_spans("aba{x}aba", "ababa") is None
    assert fixed_spans("aba{x}aba", "abaaba") == [(0, 3), (3, 6)]


# ───────────────────────────────────────────────────────────────────────────── rewriting


def test_rewriting_steps_leave_what_the_recipe_says_as_it_is_sent_when_the_model_is_used(project: Project) -> None:
    said = "  I  met Anna Kowalczyk\u200b in cafe\u0301, api_key: q9Zt7LwX2bVr5KmN8dHs \n\n\n\nthen left. "
    rows = [{"name": "Zbigniew Kowalczyk", "dialogue": f"{said}{n}  ", "note": " Seen. "} for n in range(8)]
    rows[7]["dialogue"] = "\u200b"  # nothing of the column stays: the blanks behind it are the template's
    steps = [{"kind": "clean", "whitespace": "collapse"}, "redact_secrets", "deidentify"]
    version = made(project, rows, steps, system=SYSTEM, user=USER)
    assert version.count("train") == 8
    for example in version.examples("train"):
        assert isinstance(example, Conversation)
        system, user, reply = example.messages
        assert system == Message("system", SYSTEM)
        assert user.text.startswith(" Summarize  what Mr. [PERSON] says {in short}:\r\n") and user.text.endswith("\n\n")
        assert reply.text == "Seen."
        asked = user.text.removeprefix(" Summarize  what Mr. [PERSON] says {in short}:\r\n").removesuffix("\n\n")
        if asked:
            assert "[SECRET]" in asked and "Kowalczyk" not in asked and "\u200b" not in asked and "café" in asked
            assert asked.startswith("I met [PERSON]") and "\n\n\n" not in asked and asked == asked.strip()
    assert {e.messages[1].text for e in version.examples("train")} > {fill(USER, {"name": "[PERSON]", "dialogue": ""})}  # type: ignore[union-attr]


PIECES = (
    *("Dr. ", "Mr. ", "Kowalczyk", "Zbigniew", " ", "  ", "\n", "\r\n", "\u200b", "212-555-0134", "5 March 1961"),
    *(
        "token=",
        "q9Zt7LwX2bVr5KmN8dHs",
        "<b>",
        "</b>",
        "e",
        "\u0301",
        "\ufb01",
        "12 Main Street, Springfield",
        ": ",
        "{",
    ),
)


@pytest.mark.parametrize("seed", range(4))
def test_no_template_of_any_form_is_changed_by_steps_in_any_order(seed: int) -> None:
    rng = random.Random(seed)

    def some(most: int) -> str:
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(most)))

    for _ in range(100):
        names = ["a", "b", "c"][: rng.randrange(1, 4)]
        user = "".join(some(4).replace("{", "{{") + f"{{{name}}}" for name in names) + some(4).replace("{", "{{")
        text = fill(user, {name: some(6) for name in names})
        asked_row: Example = identify(
            Conversation(messages=(Message("system", SYSTEM), Message("user", text), Message("assistant", "Yes.")))
        )
        steps = [{"kind": "clean", "whitespace": "collapse", "html": "strip"}, {"kind": "deidentify"}]
        for step in rng.sample([*steps, {"kind": "redact_secrets"}], 3):
            result = run_step(Kind.model_validate(step), [asked_row], around=around(user=user, system=SYSTEM))
            (asked_row,) = result.examples
        assert isinstance(asked_row, Conversation)
        assert asked_row.messages[0].text == SYSTEM
        assert fixed_spans(user, asked_row.messages[1].text) is not None, (user, text)


def test_the_counts_are_those_of_the_rows(project: Project) -> None:
    rows = [{"dialogue": f"It is line {n}.", "note": "It is fine."} for n in range(9)]
    rows[0]["dialogue"] = "api_key: q9Zt7LwX2bVr5KmN8dHs"
    version = made(
        project, rows, ["clean", "redact_secrets", "deidentify"], system=SYSTEM, user="Summarize:\n{dialogue}\n"
    )
    notes = [step["note"] for step in version.manifest["steps"]]
    assert notes[:2] == ["0 of 9 rows changed", "1 secrets replaced in 1 of 9 rows"]
    assert notes[2].startswith("0 of 9 rows changed: nothing found")


def test_another_system_message_of_a_row_is_the_rows() -> None:
    row = identify(Conversation(messages=(Message("system", " Be brief. "), Message("assistant", "Yes."))))
    step = Kind.model_validate({"kind": "clean"})
    (own,) = run_step(step, [row], around=around(system=" Be kind. ")).examples
    (said,) = run_step(step, [row], around=around(system=" Be brief. ")).examples
    assert isinstance(own, Conversation)
    assert own.messages[0].text == "Be brief." and said == row


def test_a_row_keeps_its_own_words_where_they_look_like_the_template() -> None:
    """Only what the user is made to say is the template's: a reply that fits it by chance is cleaned as a whole."""
    row = identify(Conversation(messages=(Message("user", "a\nb"), Message("assistant", "\n yes \n"))))
    (cleaned,) = run_step(Kind.model_validate({"kind": "clean"}), [row], around=around(user="{one}\n{two}")).examples
    assert isinstance(cleaned, Conversation)
    assert [m.text for m in cleaned.messages] == ["a\nb", "yes"]


# ───────────────────────────────────────────────────────────────────────────── what is compared

FIXED = "Please read the following message of a customer with care, and answer it in one short and polite sentence: "


def asked(text: str, reply: str, **more: Any) -> Conversation:
    return identify(Conversation(messages=(Message("user", text), Message("assistant", reply)), **more))


def test_rows_are_no_duplicates_because_the_recipe_asks_all_of_them_the_same_way(project: Project) -> None:
    words = ("card lost", "fee too high", "late refund", "app slow", "wrong pin", "new limit")
    rows = [{"dialogue": word, "note": "We look into it."} for word in (*words, "Card lost!")]
    version = made(project, rows, [{"kind": "deduplicate", "match": "near"}], user=FIXED + "{dialogue}")
    assert version.manifest["steps"][0]["dropped"] == {"near duplicate": 1}
    assert version.count("train") == 6


@pytest.mark.parametrize("match", ["exact", "near"])
def test_two_replies_to_one_prompt_are_no_duplicates_in_a_conversation(match: Any) -> None:
    question = "What did the doctor say about the visit of the third of March, and what is to be done next?"
    rows = [asked(question, "No."), asked(question, "Yes."), asked(question, " yes. "), asked(question, "5"),
            asked(question, "-5")]  # fmt: skip
    result = run(list(rows), Options(match=match))
    assert result.origins == [0, 1, 3, 4]
    assert "1 texts have several answers" in result.note


def test_near_prompts_with_the_same_reply_are_duplicates() -> None:
    question = "What did the doctor say about the visit of the third of March, and what is to be done next"
    rows = [asked(f"{question}?", "Rest."), asked(f"{question} then?", "rest.")]
    assert run(list(rows), Options(match="near")).origins == [0]
    assert run(list(rows), Options()).origins == [0, 1]


def test_problems_with_other_answers_for_their_graders_are_no_duplicates() -> None:
    rows = [identify(Problem(prompt=(Message("user", "6 × 7?"),), item={"answer": a})) for a in ("42", "41", "42")]
    assert run(list(rows), Options()).origins == [0, 1]


@pytest.mark.parametrize("match", ["exact", "near"])
def test_long_texts_are_duplicates_when_their_ends_are_the_same_too(match: Any) -> None:
    long = " ".join(f"word{n}" for n in range(4000))
    assert len(long) > 20_000
    ends = ("the end", "THE END!", "another end", "")
    rows = [identify(Labelled(text=f"{long} {end}", target="x")) for end in ends]
    assert run(list(rows), Options(match=match)).origins == [0, 2, 3]


def test_rows_do_not_overlap_because_the_recipe_says_the_same_in_all_of_them() -> None:
    def row(text: str) -> Example:
        return identify(Conversation(messages=(Message("system", ENGLISH), Message("user", FIXED + text))))

    rows, held_out = [row("card lost"), row("fee too high"), row("app slow")], [row("APP slow"), row("wrong pin")]
    step = Kind.model_validate({"kind": "decontaminate"})
    recipe = Recipe.build({"name": "x", "data": {"prompt": {"system": ENGLISH, "user": FIXED + "{text}"}}})
    result = run_step(step, rows, around=Around.of(recipe, held_out={"test": held_out}))
    assert result.origins == [0, 1] and result.note.startswith("1 of 3 training rows dropped; 1 × near duplicate")


# ───────────────────────────────────────────────────────────────────────────── what is measured


def problem(text: str) -> Example:
    return identify(Problem(prompt=(Message("user", text),), item={"answer": "4"}))


def dropped(step: dict[str, Any], rows: list[Example], **said: str) -> list[str]:
    """Return why each row is dropped, given what the recipe says; `` where it stays."""
    result = run_step(Kind.model_validate(step), rows, around=around(**said))
    reasons = dict(result.dropped)
    return [reasons.get(row.id, "") for row in rows]


def test_a_row_is_as_long_as_what_it_says_itself(project: Project) -> None:
    said = ("card lost", "late refund", "the app is slow since the last update")
    rows = [{"dialogue": word, "note": "Yes."} for word in said]
    length = {"kind": "filter_length", "min_characters": 14, "max_characters": 40}
    version = made(project, rows, [length], system=ENGLISH, user=FIXED + "{dialogue}\n{{Answer}}:")
    assert version.manifest["steps"][0]["dropped"] == {"too short": 1, "too long": 1}
    length["max_characters"] = 41
    version = made(project, rows, [length], system=ENGLISH, user=FIXED + "{dialogue}\n{{Answer}}:")
    assert version.manifest["steps"][0]["note"] == "1 too short, 0 too long"


def test_of_a_template_with_two_columns_both_count_and_a_message_that_it_did_not_make_counts_whole() -> None:
    user = "From {name}:\n{text}\nIn short?"
    rows: list[Example] = [asked("From Ann:\n1234\nIn short?", "567"), asked("From Ann: 1234", "")]
    for least, kept in ((10, ["", ""]), (11, ["too short", ""]), (15, ["too short", "too short"])):
        assert dropped({"kind": "filter_length", "min_characters": least}, rows, user=user) == kept


def test_a_system_message_counts_where_it_is_the_rows_own() -> None:
    row = identify(Conversation(messages=(Message("system", "Be brief."), Message("user", "And?"))))
    step = {"kind": "filter_length", "min_characters": 5}
    assert dropped(step, [row], system="Be brief.") == ["too short"]
    assert dropped(step, [row], system="Be kind.") == [""]


def test_a_long_prompt_hides_no_symbols_and_no_boilerplate() -> None:
    front = f"{FIXED}Be polite. Be short. Be kind. "
    said = ("=-" * 20, "Wait. Read our privacy policy.", "Why?")
    rows: list[Example] = [problem(front + text) for text in said]
    assert dropped({"kind": "filter_quality"}, rows, user=front + "{text}") == ["symbols", "boilerplate", ""]
    assert dropped({"kind": "filter_quality"}, rows, user="Something else: {text}") == ["", "", ""]


def test_repetition_is_the_rows_and_not_the_templates() -> None:
    words = " ".join(f"word{n}" for n in range(100))
    twice = "Answer in one word, and in one word alone. " * 3
    again = "no no no no no " * 5
    assert dropped({"kind": "filter_quality"}, [problem(words + again)], user=words + "{text}") == ["repeated words"]
    assert dropped({"kind": "filter_quality"}, [problem(words + again)]) == [""]
    assert dropped({"kind": "filter_quality"}, [problem(twice + "Why?")], user=twice + "{text}") == [""]
    assert dropped({"kind": "filter_quality"}, [problem(twice + "Why?")]) == ["repeated words"]


# ───────────────────────────────────────────────────────────────────────────── languages

GERMAN = "Der Ausschuss trifft sich am Donnerstag wieder, um den Haushalt zu besprechen."
ENGLISH = "You are a helpful assistant of the city council. Answer in the language in which you are asked. " * 3


def test_a_language_is_told_by_the_row_and_not_by_what_the_recipe_says() -> None:
    template = f"{ENGLISH}{{text}}"
    messages = (Message("system", ENGLISH), Message("user", ENGLISH + GERMAN), Message("assistant", GERMAN))
    row = identify(Conversation(messages=messages))
    assert filter_language.spoken(row, prompt.literals(template)).split() == f"{GERMAN} {GERMAN}".split()
    pair = identify(
        Preference(prompt=messages[:2], chosen=messages[2:], rejected=(Message("assistant", "Nein, gar nicht."),))
    )
    assert filter_language.spoken(pair, prompt.literals(template)).split()[-3:] == ["Nein,", "gar", "nicht."]
    if installed("lingua") is None:
        pytest.skip("the optional package lingua is not installed")
    said = Around(literals=prompt.literals(template))
    kept: list[Example] = [row]
    assert filter_language.run(kept, filter_language.Options(languages=("de",)), said).examples == kept
    assert balance.group_of(row, balance.Options(by="language"), said.literals) == "de"


def test_a_recipe_says_what_its_rows_were_asked_with() -> None:
    recipe = Recipe.build({"name": "x", "data": {"prompt": {"user": "Please answer: {text}"}}})
    assert Around.of(recipe).template == "Please answer: {text}"
    assert list(Around.of(recipe, Prompt(user="Please translate: {text}")).literals) == ["Please translate: "]
