"""`filter_language` and `filter_quality`: each rule on both sides of its threshold, and text made to break them."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from metier.core import extras
from metier.core.errors import ConfigError, MachineError
from metier.core.sections import Kind
from metier.core.types import Conversation, Labelled, Message, Preference, Rated, Text, identify
from metier.data.steps import filter_language, filter_quality, run_step
from metier.data.steps.filter_quality import Options, boilerplate, breaks_off, repeated_lines, repeated_words, symbols

# ───────────────────────────────────────────────────────────────────────────── quality


def chat(answer: str, question: str = "And then?", weight: float | None = None) -> Conversation:
    return identify(Conversation(messages=(Message("user", question), Message("assistant", answer, weight=weight))))


def reason(row: Any, **options: Any) -> str | None:
    result = filter_quality.run([row], Options(**options))
    return result.dropped[0][1] if result.dropped else None


def test_each_measure_on_texts_whose_share_is_known() -> None:
    assert repeated_lines("aa\nbb\naa\nbb") == pytest.approx(0.5)
    assert repeated_lines("aa\naa\naa") == 0.0
    assert repeated_words(" ".join(["a b c d e"] * 2 + [f"w{i}" for i in range(10)])) == pytest.approx(0.5)
    assert repeated_words("ha " * 100) == pytest.approx(1.0)
    assert repeated_words("ha " * 19) == 0.0
    assert symbols("abcde!!!!!" * 2) == pytest.approx(0.5)
    assert symbols("नमस्ते दुनिया, यह ठीक है") < 0.1
    assert symbols("!!!") == 0.0
    assert boilerplate("Read our privacy policy. The sun shone!") == pytest.approx(0.5)
    assert boilerplate("") == 0.0


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("and then the", True),
        ("and then,", True),
        ("the end.", False),
        ("he said “yes”", False),
        ("終わり。", False),
        ("steps:\n- one\n- two", False),
        ("see\nhttps://example.org/a", False),
        ("| a | b |\n| 1 | 2 |", False),
        ("```\nx = 1\n```", False),
        ("int main() {\n}", False),
        ("1. first\n2. second", False),
        ("so the result is:\n10 / 5 = 2", False),
        ("what a day it was #sunny", False),
        ("", False),
    ],
)
def test_what_ends_mid_sentence(text: str, cut: bool) -> None:
    assert breaks_off(text) is cut


def test_long_answers_and_texts_must_not_break_off_and_questions_may() -> None:
    words = "word " * 50
    assert reason(identify(Text(text=f"{words}and")), max_repeated_words=None) == "truncated"
    assert reason(chat(f"{words}and"), max_repeated_words=None) == "truncated"
    assert reason(chat(f"{words}and"), max_repeated_words=None, truncated_words=52) is None
    assert reason(identify(Labelled(text=f"{words}and", target="x")), max_repeated_words=None) is None


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, but I cannot assist you.", True),
        ("As an AI language model, I have no opinion.", True),
        ("I am not able to provide that.", True),
        ("I'm sorry to hear that. I can help you with your card.", False),
        ("I'm sorry for the trouble, we will help.", False),
        ("I cannot help but admire it.", False),
        ("You can't help it.", False),
        ("The library is open. " * 15 + "I can't help with that.", False),
    ],
)
def test_refusals(answer: str, refused: bool) -> None:
    assert (reason(chat(answer), max_repeated_words=None) == "refusal") is refused


def test_only_what_is_to_be_imitated_is_judged_as_an_answer() -> None:
    no = (Message("assistant", "I can't help with that."),)
    yes = (Message("assistant", "It opens at nine."),)
    asked = (Message("user", "When?"),)
    assert reason(identify(Preference(prompt=asked, chosen=no, rejected=yes))) == "refusal"
    assert reason(identify(Preference(prompt=asked, chosen=yes, rejected=no))) is None
    assert reason(identify(Rated(prompt=asked, completion=no, label=False))) is None
    assert reason(chat("I can't help with that.", weight=0)) is None


def test_the_same_answer_over_and_over() -> None:
    rows = [chat("We will look into it.", f"Question {i}") for i in range(5)] + [
        chat("Yes.", f"Is {i}?") for i in range(5)
    ]
    result = filter_quality.run(rows, Options(max_same_answers=2))
    assert result.origins == [0, 1, 5, 6, 7, 8, 9]
    assert {why for _, why in result.dropped} == {"same answer"}
    assert result.note == "3 of 10 rows dropped: same answer 3"


def test_an_answer_may_repeat_its_question_and_a_rejected_reply_the_chosen_one() -> None:
    said = " ".join(f"word{i}" for i in range(40)) + "."
    assert reason(chat(said, question=f"Say it in small letters: {said}")) is None
    reply, other = (Message("assistant", said),), (Message("assistant", f"{said} Yes."),)
    assert reason(identify(Preference(prompt=(Message("user", "Go."),), chosen=reply, rejected=other))) is None
    assert reason(chat("the same old song again " * 9)) == "repeated words"


def test_a_rule_that_is_null_drops_nothing() -> None:
    off = dict.fromkeys(Options.model_fields)
    for text in ("a\na\na\na\na", "=-" * 30, "ha " * 100, "cookie policy"):
        assert reason(identify(Text(text=text))) is not None
        assert reason(identify(Text(text=text)), **off) is None


HOSTILE = ["I " * 100_000, "i am " * 50_000, "." * 300_000, "a\n" * 150_000, "[" * 200_000, "i'm" + " a" * 100_000]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_takes_time_out_of_proportion(text: str) -> None:
    begun = time.process_time()
    reason(chat(text, question=text), refusal_characters=10**9)
    assert time.process_time() - begun < 10


# ───────────────────────────────────────────────────────────────────────────── language


def test_an_unknown_language_is_refused_with_those_that_are_known() -> None:
    step = Kind.model_validate({"kind": "filter_language", "languages": ["en", "xx"]})
    with pytest.raises(ConfigError) as caught:
        run_step(step, [])
    assert caught.value.code == "E211" and "no such language: xx" in caught.value.what
    with pytest.raises(ConfigError):
        run_step(Kind.model_validate({"kind": "filter_language"}), [])


def test_without_lingua_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    filter_language._detector.cache_clear()
    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(MachineError) as caught:
        filter_language.languages_of("some text")
    assert caught.value.code == "E450" and "lingua" in caught.value.what
    assert caught.value.fix != "pip install lingua", "that is another package"


TEXTS = {
    "en": "The committee will meet again on Thursday to discuss the budget for the coming year.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um den Haushalt des nächsten Jahres zu besprechen.",
    "fr": "Le comité se réunira de nouveau jeudi pour discuter du budget de l'année prochaine.",
    "es": "El comité se reunirá de nuevo el jueves para hablar del presupuesto del próximo año.",
    "ja": "委員会は木曜日に再び集まり、来年の予算について話し合う予定です。すべての会員は必ず出席してください。",
}


def test_rows_in_the_wanted_languages_stay_with_what_is_too_short_to_tell() -> None:
    pytest.importorskip("lingua", reason="pip install 'metier[curate]'")
    assert {code: next(iter(filter_language.languages_of(text))) for code, text in TEXTS.items()} == {
        code: code for code in TEXTS
    }
    rows = [identify(Text(text=t)) for t in (*TEXTS.values(), "gut", "12345 67890 " * 20, "")]
    result = filter_language.run(rows, filter_language.Options(languages=("en", "ja")))
    assert result.origins == [0, 4, 5, 6, 7]
    assert [why for _, why in result.dropped] == ["language de", "language fr", "language es"]
    assert result.note == "3 in other languages dropped (de 1, fr 1, es 1); 3 too short to tell, kept"


def test_noise_and_a_very_long_row_are_no_trouble() -> None:
    pytest.importorskip("lingua", reason="pip install 'metier[curate]'")
    draw = random.Random(0)
    noise = ["".join(chr(draw.randrange(32, 0xD7FF)) for _ in range(200)) for _ in range(30)]
    rows = [identify(Text(text=t)) for t in (*noise, TEXTS["en"] * 20_000, "\ufffd" * 100)]
    result = filter_language.run(rows, filter_language.Options(languages=("en",), min_letters=1))
    assert len(result.examples) + len(result.dropped) == len(rows)
    assert 30 in result.origins
