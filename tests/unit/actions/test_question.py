"""What predict and chat ask is what the run was trained on, column by column and token by token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from contract.test_methods import LABELS, parts
from metier.actions import models
from metier.actions.question import Question
from metier.core.errors import ConfigError, DataError, RowError
from metier.core.recipe import Recipe
from metier.core.sections import Prompt
from metier.core.types import Conversation, Labelled, Message, Text, identify
from metier.data.prompt import apply, check, check_method, check_version
from metier.data.template import Encoder
from metier.evaluation.predict import predict_generate
from tiny import tokenizer

NOTE = Prompt(system="Be brief.", user="{dialogue}\n\nNote, section {section}:")


def trained(kinds: list[str], prompt: Prompt, **manifest: Any) -> Any:
    """Parts of a run whose rows were asked by a prompt."""
    method, _, policy = parts("sft", "lora", {"r": 2})
    policy.encoder = Encoder(tokenizer(), max_length=128, prompt=prompt, labels=manifest.get("labels", ()))
    dataset = SimpleNamespace(manifest={"kinds": kinds, "prompt": prompt.model_dump(), **manifest})
    return SimpleNamespace(policy=policy, encoder=policy.encoder, method=method, dataset=dataset)


def trained_row(prompt: Prompt, columns: dict[str, str], task: str = "summarize") -> Any:
    """A row as `prepare` writes it."""
    return apply(Labelled(text="", target="reply", meta=columns), prompt, columns, task=task)


def test_what_is_typed_fills_the_one_column_of_the_prompt_and_the_base_gets_the_same() -> None:
    prompt = Prompt(user="{dialogue}\nNote:")
    given = trained(["conversation"], prompt)
    row = trained_row(prompt, {"dialogue": "the pain is new"})
    encoded = given.encoder.conversation(row)[0]
    asked = encoded.token_ids[: encoded.num_prompt].tolist()
    assert given.encoder.prompt(Question.of(given).messages("the pain is new")) == asked
    session = models.ChatSession(given, max_new_tokens=12)
    expected = given.encoder.reply_text(given.policy.generate([asked], max_new_tokens=12)[0].token_ids)
    assert session.reply("the pain is new") == expected
    with given.policy.reference():
        base = given.encoder.reply_text(given.policy.generate([asked], max_new_tokens=12)[0].token_ids)
    assert session.base_reply("the pain is new") == base


def test_a_run_with_a_prompt_starts_anew_with_each_message_and_one_without_remembers() -> None:
    once = models.ChatSession(trained(["conversation"], Prompt(user="{text}?")), max_new_tokens=8)
    assert once.question.once
    assert once.reply("the cat") == [once.reply("a card"), once.reply("the cat")][1]
    talk = models.ChatSession(trained(["conversation"], Prompt(system="Be brief.")), max_new_tokens=8)
    assert not talk.question.once
    first, _ = talk.reply("the cat"), talk.reply("a card")
    assert [m.role for m in talk._turns["run"]] == ["system", "user", "assistant", "user", "assistant"]
    assert talk._turns["run"][:3] == [
        Message("system", "Be brief."),
        Message("user", "the cat"),
        Message("assistant", first),
    ]


def test_replies_are_drawn_by_temperature_and_seed_anew_for_each_question_and_greedy_without() -> None:
    prompt = Prompt(user="{text}?")

    def said(**sampling: Any) -> list[str]:
        session = models.ChatSession(trained(["conversation"], prompt), max_new_tokens=12, **sampling)
        return [session.reply("the cat"), session.reply("the cat"), session.base_reply("the cat")]

    greedy, drawn = said(), said(temperature=1.5, seed=3)
    assert greedy[0] == greedy[1] == said(temperature=0)[0]
    assert drawn == said(temperature=1.5, seed=3), "the same seed, the same conversation"
    assert len({greedy[0], *drawn[:2], said(temperature=1.5)[0]}) == 4
    assert said(temperature=1.5, top_p=1e-6, seed=3) == greedy, "the likeliest token alone is left"


def predicted(monkeypatch: pytest.MonkeyPatch, given: Any, *inputs: str, **options: Any) -> list[dict[str, Any]]:
    given.recipe = Recipe.build({"name": "x"})
    monkeypatch.setattr(models, "loaded", lambda *_: (given, SimpleNamespace(number=7)))
    return models.predict(Any, "7", list(inputs), max_new_tokens=12, **options)


def test_predictions_are_drawn_as_generation_draws_them_and_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = trained(["conversation"], Prompt(user="{text}?"))
    told: list[tuple[str, int, int | None]] = []
    sampling = {"temperature": 1.5, "top_p": 0.9, "seed": 5}
    found = predicted(monkeypatch, given, "the cat", "a card", **sampling, progress=lambda *news: told.append(news))
    prompts = [given.encoder.prompt(Question.of(given).messages(text)) for text in ("the cat", "a card")]
    drawn = given.policy.generate(prompts, max_new_tokens=12, **sampling)
    assert [a["output"] for a in found] == [given.encoder.reply_text(c.token_ids) for c in drawn]
    assert found != predicted(monkeypatch, given, "the cat", "a card")
    assert told[-1] == ("answers", 2, 2)


def test_a_sampling_option_that_would_change_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = trained(["conversation"], Prompt(user="{text}?"))
    wrong: list[dict[str, Any]] = [
        *({"seed": 1}, {"top_p": 0.5}, {"temperature": 0.0, "seed": 1}, {"temperature": 1.0, "seed": -1})
    ]
    for options in wrong:
        with pytest.raises(ConfigError, match="E291"):
            predicted(monkeypatch, given, "the cat", **options)
        with pytest.raises(ConfigError, match="E291"):
            models.ChatSession(given, **options)
    method, _, policy = parts("classify")
    policy.encoder = Encoder(tokenizer(), max_length=128, labels=LABELS)
    dataset = SimpleNamespace(manifest={"kinds": ["labelled"], "labels": LABELS})
    head: Any = SimpleNamespace(policy=policy, encoder=policy.encoder, method=method, dataset=dataset)
    with pytest.raises(ConfigError, match="chooses among labels") as caught:
        predicted(monkeypatch, head, "my card", temperature=0.7)
    assert (caught.value.code, caught.value.received) == ("E291", "temperature 0.7")
    assert predicted(monkeypatch, head, "my card")[0]["output"] in LABELS


def test_several_columns_are_asked_for_by_name() -> None:
    question = Question.of(trained(["conversation"], NOTE, sources=[{"map": {"prompt": "dialogue"}}]))
    assert question.columns == ("dialogue", "section")
    with pytest.raises(DataError, match="several columns") as caught:
        question.messages("hello", place="input 1")
    assert (caught.value.code, caught.value.expected) == ("E363", "dialogue, section")
    assert "metier predict" in caught.value.fix
    with pytest.raises(DataError, match="lacks the column `section`"):
        question.messages({"dialogue": "hello"})
    whole = [Message("system", "Be brief."), Message("user", "hello\n\nNote, section CC:")]
    assert list(question.messages({"dialogue": "hello", "section": "CC"})) == whole
    assert list(question.messages({"prompt": "hello", "section": "CC"})) == whole, "the canonical name of the column"
    with pytest.raises(DataError, match="by its own prompt"):
        question.messages({"messages": [{"role": "user", "content": "hello"}]})


def test_labelled_rows_are_asked_by_the_default_question_with_their_labels() -> None:
    given = trained(["labelled"], Prompt(), labels=LABELS)
    question = Question.of(given)
    example = Labelled(text="my card was stolen", target="card")
    assert question.messages("my card was stolen") == given.encoder.labelled_conversation(example).messages[:-1]
    assert question.messages({"text": "my card was stolen"})[0].text.startswith("Classify the text as one of: card")
    assert question.once


def test_a_task_head_takes_its_columns_from_the_prompt() -> None:
    method, _, policy = parts("classify")
    policy.encoder = Encoder(tokenizer(), max_length=128, prompt=Prompt(user="{title}: {text}"), labels=LABELS)
    dataset = SimpleNamespace(manifest={"kinds": ["labelled"], "labels": LABELS})
    given: Any = SimpleNamespace(policy=policy, encoder=policy.encoder, method=method, dataset=dataset)
    question = Question.of(given)
    row = question.fields({"title": "bank", "text": "my card was stolen"})
    (answer,) = models._labels(given, [row], ["rows.jsonl:3"])
    assert set(answer["probabilities"]) == set(LABELS)
    with pytest.raises(DataError, match="E363") as refused:
        models._labels(given, [{"title": "bank"}], ["rows.jsonl:3"])
    assert refused.value.place == "rows.jsonl:3"
    with pytest.raises(DataError, match="E363"):
        question.fields("my card was stolen")


def test_messages_of_an_input_are_read_or_refused() -> None:
    question = Question.of(trained(["conversation"], Prompt()))
    said = [{"role": "user", "content": "hello"}]
    assert question.messages({"messages": said}) == (Message("user", "hello"),)
    for wrong in ([], "hello", [{"role": "user"}], [{"role": "tool", "content": "x"}], ["hello"]):
        with pytest.raises(DataError, match="E363"):
            question.messages({"messages": wrong})


@pytest.mark.parametrize(("prompt", "inputs"), [
    (Prompt(), [{"text": "my card was stolen"}, {"text": ""}]),
    (Prompt(user="{title}"), [{"text": "t", "title": "my card"}, {"text": "t", "title": ""}]),
])  # fmt: skip
def test_a_task_head_has_nothing_to_say_to_an_empty_input(prompt: Prompt, inputs: list[dict[str, str]]) -> None:
    method, _, policy = parts("classify", "lora", {"r": 2})
    policy.encoder = Encoder(tokenizer(), max_length=128, prompt=prompt, labels=LABELS)
    given: Any = SimpleNamespace(policy=policy, encoder=policy.encoder, method=method)
    assert models._labels(given, inputs[:1], ["input 1"])[0]["output"] in LABELS
    with pytest.raises(DataError, match="E372") as caught:
        models._labels(given, inputs, ["input 1", "input 2"])
    assert caught.value.place == "input 2"


def test_a_row_that_fills_the_prompt_with_nothing_goes_to_quarantine() -> None:
    row = Labelled(text="the pain is new", target="a", meta={"title": " "})
    with pytest.raises(RowError) as caught:
        apply(row, Prompt(user="{title}"), {}, task="classify")
    assert (caught.value.reason, caught.value.field) == ("empty-prompt", "title")
    with pytest.raises(RowError, match="empty"):
        apply(Labelled(text="", target="a"), Prompt(), {}, task="classify")
    for fine in (Prompt(user="{title}{text}"), Prompt()):
        assert apply(row, fine, {}, task="classify") == row


def test_the_prompt_travels_with_an_export_and_its_labels_are_filled() -> None:
    filled = Question(Prompt(user="{text} as one of {labels}, {{sic}}"), ("text",), True, labels=("a{b}", "c"))
    made = models._prompt_file(filled)["prompt.json"]
    assert '"user": "{text} as one of a{{b}}, c, {{sic}}"' in made and "system" not in made
    assert models._prompt_file(Question(Prompt(), ("text",), False)) == {}


# ───────────────────────────────────────────────────────────────────────────── prompts without use


RECIPE = """\
name: x
objective: {task: classify}
data:
  sources: [{path: rows.csv}]
  prompt:
    system: Route it.
    user: "{text}"
