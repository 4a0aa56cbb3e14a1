"""Asking a real (random, tiny) policy: each figure against the plain way to compute it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.errors import ConfigError, DataError
from metier.core.types import Conversation, Labelled, Message, Text, identify
from metier.data.template import Encoder
from metier.evaluation.predict import (
    from_logits,
    label_ids,
    pooled_features,
    predict_generate,
    predict_head,
    predict_label_likelihood,
    predict_text,
)
from metier.evaluation.records import prompt_text, read_predictions, reply_of, write_predictions
from metier.metrics import Prediction, metric
from metier.models.base import from_model
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build
from tiny import chat_rows, labelled_rows, llama, tokenizer

LABELS = ("card", "pain", "rate")


def labelled(n: int = 30) -> list[Labelled]:
    return [
        identify(Labelled(text=r["text"], target=r["label"], place=f"x.csv:{k}"))
        for k, r in enumerate(labelled_rows(n))
    ]


def conversations(n: int = 20) -> list[Conversation]:
    return [identify(Conversation(messages=tuple(Message(**m) for m in r["messages"]))) for r in chat_rows(n)]


def policy(head: HeadSpec | None = None, *, max_length: int = 128, **model: Any) -> Policy:
    encoder = Encoder(tokenizer(), max_length=max_length, labels=LABELS)
    return build(
        from_model(llama(**model), tokenizer()), "none" if head else "lora", {}, head=head, encoder=encoder, seed=0
    )


def test_head_predictions_equal_one_row_at_a_time() -> None:
    asked, rows = policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled()
    found = predict_head(asked, rows, labels=LABELS, problem_type="single_label")
    alone = [predict_head(asked, [row], labels=LABELS, problem_type="single_label")[0] for row in rows]
    assert [p.id for p in found] == [row.id for row in rows]
    for together, single in zip(found, alone, strict=True):
        assert together.label_probs == pytest.approx(single.label_probs, abs=1e-5)
        assert sum((together.label_probs or {}).values()) == pytest.approx(1.0)
        assert together.output == max(LABELS, key=(together.label_probs or {}).__getitem__)
        assert together.confidence == max((together.label_probs or {}).values())


def test_regression_returns_to_the_unit_of_the_target() -> None:
    spec = HeadSpec(num_outputs=1, problem_type="regression", target_mean=100.0, target_scale=20.0)
    asked = policy(spec)
    rows = [Labelled(text=row.text, target=float(k)) for k, row in enumerate(labelled(6))]
    found = predict_head(asked, rows, labels=(), problem_type="regression")
    plain = predict_head(replace_scale(asked), rows, labels=(), problem_type="regression")
    for scaled, raw in zip(found, plain, strict=True):
        assert scaled.output == pytest.approx(100 + 20 * float(raw.output), rel=1e-6)  # type: ignore[arg-type]
    assert found[3].reference == 3.0


def replace_scale(asked: Policy) -> Policy:
    assert asked.head is not None
    asked.head.spec = replace(asked.head.spec, target_mean=0.0, target_scale=1.0)
    return asked


def broken(asked: Policy) -> Policy:
    """Return the policy with an embedding that is not a number, which the rows with `stolen` hold."""
    [token] = asked.base.tokenizer(" stolen", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        asked.base.model.get_input_embeddings().weight[token] = float("nan")
    return asked


@pytest.mark.parametrize(
    "spec", [HeadSpec(num_outputs=1, problem_type="regression"), HeadSpec(num_outputs=3, labels=LABELS)]
)
def test_outputs_that_are_no_numbers_are_refused_and_their_rows_named(spec: HeadSpec) -> None:
    rows = [replace(row, target=1.0) if spec.problem_type == "regression" else row for row in labelled(30)]
    named = [row.place for row in rows if " stolen" in row.text]
    asked = broken(policy(spec))
    for ask in (
        lambda: predict_head(asked, rows, labels=LABELS, problem_type=spec.problem_type),
        lambda: pooled_features(asked, rows),
    ):
        with pytest.raises(DataError, match=r"E373 .* for 15 of 30 rows") as error:
            ask()
        assert (error.value.place, error.value.received) == (named[0], f"rows {', '.join(named[:8])} and 7 more")
    whole = [row for row in rows if row.place not in named]
    assert len(predict_head(asked, whole, labels=LABELS, problem_type=spec.problem_type)) == 15


def test_label_likelihoods_that_are_no_numbers_are_refused_and_their_rows_named() -> None:
    with pytest.raises(DataError, match=r"E373 .* for 3 of 6 rows") as error:
        predict_label_likelihood(broken(policy(tie_word_embeddings=False)), labelled(6), labels=LABELS)
    assert error.value.received == "rows x.csv:0, x.csv:1, x.csv:3" and "stolen" not in str(error.value)


def test_several_labels_are_those_of_at_least_one_half() -> None:
    rows = [Labelled(text="x", target=("card", "rate"))]
    found = from_logits(rows, np.array([[2.0, -1.0, 0.0]]), labels=LABELS, problem_type="multi_label")[0]
    assert found.output == ("card", "rate")
    assert found.label_probs == pytest.approx({"card": 0.8808, "pain": 0.2689, "rate": 0.5}, abs=1e-4)
    assert found.correct is True


def test_label_likelihood_equals_the_likelihood_of_the_whole_reply() -> None:
    asked, rows = policy(), labelled(5)
    found = predict_label_likelihood(asked, rows, labels=LABELS)
    for row, prediction in zip(rows, found, strict=True):
        sums = [-(predict_text(asked, [replace(row, target=label)])[0].nll or 0) for label in LABELS]
        probs = np.exp(np.array(sums) - max(sums))
        assert list((prediction.label_probs or {}).values()) == pytest.approx(list(probs / probs.sum()), rel=1e-3)


def test_label_ids_end_in_a_stop_token_and_follow_the_prompt() -> None:
    encoder = Encoder(tokenizer(), max_length=128, labels=LABELS)
    row = labelled(1)[0]
    ids = label_ids(encoder, row, LABELS)
    conversation = encoder.labelled_conversation(replace(row, target="pain"))
    whole = encoder.conversation(conversation)[0].token_ids.tolist()
    assert whole == encoder.prompt(conversation.messages[:-1]) + ids[1]
    assert all(reply[-1] in encoder.stop_ids for reply in ids)


def test_perplexity_equals_the_model_s_own_loss() -> None:
    asked = policy()
    text = Text(text="the cat sat on the mat and looked at the rain")
    found = predict_text(asked, [text])[0]
    ids = torch.from_numpy(asked.encoder.text(text)[0].token_ids.astype(np.int64))[None]
    with torch.no_grad():
        loss = float(asked.base.model(input_ids=ids, labels=ids).loss)
    assert found.num_tokens == ids.shape[1] - 1
    assert found.nll == pytest.approx(loss * found.num_tokens, rel=1e-4)
    assert metric("perplexity").value([found]) == pytest.approx(np.exp(loss), rel=1e-4)


def test_long_text_is_measured_whole_in_blocks() -> None:
    text = Text(text=" ".join(["the cat sat on the mat"] * 40))
    whole, blocks = (predict_text(policy(max_length=n), [text])[0] for n in (250, 32))
    assert blocks.num_tokens == whole.num_tokens
    assert abs(blocks.num_bytes - len(text.text.encode())) <= 3  # the first token is not predicted
    assert blocks.cut_tokens == 0


def test_replies_alone_are_measured() -> None:
    row = conversations(1)[0]
    found = predict_text(policy(), [row])[0]
    assert found.num_bytes == len(row.messages[-1].text.encode())
    assert found.reference == row.messages[-1].text
    assert found.prompt == row.messages[0].text


def test_replies_alone_are_measured_where_the_prompts_are_trained_on_too() -> None:
    row = conversations(1)[0]
    asked, trained_on_all = policy(), policy()
    trained_on_all.encoder = Encoder(tokenizer(), max_length=128, labels=LABELS, assistant_only_loss=False)
    assert trained_on_all.encoder.conversation(row)[0].loss_mask[1:].all()
    found, plain = predict_text(trained_on_all, [row])[0], predict_text(asked, [row])[0]
    assert (found.num_bytes, found.num_tokens) == (len(row.messages[-1].text.encode()), plain.num_tokens)
    assert found.nll == pytest.approx(plain.nll)


def test_free_text_is_greedy_and_does_not_depend_on_its_neighbours() -> None:
    asked, rows = policy(), conversations(8)
    together = predict_generate(asked, rows, max_new_tokens=6)
    alone = [predict_generate(asked, [row], max_new_tokens=6)[0] for row in rows]
    assert [p.output for p in together] == [p.output for p in alone]
    assert {p.finish for p in together} <= {"stop", "length"}


def test_free_text_is_matched_with_labels() -> None:
    asked, rows = policy(seed=5, initializer_range=0.5), labelled(12)
    said = [p.raw for p in predict_generate(asked, rows, max_new_tokens=3)]
    label = f"  {said[0].strip().upper()}"
    found = predict_generate(asked, rows, max_new_tokens=3, labels=(label,))
    assert said[0].strip() and len(set(said)) > 1
    assert [p.output for p in found] == [label if s.strip() == said[0].strip() else "" for s in said]
    assert [p.raw for p in found] == said  # what was said stays readable
    assert found[0].reference == rows[0].target


def test_a_prompt_that_fills_the_window_is_cut_at_its_start_and_counted() -> None:
    asked = policy(max_length=48)
    long = Conversation(messages=(Message("user", "cat " * 200), Message("assistant", "ok")))
    found = predict_generate(asked, [long], max_new_tokens=4)[0]
    assert found.cut_tokens > 100
    assert (
        predict_label_likelihood(asked, [Labelled(text="cat " * 200, target="card")], labels=LABELS)[0].output in LABELS
    )


def test_features_are_those_of_the_base_while_its_adapter_is_off() -> None:
    asked, rows = policy(), labelled(4)
    before = pooled_features(asked, rows)
    with torch.no_grad():
        for parameter in asked.trained().values():
            parameter.add_(0.3)
    assert not np.allclose(pooled_features(asked, rows), before, atol=1e-3)
    with asked.reference():
        assert np.allclose(pooled_features(asked, rows), before, atol=1e-5)


def test_measuring_gives_a_training_policy_back_in_training_mode() -> None:
    asked = policy().train()
    predict_text(asked, conversations(2))
    assert asked.base.model.training is True


def test_reply_of_a_tool_call_is_json() -> None:
    from metier.core.types import ToolCall

    call = ToolCall("find", {"id": 3}, '{"id": 3}')
    messages = (
        Message("system", "s"),
        Message("user", "q"),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "r"),
    )
    row = Conversation(messages=messages)
    assert reply_of(row) == '{"name": "find", "arguments": {"id": 3}}'
    assert prompt_text(row) == "system: s\nuser: q"


def test_predictions_survive_the_disk(tmp_path: Path) -> None:
    rows = [
        Prediction(
            id="1", reference="é\ud800", output="", raw="x\r\ny\u2028z", label_probs={"a": 0.25}, meta={"k": [1]}
        ),
        Prediction(id="2", reference=("a", "b"), output=("a",), nll=1.5, num_tokens=2, num_bytes=3, finish="stop"),
        Prediction(id="3", reference=1.0, output=2.5, confidence=0.5),
        Prediction(id="4", reference="a"),
    ]
    write_predictions(tmp_path / "test-run.jsonl", rows)
    assert read_predictions(tmp_path / "test-run.jsonl") == rows
    assert (tmp_path / "test-run.jsonl").read_bytes().count(b"\n") == 4


def test_prompts_that_lose_their_start_are_counted_for_labels_as_for_replies() -> None:
    asked = policy(max_length=96)
    short, long = labelled(1)[0], Labelled(text="the cat sat on the mat " * 30, target="card")
    for found in (
        predict_label_likelihood(asked, [short, long], labels=LABELS),
        predict_generate(asked, [short, long], max_new_tokens=2),
    ):
        assert found[0].cut_tokens == 0 and found[1].cut_tokens > 100


def test_labels_that_leave_no_room_for_a_text_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        predict_label_likelihood(policy(max_length=16), labelled(2), labels=["card", "pain " * 40])
    assert caught.value.code == "E278"
