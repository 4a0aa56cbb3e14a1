"""The heart of correctness: pitfalls 1–5, 10, 13, 14 and 15, each with the mistake that elsewhere went unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dialects import (
    BLANK_LINES,
    CHATML,
    CHATML_WITHOUT_PROMPT,
    FAMILIES,
    GEMMA,
    LLAMA2,
    LLAMA3,
    PHI3,
    QWEN3,
    TOKENIZERS,
    byte_level,
    byte_level_with_bos,
    spaced,
    unigram,
    word_pieces,
)
from metier.core.errors import ConfigError, DataError, RowError
from metier.core.sections import Prompt
from metier.core.types import Conversation, Labelled, Message, Rated, Text, ToolCall
from metier.data.template import Encoded, Encoder

CALL = ToolCall("weather", {"city": "Berlin", "days": 3}, '{"city": "Berlin", "days": 3}')


def encoder(template: str | None, tokenizer=None, **options) -> Encoder:
    return Encoder(tokenizer or byte_level(), **{"max_length": 512, "chat_template": template, **options})


def talk(*texts: str, system: str | None = None, place: str = "rows.jsonl:7") -> Conversation:
    """A conversation of user, assistant, user, assistant …"""
    messages = [Message("assistant" if i % 2 else "user", t) for i, t in enumerate(texts)]
    if system is not None:
        messages.insert(0, Message("system", system))
    return Conversation(messages=tuple(messages), id="x", place=place)


def said(enc: Encoder, item: Encoded) -> list[str]:
    """The supervised spans, decoded."""
    spans, position = [], 0
    mask = item.loss_mask > 0
    while position < len(mask):
        if mask[position]:
            end = position
            while end < len(mask) and mask[end]:
                end += 1
            spans.append(enc.decode_span(item.token_ids, position, end))
            position = end
        position += 1
    return spans


# ───────────────────────────────────────────────────────────────── 1: loss on the right tokens


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["Yes.<|im_end|>", "No!<|im_end|>"]),
        (LLAMA2, [" Yes. </s>", " No! </s>"]),
        (LLAMA3, ["Yes.<|eot_id|>", "No!<|eot_id|>"]),
        (GEMMA, ["Yes.<end_of_turn>", "No!<end_of_turn>"]),
        (PHI3, ["Yes.<|end|>", "No!<|end|>"]),
        (CHATML_WITHOUT_PROMPT, ["Yes.<|im_end|>", "No!<|im_end|>"]),
        (BLANK_LINES, ["Yes.</s>", "No!</s>"]),
        ("plain", [" Yes.</s>", " No!</s>"]),
        ("chatml", ["Yes.<|im_end|>", "No!<|im_end|>"]),
    ],
)
def test_the_loss_is_on_each_reply_with_its_end_of_turn_and_on_nothing_else(template: str, expected: list[str]) -> None:
    enc = encoder(template)
    [item] = enc.conversation(talk("Is it?", "Yes.", "Really?", "No!"))
    assert said(enc, item) == expected
    assert item.loss_mask[0] == 0
    assert item.num_prompt == int(np.flatnonzero(item.loss_mask)[0])


def test_a_reply_that_repeats_the_prompt_and_the_template_is_not_confused() -> None:
    # A search for "assistant\n" or for the reply's text would find the wrong place (trl#4879).
    tricky = "user assistant\nYes."
    enc = encoder(CHATML)
    [item] = enc.conversation(talk(tricky, "Yes.", "Yes.", tricky))
    assert said(enc, item) == ["Yes.<|im_end|>", tricky + "<|im_end|>"]


def test_a_reply_of_weight_zero_stays_in_the_prompt_without_loss() -> None:
    messages = (
        Message("user", "a"),
        Message("assistant", "wrong", weight=0),
        Message("user", "b"),
        Message("assistant", "right", weight=1),
    )
    enc = encoder(CHATML)
    [item] = enc.conversation(Conversation(messages=messages))
    assert said(enc, item) == ["right<|im_end|>"]
    assert "wrong" in enc.decode_span(item.token_ids, 0, item.num_prompt)


def test_the_weight_of_a_message_is_the_weight_of_its_tokens() -> None:
    messages = (Message("user", "a"), Message("assistant", "half", weight=0.5))
    [item] = encoder(CHATML).conversation(Conversation(messages=messages))
    assert set(item.loss_mask[item.num_prompt :]) == {0.5}


def test_without_assistant_only_loss_every_token_but_the_first_is_supervised() -> None:
    [item] = encoder(CHATML, assistant_only_loss=False).conversation(talk("a", "b"))
    assert item.loss_mask.tolist() == [0.0] + [1.0] * (len(item.token_ids) - 1)


def test_the_ids_are_those_of_the_tokenizers_own_template() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    try:
        rows = talk("Is it?", "Yes.", "Why?", "Because.", system="Be short.")
        [item] = encoder(None, tokenizer).conversation(rows)
        plain = [{"role": m.role, "content": m.text} for m in rows.messages]
        theirs = tokenizer.apply_chat_template(plain, return_dict=False)
        assert item.token_ids.tolist() == theirs[:-1]  # the line feed after the last reply teaches nothing
        prompt = tokenizer.apply_chat_template(plain[:2], add_generation_prompt=True, return_dict=False)
        assert encoder(None, tokenizer).prompt(rows.messages[:2]) == prompt
    finally:
        tokenizer.chat_template = None


def test_a_template_that_writes_more_into_the_reply_is_refused() -> None:
    # The user's words stand inside the reply's turn: a mask over the turn would train on them.
    echo = CHATML.replace(
        "m.content + '<|im_end|>", "m.content + ('' if m.role == 'user' else messages[0].content) + '<|im_end|>"
    )
    with pytest.raises(DataError, match="E350") as caught:
        encoder(echo).conversation(talk("secret question", "Yes."))
    assert caught.value.place == "rows.jsonl:7 messages.1"
    assert "secret" not in str(caught.value)


def test_a_reply_that_is_part_of_its_stop_marker_is_found() -> None:
    for reply in ("<", "s", ">", "im_end", "|"):
        enc = encoder(CHATML)
        [item] = enc.conversation(talk("a", reply))
        assert said(enc, item) == [reply + "<|im_end|>"]


def test_a_prompt_that_is_not_the_beginning_of_its_conversation_is_refused() -> None:
    # DeepSeek-R1's manner: the generation prompt opens a thought that the history never shows.
    opens = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    with pytest.raises(DataError, match="E350"):
        encoder(opens).conversation(talk("a", "b"))


def test_a_reply_that_the_tokenizer_cannot_write_is_refused_or_counted() -> None:
    enc = encoder("plain", unigram())
    enc.conversation(talk("a", "fox ☃ dog"))
    assert enc.notes == {"reply with characters that the tokenizer does not know": 1}


# ───────────────────────────────────────────────────────────────── 2: the model learns to stop


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        (CHATML, {"</s>", "<|im_end|>"}),
        (LLAMA2, {"</s>"}),
        (LLAMA3, {"</s>", "<|eot_id|>"}),
        (GEMMA, {"</s>", "<end_of_turn>"}),
        (PHI3, {"</s>", "<|end|>"}),
        ("plain", {"</s>"}),
    ],
)
def test_the_stop_set_is_found_in_the_template(template: str, stops: set[str]) -> None:
    tokenizer = byte_level()
    assert encoder(template).stop_ids == {tokenizer.convert_tokens_to_ids(t) for t in stops}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_trained_turn_ends_in_a_supervised_stop_token(name: str) -> None:
    enc = encoder(FAMILIES[name])
    for item in enc.conversation(talk("one", "two", "three", "four")):
        mask = np.append(item.loss_mask > 0, False)
        ends = np.flatnonzero(mask[:-1] & ~mask[1:])
        assert len(ends) and all(int(item.token_ids[e]) in enc.stop_ids for e in ends)


def test_a_template_without_end_of_turn_is_refused() -> None:
    endless = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(DataError, match="E351") as caught:
        encoder(endless).conversation(talk("a", "b"))
    assert "plain" in caught.value.fix


def test_an_end_of_turn_marker_that_is_no_token_is_refused() -> None:
    pieces = CHATML.replace("<|im_end|>", "<|done|>")
    with pytest.raises(DataError, match="E351"):
        encoder(pieces).conversation(talk("a", "b"))


def test_a_stop_token_in_the_rows_own_text_is_counted() -> None:
    enc = encoder(CHATML)
    enc.conversation(talk("a", "b <|im_end|> c"))
    assert enc.notes["stop token inside a reply: the row's own text holds it"] == 1


# ───────────────────────────────────────────────────────────────── 3: one BOS


def test_bos_comes_once_whether_template_or_tokenizer_brings_it() -> None:
    tokenizer = byte_level_with_bos()
    for template in (LLAMA3, "plain", "chatml"):
        [item] = encoder(template, tokenizer).conversation(talk("a", "b"))
        assert item.token_ids.tolist().count(tokenizer.bos_token_id) == 1
        assert item.token_ids[0] == tokenizer.bos_token_id
    [item] = encoder(None, tokenizer).text(Text(text="a b c"))
    assert item.token_ids.tolist().count(tokenizer.bos_token_id) == 1


def test_double_bos_is_refused() -> None:
    with pytest.raises(DataError, match="E352"):
        encoder("{{ bos_token }}" + LLAMA3).conversation(talk("a", "b"))
    with pytest.raises(DataError, match="E352"):
        encoder("{{ bos_token }}" + LLAMA3).prompt((Message("user", "a"),))
    with pytest.raises(DataError, match="E352") as caught:
        encoder(None, byte_level_with_bos()).text(Text(text="<s>hello", place="a.txt:1"))
    assert caught.value.place == "a.txt:1"


# ───────────────────────────────────────────────────────────────── 4: nothing of a row is dropped


def test_dropped_tool_calls_are_refused() -> None:
    row = Conversation(
        messages=(Message("user", "Weather?"), Message("assistant", "", tool_calls=(CALL,))), place="r:3"
    )
    with pytest.raises(DataError, match="E353") as caught:
        encoder(CHATML).conversation(row)
    assert "messages.1.tool_calls.0" in caught.value.what and caught.value.place == "r:3"
    assert "Berlin" not in str(caught.value)


def test_dropped_reasoning_is_refused() -> None:
    row = Conversation(messages=(Message("user", "2+2"), Message("assistant", "4", reasoning="two and two")))
    with pytest.raises(DataError, match=r"E353.*messages\.1\.reasoning"):
        encoder(CHATML).conversation(row)


def test_a_dropped_second_part_is_refused_and_parts_are_kept_otherwise() -> None:
    first_only = CHATML.replace("m.content +", "(m.content if m.content is string else m.content[0].text) +")
    only_parts = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ m.content[0].text }}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    row = Conversation(messages=(Message("user", ("one", "two")), Message("assistant", ("yes", " sir"))))
    enc = encoder(first_only)
    [item] = enc.conversation(row)  # parts are joined before a template that takes strings can lose one
    assert said(enc, item) == ["yes sir<|im_end|>"]
    with pytest.raises(DataError, match=r"E353.*messages\.0\.content\.1"):
        encoder(only_parts).conversation(row)


def test_dropped_tools_and_dropped_system_message_are_refused() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    row = Conversation(messages=talk("a", "b").messages, tools=(tool,))
    with pytest.raises(DataError, match=r"E353.*tools\.0"):
        encoder(CHATML).conversation(row)
    forgets = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.content != 'mute' %}")
    with pytest.raises(DataError, match=r"E353.*messages\.0\.content"):
        encoder(forgets).conversation(talk("a", "b", system="mute"))


@pytest.mark.parametrize("template", ["plain", "chatml", QWEN3])
def test_tool_calls_and_reasoning_are_trained_where_the_template_writes_them(template: str) -> None:
    messages = (
        Message("user", "Weather?"),
        Message("assistant", "Let me see.", reasoning="I need a tool", tool_calls=(CALL,)),
        Message("tool", '{"sky": "clear"}'),
        Message("assistant", "Clear."),
    )
    enc = encoder(template)
    spans = [s for item in enc.conversation(Conversation(messages=messages)) for s in said(enc, item)]
    assert len(spans) == 2
    assert all(t in spans[0] for t in ("I need a tool", "Let me see.", "weather", "Berlin", "3"))
    assert "Clear." in spans[1] and "sky" not in spans[1]


def test_arguments_are_text_for_templates_that_concatenate_them() -> None:
    concatenates = QWEN3.replace("(call.function.arguments | tojson)", "call.function.arguments")
    row = Conversation(messages=(Message("user", "Weather?"), Message("assistant", "", tool_calls=(CALL,))))
    enc = encoder(concatenates)
    [item] = enc.conversation(row)
    assert CALL.arguments_text in said(enc, item)[0]


# ───────────────────────────────────────────────────────────────── templates that rewrite history


def test_a_template_that_drops_earlier_reasoning_gives_one_example_per_turn() -> None:
    messages = (
        Message("user", "2+2"),
        Message("assistant", "4", reasoning="two and two"),
        Message("user", "3+3"),
        Message("assistant", "6", reasoning="three and three"),
    )
    enc = encoder(QWEN3)
    first, second = enc.conversation(Conversation(messages=messages, id="q"))
    assert said(enc, first) == ["<think>\ntwo and two\n</think>\n\n4<|im_end|>"]
    assert said(enc, second) == ["<think>\nthree and three\n</think>\n\n6<|im_end|>"]
    # The second prompt is the one that will be served: without the first reply's thoughts.
    assert "two and two" not in enc.decode_span(second.token_ids, 0, len(second.token_ids))
    assert second.token_ids[: second.num_prompt].tolist() == enc.prompt(messages[:3])
    assert first.example_id == second.example_id == "q"
    assert enc.notes == {"split into one example per turn: the template rewrites earlier turns": 1}


def test_thoughts_inside_the_content_are_trained_as_written() -> None:
    enc = encoder(CHATML)
    [item] = enc.conversation(talk("2+2", "<think>two</think>4"))
    assert said(enc, item) == ["<think>two</think>4<|im_end|>"]


def test_a_template_without_system_role_gets_it_in_the_user_message_and_says_so() -> None:
    enc = encoder(GEMMA)
    row = talk("Is it?", "Yes.", system="Be short.")
    [item] = enc.conversation(row)
    assert enc.decode_span(item.token_ids, 0, item.num_prompt) == (
        "<s><start_of_turn>user\nBe short.\n\nIs it?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert enc.prompt(row.messages[:2]) == item.token_ids[: item.num_prompt].tolist()
    assert sum(enc.notes.values()) == 1 and "system" in next(iter(enc.notes))


def test_what_a_template_refuses_is_named_in_its_own_words_only() -> None:
    row = Conversation(
        messages=(Message("user", "secret"), Message("user", "b"), Message("assistant", "c")), place="r:9"
    )
    with pytest.raises(DataError, match="E355") as caught:
        encoder(GEMMA).conversation(row)
    assert "roles must alternate" in str(caught.value) and "secret" not in str(caught.value)
    quotes = CHATML.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m.content == 'secret' %}{{ raise_exception('no ' + m.content) }}{% endif %}",
    )
    with pytest.raises(DataError) as caught:
        encoder(quotes).conversation(row)
    assert "secret" not in str(caught.value)


def test_white_space_that_the_template_strips_is_counted_and_inner_white_space_kept() -> None:
    enc = encoder(LLAMA3)
    [item] = enc.conversation(talk("a", "  two  words\n\n"))
    assert said(enc, item) == ["two  words<|eot_id|>"]
    assert enc.notes == {"white space around a reply changed by the template": 1}


def test_an_opening_reply_is_context_and_messages_after_the_last_reply_are_left_out() -> None:
    messages = (
        Message("assistant", "Hello."),
        Message("user", "Hi"),
        Message("assistant", "How?"),
        Message("user", "Bye"),
    )
    enc = encoder(CHATML)
    [item] = enc.conversation(Conversation(messages=messages))
    assert said(enc, item) == ["How?<|im_end|>"]
    assert "Bye" not in enc.decode_span(item.token_ids, 0, len(item.token_ids))
    assert sum(enc.notes.values()) == 2


# ───────────────────────────────────────────────────────────────── 5: truncation


def test_truncation_right_keeps_the_beginning_and_counts() -> None:
    enc = encoder(CHATML)
    whole = enc.conversation(talk("Is it?", "Yes, it is."))[0]
    cut = encoder(CHATML, max_length=len(whole.token_ids) - 2)
    [item] = cut.conversation(talk("Is it?", "Yes, it is.", place="r:5"))
    assert item.token_ids.tolist() == whole.token_ids[:-2].tolist()
    assert item.cut_tokens == 2
    assert (cut.report.cut_rows, cut.report.cut_tokens, cut.report.cut_places) == (1, 2, ("r:5",))


def test_truncation_left_keeps_the_end_and_the_first_token_has_no_loss() -> None:
    whole = encoder(CHATML).conversation(talk("Is it?", "Yes, it is."))[0]
    [item] = encoder(CHATML, max_length=3, truncation="left").conversation(talk("Is it?", "Yes, it is."))
    assert item.token_ids.tolist() == whole.token_ids[-3:].tolist()
    assert item.loss_mask.tolist() == [0.0, 1.0, 1.0]


def test_a_row_whose_answer_is_cut_away_is_dropped_by_name_and_a_run_without_any_answer_fails() -> None:
    enc = encoder(CHATML, max_length=6, place=lambda key: f"r.yaml {key}")
    assert enc.conversation(talk("A long question about a fox?", "Yes.", place="r:8")) == []
    assert (enc.report.dropped_rows, enc.report.dropped_places) == (1, ("r:8",))
    with pytest.raises(DataError, match="E354") as caught:
        list(enc.encode([talk("A long question about a fox?", "Yes.")] * 3))
    assert f"training.max_length={enc.report.longest}" in caught.value.fix
    assert caught.value.place == "r.yaml training.max_length"


def test_drop_and_error_do_what_they_say() -> None:
    long, short = talk("a", "b " * 50, place="r:2"), talk("a", "b")
    enc = encoder(CHATML, max_length=40, truncation="drop")
    assert len(list(enc.encode([long, short]))) == 1
    assert enc.report.dropped_places == ("r:2",)
    with pytest.raises(DataError, match="E357") as caught:
        encoder(CHATML, max_length=40, truncation="error").conversation(long)
    assert caught.value.place == "r:2"


def test_drop_leaves_long_rows_of_a_task_head_out_of_training_and_still_answers_them() -> None:
    long = Labelled(text="The quick brown fox jumps over the lazy dog " * 9, target="b", place="r:2")
    enc = encoder(CHATML, max_length=20, truncation="drop")
    assert [e.target for e in enc.encode([long, Labelled(text="Hi", target="a")], head=True)] == ["a"]
    assert enc.report.dropped_places == ("r:2",) and enc.report.cut_rows == 0
    assert enc.labelled(long).cut_tokens > 0


def test_the_report_speaks_of_lengths_before_truncation() -> None:
    enc = encoder(CHATML, max_length=20)
    items = list(enc.encode([talk("a", "b"), talk("a", "b " * 50)]))
    report = enc.report
    assert report.n == 2 and report.longest > 20
    assert report.percentiles[100] == report.longest
    assert report.tokens == sum(len(i.token_ids) for i in items)
    assert report.supervised == sum(i.num_supervised for i in items)
    assert 0 < report.share_supervised < 1


def test_the_note_names_the_first_rows_that_were_cut_and_dropped_and_counts_the_rest() -> None:
    enc = encoder(CHATML, max_length=20)
    list(enc.encode([talk("a", "b " * 50, place=f"r:{n}") for n in range(7)] + [talk("a", "b", place="r:9")]))
    assert enc.report.note("train", "training.max_length=20") == (
        "train: 7 rows cut at training.max_length=20: r:0, r:1, r:2, r:3, r:4 and 2 more"
    )
    list(enc.encode([Conversation(messages=(Message("user", "a"),), place="r:10"), talk("a", "b")]))
    assert enc.report.note("x", "20").endswith("; 1 row dropped for want of a trained token at 20: r:10")
    assert encoder(CHATML).report.note("train", "20") == ""


def test_a_conversation_without_reply_is_counted_as_dropped() -> None:
    enc = encoder(CHATML)
    assert enc.conversation(Conversation(messages=(Message("user", "a"),), place="r:1")) == []
    assert enc.report.dropped_places == ("r:1",)


# ───────────────────────────────────────────────────────────────── 10 and 15: served prompt = trained prompt

TEXTS = st.text(st.sampled_from(list("ab Z.\n\t'é日😀_1<>")), max_size=12)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", [*FAMILIES, "plain", "builtin-chatml"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0))
def test_the_prompt_is_a_prefix_of_what_was_trained(kind: str, name: str, texts: list[str]) -> None:
    template = FAMILIES.get(name, name.removeprefix("builtin-"))
    key = (kind, template)
    enc = ENCODERS.get(key) or ENCODERS.setdefault(key, encoder(template, TOKENIZERS[kind](), max_length=4096))
    row = talk(*texts)
    items = enc.conversation(row)
    for number in range(1, len(texts), 2):
        prompt = enc.prompt(row.messages[:number])
        fitting = [i for i in items if i.token_ids[: len(prompt)].tolist() == prompt]
        assert fitting, "no trained example begins with the served prompt"
        starts = [i for i in fitting if i.loss_mask[len(prompt)] > 0 and i.loss_mask[len(prompt) - 1] == 0]
        assert starts, "the loss does not begin where the served prompt ends"


ENCODERS: dict[tuple[str, str], Encoder] = {}


@pytest.mark.parametrize("reply", ["\n\nYes", " Yes", "  two spaces", "Yes", "\t", "é"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_never_merge_across_the_boundary(kind: str, reply: str) -> None:
    # `### Response:\n\n` + `Yes`: with look-ahead the last line feed is cut off once a word follows (trl#6105).
    enc = encoder(BLANK_LINES, TOKENIZERS[kind]())
    row = talk("Is it?", reply)
    [item] = enc.conversation(row)
    prompt = enc.prompt(row.messages[:1])
    assert item.token_ids[: item.num_prompt].tolist() == prompt
    assert "".join(said(enc, item)[0].split()) == "".join((reply + "</s>").split())


def test_the_boundary_case_is_real() -> None:
    # Without the cut, one tokenisation of the whole would contradict the served prompt.
    enc = encoder(BLANK_LINES)
    row = talk("Is it?", "Yes")
    text = "### user:\n\nIs it?\n\n### Response:\n\nYes</s>"
    naive = byte_level()(text, add_special_tokens=False).input_ids
    prompt = enc.prompt(row.messages[:1])
    assert naive[: len(prompt)] != prompt


def test_prompt_and_reply_are_the_two_halves_of_the_trained_example() -> None:
    for name, template in FAMILIES.items():
        enc = encoder(template)
        row = talk("Is it?", "Yes.", "Really?", "No!")
        prompt, reply = enc.prompt_and_reply(row.messages[:3], "No!")
        item = enc.conversation(row)[-1]
        assert prompt + reply == item.token_ids.tolist(), name
        assert prompt == enc.prompt(row.messages[:3])
        assert enc.reply_text(reply) == "No!", name


def test_shared_checkpoints_keep_prompt_and_reply_apart(shared_data) -> None:
    from transformers import PreTrainedTokenizerFast

    for name in ("babyllama", "stories260K"):
        folder = shared_data / "weights" / name / "hf"
        if not folder.is_dir():
            pytest.skip(f"{name} is not among the shared data")
        enc = encoder("plain", PreTrainedTokenizerFast.from_pretrained(folder))
        row = talk("Tell me a story", "Once upon a time", "More", "the end", system="You are kind.")
        [item] = enc.conversation(row)
        assert [s.strip() for s in said(enc, item)] == ["Once upon a time</s>", "the end</s>"]
        assert enc.prompt(row.messages[:4]) == item.token_ids[: len(enc.prompt(row.messages[:4]))].tolist()


def test_the_tokenizers_truncation_state_does_not_leak_in() -> None:
    tokenizer = byte_level_with_bos()
    tokenizer("a b c d e f", truncation=True, max_length=3)
    [item] = encoder("plain", tokenizer).conversation(talk("a b c d", "e f g h"))
    assert item.cut_tokens == 0 and len(item.token_ids) > 8


# ───────────────────────────────────────────────────────────────── 13: rows are not changed


def test_text_survives_exactly() -> None:
    text = "  Grüße\r\n\t😀 e\u0301 \u00a0 end  "
    enc = encoder(CHATML)
    [item] = enc.conversation(talk(text, text))
    assert said(enc, item) == [text + "<|im_end|>"]
    assert not enc.notes


def test_half_a_character_is_refused_by_place() -> None:
    with pytest.raises(DataError, match="E358") as caught:
        encoder(CHATML).conversation(talk("a", "\ud83d", place="r:4"))
    assert caught.value.place == "r:4"


def test_a_million_characters_are_one_row() -> None:
    enc = encoder("plain", max_length=64, truncation="left")
    [item] = enc.conversation(talk("fox " * 250_000, "Yes."))
    assert len(item.token_ids) == 64 and item.cut_tokens > 100_000


# ───────────────────────────────────────────────────────────────── 14: the fingerprint


def test_the_fingerprint_changes_with_all_that_decides_tokens() -> None:
    base = {"template": CHATML}
    changes = [
        {},
        {"template": LLAMA3},
        {"tokenizer": byte_level_with_bos()},
        {"max_length": 256},
        {"truncation": "left"},
        {"labels": ("a",)},
        {"prompt": Prompt(user="{text}?")},
        {"assistant_only_loss": False},
    ]
    prints = [encoder(**{**base, **c}).fingerprint() for c in changes]
    assert len(set(prints)) == len(changes)
    assert encoder(CHATML).fingerprint() == prints[0]


# ───────────────────────────────────────────────────────────────── labelled rows


def test_a_labelled_row_becomes_a_question_with_its_target() -> None:
    enc = encoder("plain", labels=("no", "yes"))
    row = Labelled(text="Is it?", target="yes", id="7", place="a.csv:3", meta={"lang": "en"})
    talked = enc.labelled_conversation(row)
    assert [m.role for m in talked.messages] == ["user", "assistant"]
    assert talked.messages[0].text == "Classify the text as one of: no, yes.\nText: Is it?\nLabel:"
    assert talked.messages[1].text == "yes"
    assert (talked.id, talked.place) == ("7", "a.csv:3")
    asked = encoder("plain", prompt=Prompt(system="Route it.", user="[{lang}] {text}")).labelled_conversation(row)
    assert [m.text for m in asked.messages] == ["Route it.", "[en] Is it?", "yes"]
    many = encoder("plain", labels=tuple(f"intent_{i}" for i in range(77))).labelled_conversation(row)
    assert many.messages[0].text == "Classify the text.\nText: Is it?\nLabel:"
    with pytest.raises(RowError, match="lacks"):
        encoder("plain", prompt=Prompt(user="{nowhere}")).labelled_conversation(row)


def test_braces_in_a_text_are_left_alone() -> None:
    row = Labelled(text="{lang} {0} {", target="x", meta={"lang": "en"})
    assert "Text: {lang} {0} {\n" in encoder("plain").labelled_conversation(row).messages[0].text


@pytest.mark.parametrize(("target", "expected"), [(("a", "b"), "a, b"), (2.5, "2.5"), (3.0, "3"), ("x", "x")])
def test_targets_of_every_kind_have_a_text(target: object, expected: str) -> None:
    row = Labelled(text="t", target=target)
    assert encoder("plain").labelled_conversation(row).messages[1].text == expected


def test_a_row_for_a_head_has_the_tokenizers_special_tokens_and_no_loss() -> None:
    tokenizer = word_pieces()
    enc = Encoder(tokenizer, max_length=8, labels=("a", "b"))
    item = enc.labelled(Labelled(text="The quick brown fox jumps over the lazy dog", target="b"))
    assert item.token_ids[0] == tokenizer.cls_token_id and item.token_ids[-1] == tokenizer.sep_token_id
    assert len(item.token_ids) == 8 and item.cut_tokens > 0
    assert not item.loss_mask.any() and item.target == "b" and item.num_prompt == 8
    short = enc.labelled(Labelled(text="the fox", target="a"))
    assert short.token_ids.tolist() == tokenizer("the fox").input_ids


def test_a_row_for_a_head_without_a_single_token_is_refused_by_its_place() -> None:
    row = Labelled(text="", target="a", meta={"title": ""}, place="rows.csv:4")
    for enc in (encoder("plain"), encoder("plain", prompt=Prompt(user="{title}"))):
        with pytest.raises(DataError, match=r"E372.*rows\.csv:4"):
            enc.labelled(row)
        with pytest.raises(DataError, match="E372"):
            list(enc.encode([Labelled(text="the fox", target="a", meta={"title": "x"}), row], head=True))
        assert enc.report.n <= 1, "a row that is refused is not counted among those that were read"
    pieces = Encoder(word_pieces(), max_length=8, labels=("a", "b"))
    assert len(pieces.labelled(row).token_ids) == 2, "there are two special tokens to read"


# ───────────────────────────────────────────────────────────────── raw text


def test_each_token_of_a_long_text_is_predicted_once() -> None:
    tokenizer = byte_level_with_bos()
    enc = Encoder(tokenizer, max_length=10)
    text = "The quick brown fox jumps over the lazy dog. " * 5
    blocks = enc.text(Text(text=text))
    whole = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    predicted = [int(t) for b in blocks for t, m in zip(b.token_ids, b.loss_mask, strict=True) if m]
    assert predicted == whole[1:]
    assert all(len(b.token_ids) <= 10 and b.loss_mask[0] == 0 for b in blocks)
    assert blocks[1].token_ids[0] == blocks[0].token_ids[-1]
    assert enc.report.supervised == len(whole) - 1


def test_an_empty_text_is_dropped_not_trained() -> None:
    enc = encoder(None, byte_level_with_bos())
    assert enc.text(Text(text="", place="a.txt:1")) == []
    assert enc.report.dropped_places == ("a.txt:1",)


# ───────────────────────────────────────────────────────────────── configuration


def test_a_base_without_template_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="E240") as caught:
        encoder(None, place=lambda key: f"r.yaml {key}").conversation(talk("a", "b"))
    assert "plain" in caught.value.fix
    assert caught.value.place == "r.yaml model.chat_template"
    assert encoder(None).text(Text(text="raw text needs none"))


def test_unusable_templates_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="E241"):
        encoder("{% if %}")
    with pytest.raises(ConfigError, match="E241"):
        encoder("{{ 'always the same' }}")
    with pytest.raises(ConfigError, match=r"E241.*`chatlm`") as caught:
        encoder("chatlm")
    assert caught.value.fix == "Did you mean `chatml`?"
    with pytest.raises(ConfigError, match=r"E241.*<\|im_start\|>"):
        Encoder(word_pieces(), max_length=8, chat_template="chatml")
    with pytest.raises(ConfigError, match="E241"):
        Encoder(word_pieces(), max_length=8, chat_template="plain")
    with pytest.raises(ConfigError, match="E242"):
        Encoder(object(), max_length=8)


def test_rows_of_another_kind_are_refused_by_name() -> None:
    row = Rated(prompt=(Message("user", "a"),), completion=(Message("assistant", "b"),), label=True, place="k:1")
    with pytest.raises(DataError, match="E356"):
        list(encoder(CHATML).encode([row]))


def test_encode_gives_the_same_in_batches_as_one_by_one() -> None:
    rows = [talk(f"question {i} " * (i % 7 + 1), f"answer {i} " * (i % 5 + 1)) for i in range(600)]
    one = [e for r in rows for e in encoder(CHATML).conversation(r)]
    many = list(encoder(CHATML).encode(rows))
    assert [e.token_ids.tolist() for e in one] == [e.token_ids.tolist() for e in many]
    assert [e.loss_mask.tolist() for e in one] == [e.loss_mask.tolist() for e in many]
    head = list(Encoder(spaced(), max_length=9).encode([Labelled(text="a", target="x")], head=True))
    assert head[0].target == "x"