method: {kind: METHOD}
"""


@pytest.mark.parametrize("method", ["classify", "cpt"])
def test_a_system_message_that_no_method_reads_is_refused_with_its_line(method: str) -> None:
    from metier.actions.train import check_kinds

    with pytest.raises(ConfigError, match="E245") as caught:
        check_kinds(Recipe.parse(RECIPE.replace("METHOD", method), file="x.yaml"))
    assert caught.value.place == "x.yaml:6"
    assert "data.prompt.user" in caught.value.fix
    check_kinds(Recipe.parse(RECIPE.replace("METHOD", "sft")))


def test_the_user_message_reaches_a_task_head() -> None:
    plain = Encoder(tokenizer(), max_length=64).labelled(Labelled(text="card", target="a"))
    asked = Encoder(tokenizer(), max_length=64, prompt=Prompt(user="the {text}?")).labelled(
        Labelled(text="card", target="a")
    )
    assert tokenizer().decode(asked.token_ids) == "the card?"
    assert tokenizer().decode(plain.token_ids) == "card"
    check_method(Prompt(user="the {text}?"), "classify", ("labelled",), place=str)


def test_a_user_message_without_a_column_is_refused() -> None:
    for user in ("Summarize!", "One of {labels}", "{{text}}"):
        with pytest.raises(ConfigError, match="names no column") as caught:
            check(Prompt(user=user), "labelled", place=lambda key: f"x.yaml:{key}")
        assert caught.value.place == "x.yaml:data.prompt.user"
    check(Prompt(user="{text}"), "labelled", place=str)


def test_a_prompt_beside_a_version_whose_rows_have_theirs_is_refused() -> None:
    made = {"kinds": ["conversation"], "prompt": {"user": "{text}?"}, "name": "x", "version": "v1"}
    check_version(Prompt(), made, place=str)
    check_version(Prompt(user="{text}?"), made, place=str)
    with pytest.raises(ConfigError, match="data:x@v1 carry the prompt"):
        check_version(Prompt(user="{text}!"), made, place=str)
    check_version(Prompt(user="{text}!"), {**made, "kinds": ["labelled"]}, place=str)


def test_raw_text_has_no_question() -> None:
    assert Question.of(trained(["text"], Prompt())).messages("once upon") == (Message("user", "once upon"),)


def test_what_is_too_long_is_cut_as_evaluation_cuts_it_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given = trained(["conversation"], Prompt(user="{text}?"))
    long = "the cat sat on the mat " * 40
    short, cut = predicted(monkeypatch, given, "the cat", long)
    row = identify(Conversation(messages=(Message("user", f"{long}?"), Message("assistant", "yes"))))
    measured = predict_generate(given.policy, [row], max_new_tokens=12)[0]
    assert short["cut_tokens"] == 0 and cut["cut_tokens"] == measured.cut_tokens > 100
    assert cut["output"].strip() == measured.output
    session = models.ChatSession(given, max_new_tokens=12)
    assert session.reply(long) == cut["output"] and session.cut_tokens == cut["cut_tokens"]
    session.reply("the cat")
    assert session.cut_tokens == 0


def test_a_run_of_texts_goes_on_with_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = trained(["text"], Prompt())
    whole = given.encoder.text(Text(text="the cat sat on the mat"))[0].token_ids.tolist()
    begun = given.encoder.beginning("the cat sat on the mat")
    assert whole[: len(begun)] == begun and len(whole) - len(begun) <= 1, "no template, and no end"
    answer = predicted(monkeypatch, given, "the cat sat on the mat")[0]
    expected = given.policy.generate([begun], max_new_tokens=12)[0]
    assert answer["output"] == given.encoder.reply_text(expected.token_ids)
    given.encoder.dialect = None
    with pytest.raises(ConfigError, match="goes on with texts") as caught:
        models.chat(Any, "7")
    assert caught.value.code == "E263"
