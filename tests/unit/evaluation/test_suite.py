"""The whole evaluation on real, tiny policies: what is compared, what is claimed, what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.errors import ConfigError, DataError
from metier.core.sections import Prompt
from metier.core.types import Conversation, Example, Labelled, Message, Preference, Text, identify
from metier.data.batching import collate, micro_batches
from metier.data.template import Encoder
from metier.evaluation import baseline
from metier.evaluation.inputs import chosen_metrics
from metier.evaluation.records import read_predictions
from metier.evaluation.result import DataSummary, Report, TrainingSummary
from metier.evaluation.suite import EvaluationInput, _Table, _unfinished, _unseen, evaluate
from metier.evaluation.systems import Asked
from metier.evaluation.verdict import judge
from metier.evaluation.versus import versus
from metier.metrics import Prediction, metric
from metier.models.base import from_model
from metier.models.heads import HeadSpec
from metier.models.policy import Policy, build
from tiny import chat_rows, labelled_rows, llama, tokenizer

LABELS = ("card", "pain", "rate")
TRAINING = TrainingSummary(
    method="sft",
    adapter="lora",
    steps=1,
    epochs=1,
    examples=1,
    tokens=1,
    supervised_tokens=1,
    padding=0,
    seconds=1,
    tokens_per_second=1,
    peak_memory_bytes=1,
    trainable_parameters=1,
    total_parameters=1,
    best_step=1,
    stopped_early=False,
    overfitting="none",
)


def labelled(n: int) -> list[Labelled]:
    return [
        identify(
            Labelled(text=r["text"], target=r["label"], place=f"x.csv:{k}", meta={"channel": "app" if k % 5 else "web"})
        )
        for k, r in enumerate(labelled_rows(n))
    ]


def conversations(n: int) -> list[Conversation]:
    return [identify(Conversation(messages=tuple(Message(**m) for m in r["messages"]))) for r in chat_rows(n)]


def policy(head: HeadSpec | None = None, *, template: str | None = None, adapter: str = "lora") -> Policy:
    words = tokenizer()
    encoder = Encoder(words, max_length=128, labels=LABELS, chat_template=template)
    return build(from_model(llama(), words), adapter, {}, head=head, encoder=encoder, seed=0)


def ask(asked: Policy, rows: Sequence[Example], **changes: Any) -> Report:
    n = len(rows)
    values: dict[str, Any] = {
        "policy": asked,
        "train": rows[: n // 3],
        "validation": rows[n // 3 : n // 2],
        "test": rows[n // 2 :],
        "labels": LABELS,
        "problem_type": "single_label",
        "task": "classify",
        "bootstrap_samples": 200,
        "max_new_tokens": 4,
        "data": DataSummary(dataset="data:x@v1", digest="0", rows={}),
        "training": TRAINING,
        "created": "2026-01-01T00:00:00Z",
    }
    report = evaluate(EvaluationInput(**{**values, **changes}))
    assert Report.model_validate_json(report.model_dump_json()) == report
    return report


def fit(asked: Policy, rows: Sequence[Text], steps: int) -> Policy:
    """Train the adapter on texts, plainly."""
    encodeds = [part for row in rows for part in asked.encoder.text(row)]
    lengths = np.array([len(e.token_ids) for e in encodeds])
    optimizer = torch.optim.AdamW(asked.trained().values(), lr=2e-2)
    batches = [collate(encodeds, b, pad_id=1) for b in micro_batches(lengths, budget_tokens=800, packing=False)]
    for step in range(steps):
        batch = batches[step % len(batches)]
        tokens, mask = torch.from_numpy(batch.tokens_BT), torch.from_numpy(batch.loss_mask_BT[:, 1:])
        logits = asked.output_layer()(asked.hidden(batch).flatten(0, 1)).view(*tokens.shape, -1)
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        (losses * mask.flatten()).sum().div(mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return asked.eval()


@cache
def generative() -> Report:
    rows = labelled(240)
    return ask(
        policy(), rows, leaking_ids=frozenset({rows[120].id}), slices=("channel",), general_texts=("the cat sat",) * 4
    )


def test_a_classifier_is_compared_with_the_strongest_form_of_its_base() -> None:
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(240))
    roles = {s.name: s.role for s in report.systems}
    assert roles == {
        "run": "run",
        "linear_probe": "base",
        "majority": "base_candidate",
        "zero_shot": "base_candidate",
        "tfidf_svm": "floor",
    }
    assert next(iter(roles)) == "run"
    assert (
        report.verdict == "worse"
        and "points below the untouched base (frozen base + linear probe; 95 % interval" in report.sentence
    )
    assert {d.metric for d in report.differences if d.other == "linear_probe"} >= {"accuracy", "f1", "ece", "brier"}
    assert [d.metric for d in report.differences if d.other == "majority"] == ["accuracy"]
    assert report.confusion is not None and sum(map(sum, report.confusion.counts)) == 120
    assert report.calibration is not None and report.calibration.base_ece is not None
    assert report.forgetting == [] and "labels texts" in report.forgetting_note


def test_a_generative_classifier_is_scored_by_likelihood_and_by_free_text() -> None:
    report = generative()
    systems = {s.name: s for s in report.systems}
    assert list(systems)[:2] == ["run", "run_text"]
    assert {f.metric for f in systems["run"].figures} >= {"accuracy", "ece", "f1", "f1:average=micro"}
    assert "ece" not in {f.metric for f in systems["run_text"].figures}  # free text has no probabilities
    assert report.primary_metric == "accuracy" == systems["run"].figures[0].metric


def test_leaks_slices_and_forgetting_are_shown() -> None:
    report = generative()
    assert report.data.leak_free_figures[0].n == 119
    others = report.data.leak_free_others
    assert set(others) == {s.name for s in report.systems if s.role in ("base", "floor")} and len(others) == 2
    assert {figures[0].n for figures in others.values()} <= {119}
    assert any(limit.startswith("1 measured row has an exact or near twin") for limit in report.limits)
    assert {(s.value, s.figure is None) for s in report.slices if s.column == "channel"} == {
        ("app", True),
        ("web", True),
    }
    assert report.forgetting[0].delta == 0.0 and report.forgetting[0].outcome == "same"  # nothing was trained


def test_where_every_measured_row_has_a_twin_no_figures_without_them_are_promised() -> None:
    rows = labelled(240)
    for leaking, said in (
        (rows[120:], "no row is left without one"),
        (rows[121:], "figures without them stand beside"),
    ):
        found = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), rows, leaking_ids=frozenset(e.id for e in leaking))
        limit = next(text for text in found.limits if " twin in " in text)
        assert limit.endswith(f"an exact or near twin in train or validation; {said}.")
        assert bool(found.data.leak_free_figures) == (len(leaking) < 120)


def test_the_leak_free_figures_of_base_and_floor_leave_out_the_same_rows() -> None:
    rows = labelled(240)
    asked = policy(HeadSpec(num_outputs=3, labels=LABELS))
    leaking = frozenset(e.id for e in rows[120:] if e.target == "card")
    kept = [e for e in rows[120:] if e.id not in leaking]
    report = ask(asked, rows, leaking_ids=leaking)
    # Without the leaking rows in the first place, every system says the same about the others.
    alone = ask(asked, rows, test=kept)
    figures = {s.name: {f.metric: f.value for f in s.figures} for s in alone.systems}
    found = {"run": report.data.leak_free_figures, **report.data.leak_free_others}
    assert set(found) == {"run", "linear_probe", "tfidf_svm"}
    for name, without in found.items():
        assert without[0].n == len(kept)
        assert {f.metric: f.value for f in without} == pytest.approx(figures[name], abs=1e-6), name


def test_answers_that_do_not_end_are_told_whatever_metrics_were_asked_for() -> None:
    report = ask(policy(), labelled(60), metrics=("accuracy",))
    assert [f.metric for f in report.systems[0].figures] == ["accuracy"]
    assert report.warnings == report.limits[:1]
    assert "of 30 written answers did not end by themselves" in report.warnings[0]
    assert "end-of-turn token, or evaluation.max_new_tokens=4" in report.warnings[0]
    assert ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(60)).warnings == []


@pytest.mark.parametrize(("cut", "told"), [(0, False), (5, False), (6, True), (10, True)])
def test_half_of_the_answers_may_be_cut_before_it_is_told(cut: int, told: bool) -> None:
    written = [Prediction(id=str(k), finish="length" if k < cut else "stop") for k in range(10)]
    likely = [Prediction(id=str(k)) for k in range(10)]
    base = [Prediction(id=str(k), finish="length") for k in range(10)]
    systems = [
        Asked("run", "", "run", likely), Asked("run_text", "", "run", written), Asked("base", "", "base", base)
    ]  # fmt: skip
    given: Any = SimpleNamespace(max_new_tokens=4)
    assert [w.partition(" of ")[0] for w in _unfinished(given, systems)] == ([f"{cut * 10}.0\u00a0%"] if told else [])


def test_a_checkpoint_that_is_not_the_trained_one_is_told_and_the_figures_stand() -> None:
    reload = {
        "checkpoint": "step-000009", "recorded_loss": 0.5, "reloaded_loss": 4.25, "largest_difference": 3.75,
        "tolerance": 1e-4, "passed": False,
    }  # fmt: skip
    asked, rows = policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(60)
    report = ask(asked, rows, parity={"reload": reload})
    assert report.warnings == report.limits[:1] and report.systems[0].figures[0].value is not None
    assert "step-000009, loaded from disk, has a validation loss of 4.25 where training saw 0.5" in report.warnings[0]
    assert "at most 0.0001 apart is allowed" in report.warnings[0]
    assert ask(asked, rows, parity={"reload": {**reload, "passed": True}}).warnings == []


def test_the_same_input_gives_the_same_report() -> None:
    rows = labelled(240)
    again = ask(
        policy(), rows, leaking_ids=frozenset({rows[120].id}), slices=("channel",), general_texts=("the cat sat",) * 4
    )
    seconds = {"systems": {"__all__": {"seconds"}}}
    assert again.model_dump(exclude=seconds) == generative().model_dump(exclude=seconds)


def test_continued_pre_training_that_learns_is_worth_it_and_its_base_is_untouched() -> None:
    texts = [identify(Text(text=f"{r['text']} and nothing else {k}")) for k, r in enumerate(labelled_rows(240))]
    before = ask(policy(), texts, task="continue", problem_type=None)
    assert before.verdict == "no_gain" and "exactly as the untouched base" in before.sentence
    report = ask(
        fit(policy(), texts[:80], 40), texts, task="continue", problem_type=None, general_texts=("xyz qq",) * 4
    )
    assert report.verdict == "worth_it", report.sentence
    assert report.sentence.startswith("Worth it: bits per byte ")
    base = {f.metric: f.value for s in report.systems if s.role == "base" for f in s.figures}
    untouched = {f.metric: f.value for s in before.systems if s.role == "base" for f in s.figures}
    assert base == pytest.approx(untouched, rel=1e-5)
    assert report.forgetting[0].outcome == "worse" and "more bits per byte" in report.forgetting_note


def test_writers_are_compared_with_their_base_and_the_nearest_reply(tmp_path: Path) -> None:
    report = ask(
        policy(),
        conversations(240),
        task="summarize",
        problem_type=None,
        labels=(),
        max_examples=110,
        predictions_dir=tmp_path,
    )
    figures = {(s.name, f.metric): f for s in report.systems for f in s.figures}
    assert figures["run", "rouge"].n == 110 and figures["run", "bits_per_byte"].n == 120
    assert figures["nearest_neighbour", "rouge"].value is not None
    assert figures["nearest_neighbour", "rouge"].n == 110, "figures that stand side by side are of the same rows"
    assert {figures[name, "rouge"].note for name in ("run", "base", "nearest_neighbour")} == {"on 110 of 120 rows"}
    assert ("nearest_neighbour", "bits_per_byte") not in figures
    assert report.primary_metric == "rouge" and report.verdict == "no_gain"
    assert any("sample of 110 of 120 rows" in limit for limit in report.limits)
    written = {p.name: read_predictions(p) for p in tmp_path.iterdir()}
    assert set(written) == {"test-run.jsonl", "test-base.jsonl", "test-nearest_neighbour.jsonl"}
    answered = {name: {p.id for p in rows if p.output is not None} for name, rows in written.items()}
    assert answered["test-nearest_neighbour.jsonl"] == answered["test-run.jsonl"]
    assert metric("rouge").value(written["test-run.jsonl"]) == pytest.approx(figures["run", "rouge"].value)


def test_a_classifier_that_writes_to_a_sample_says_so() -> None:
    report = ask(policy(), labelled(60), max_examples=7)
    figures = {(s.name, f.metric): f for s in report.systems for f in s.figures}
    assert (figures["run", "accuracy"].n, figures["run_text", "accuracy"].n) == (30, 7)
    assert figures["run_text", "accuracy"].note == "on 7 of 30 rows"
    assert any("for a sample of 7 of 30 rows; the other figures are of all" in limit for limit in report.limits)
    headed = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(60), max_examples=7)
    assert not any("sample" in limit for limit in headed.limits), "a head writes nothing"


def test_without_validation_the_choice_is_made_on_the_measured_rows_and_said() -> None:
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(240), validation=[])
    assert any("no validation split" in limit for limit in report.limits)


def test_figures_on_the_rows_that_chose_the_checkpoint_say_so() -> None:
    rows = labelled(240)
    asked = policy(HeadSpec(num_outputs=3, labels=LABELS))
    said = [any("the validation rows" in x for x in ask(asked, rows, split=s).limits) for s in ("validation", "test")]
    assert said == [True, False]


def test_a_base_without_a_chat_template_is_measured_without_zero_shot() -> None:
    words = tokenizer()
    bare, words.chat_template = words.chat_template, None
    try:
        asked = policy(HeadSpec(num_outputs=3, labels=LABELS))
        report = ask(asked, labelled(120))
    finally:
        words.chat_template = bare
    assert "zero_shot" not in {s.name for s in report.systems}
    assert any("no chat template" in limit for limit in report.limits)


def test_without_a_baseline_nothing_is_claimed() -> None:
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(240), baseline=False)
    assert report.verdict == "insufficient" and "the untouched base was not measured" in report.sentence
    assert {s.role for s in report.systems} == {"run", "floor"}


def test_fewer_than_100_rows_give_figures_and_no_claim() -> None:
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(120))
    assert report.verdict == "insufficient" and "60 held-out texts are fewer than the 100" in report.sentence
    assert report.systems[0].figures[0].value is not None


def test_regression() -> None:
    rows = [identify(replace(e, target=float(LABELS.index(str(e.target))))) for e in labelled(240)]
    head = HeadSpec(num_outputs=1, problem_type="regression", target_mean=1.0)
    report = ask(policy(head), rows, problem_type="regression", labels=())
    assert report.primary_metric == "mae" and report.verdict == "worse"
    assert {s.name for s in report.systems} == {"run", "linear_probe", "majority", "tfidf_ridge"}
    assert report.confusion is None and report.classes == []


def test_several_labels() -> None:
    rows = [identify(replace(e, target=(str(e.target), "pain"))) for e in labelled(240)]
    report = ask(
        policy(HeadSpec(num_outputs=3, labels=LABELS, problem_type="multi_label")), rows, problem_type="multi_label"
    )
    assert report.primary_metric == "f1" and report.calibration is not None
    assert {s.name for s in report.systems} == {"run", "linear_probe", "majority", "tfidf_svm"}


def test_targets_are_judged_and_unknown_ones_refused() -> None:
    targets = {"mae": "<= 1", "gain_over_floor.accuracy": ">= 0", "accuracy": ">= 0.01"}
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(240), targets=targets)
    assert {t.name: t.met for t in report.targets} == {"mae": None, "gain_over_floor.accuracy": False, "accuracy": True}
    with pytest.raises(ConfigError, match=r"E210 There is no metric `acuracy`[\s\S]*Did you mean `accuracy`"):
        chosen_metrics("single_label", "auto", {"gain_over_base.acuracy": ">= 0.1"})


def test_the_first_metric_that_was_asked_for_decides() -> None:
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), labelled(240), metrics=("f1", "accuracy"))
    assert report.primary_metric == "f1"
    assert [f.metric for f in report.systems[0].figures] == ["f1", "accuracy"]


@pytest.mark.parametrize(("truncation", "asks"), [("drop", 1), ("right", 300)])
def test_rows_without_a_likelihood_are_counted_and_said(truncation: str, asks: int) -> None:
    """`drop` leaves long rows out; by the default, a prompt that fills max_length leaves no token of its reply."""
    rows = conversations(40)
    long = [
        identify(Conversation(messages=(Message("user", "the cat " * asks), Message("assistant", f"sat {k} " * 100))))
        for k in range(4)
    ]
    asked = policy()
    asked.encoder = Encoder(tokenizer(), max_length=128, labels=LABELS, truncation=truncation)
    report = ask(asked, rows, test=[*rows[20:], *long], task="chat", problem_type=None, max_new_tokens=2)
    for system in report.systems[:2]:
        found = {f.metric: f for f in system.figures}
        assert (found["bits_per_byte"].n, found["bits_per_byte"].note) == (20, "on 20 of 24 rows")
        assert (found["rouge"].n, found["rouge"].note) == (24, "")
    said = [limit for limit in report.limits if "no likelihood" in limit]
    assert len(said) == 1 and said[0].startswith("4 measured rows have no likelihood") and "other 20." in said[0]


def test_nothing_is_said_of_likelihoods_where_every_row_has_one_or_none_is_asked_for() -> None:
    for report in (ask(policy(), conversations(24), task="chat", problem_type=None), generative()):
        assert not [limit for limit in report.limits if "no likelihood" in limit]
        assert not [f for f in report.systems[0].figures if f.note]


def test_the_keyword_floor_reads_the_prompt_that_the_run_reads() -> None:
    """The label depends on a column that only `data.prompt.user` brings in."""
    drawn = np.random.default_rng(0).integers(0, 2, 240).tolist()
    rows = [
        identify(Labelled(text=f"please see {k}", target=LABELS[y], meta={"title": ("bill", "leave")[y]}))
        for k, y in enumerate(drawn)
    ]
    words = tokenizer()
    found = {}
    for user in (None, "{title}: {text}"):
        encoder = Encoder(words, max_length=128, labels=LABELS, prompt=Prompt(user=user))
        head = HeadSpec(num_outputs=3, labels=LABELS)
        report = ask(build(from_model(llama(), words), "lora", {}, head=head, encoder=encoder, seed=0), rows)
        floor = next(s for s in report.systems if s.name == "tfidf_svm")
        found[user] = next(f.value for f in floor.figures if f.metric == "accuracy")
        assert "please" in report.examples.random[0].prompt and "bill" not in report.examples.random[0].prompt
    assert found["{title}: {text}"] == 1.0 and (found[None] or 0) < 0.7


def test_systems_that_saw_fewer_training_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "FIT_ROWS", 30)
    monkeypatch.setattr(baseline, "TFIDF_CHARACTERS", 500)
    rows = labelled(240)
    report = ask(policy(HeadSpec(num_outputs=3, labels=LABELS)), rows, train=rows[:80])
    labels = {s.name: s.label for s in report.systems}
    assert labels["linear_probe"] == "Untouched base: frozen base + linear probe, on 30 of 80 training rows"
    assert labels["tfidf_svm"] == "TF-IDF + linear SVM, on 30 of 80 training rows"
    assert labels["majority"] == "Most frequent answer"
    assert "TF-IDF + linear SVM saw 30 of 80 training rows; with all of them it could be better." in report.limits
    assert any(limit.startswith("Frozen base + linear probe saw 30 of 80") for limit in report.limits)
    written = ask(policy(), conversations(240), task="chat", problem_type=None, labels=(), train=conversations(80))
    assert [s.label for s in written.systems][-1] == "Nearest training row's reply, on 30 of 80 training rows"
    assert any(limit.startswith("Nearest training row's reply saw 30 of 80") for limit in written.limits)


def sure(right: Sequence[bool], confidence: float) -> list[Prediction]:
    """Answer with one confidence, in one bin of the calibration error."""
    return [
        replace(
            p,
            confidence=confidence,
            label_probs={str(p.output): confidence, "ab".replace(str(p.output), ""): 1 - confidence},
        )
        for p in answers(right)
    ]


@pytest.mark.parametrize("decides", ["ece", "brier"])
def test_no_run_is_worth_it_below_a_floor_that_lacks_the_figures_asked_for(decides: str) -> None:
    """Better calibrated than its base and right in 3 of 4 rows; the SVM, which has no probabilities, in all."""
    systems = [
        Asked("run", "This run", "run", sure([k % 4 > 0 for k in range(400)], 0.75)),
        Asked("base", "Untouched base", "base", sure([k % 4 > 1 for k in range(400)], 0.9)),
        Asked("tfidf_svm", "TF-IDF", "floor", answers([True] * 400), phrase="a keyword baseline"),
    ]
    given: Any = SimpleNamespace(
        test=[None] * 400, bootstrap_samples=300, seed=0, confidence=0.95, targets={}, split="test"
    )
    table = _Table(given, "single_label", [metric(decides)], systems)
    verdict, sentence = judge(table.evidence([]))
    assert verdict == "below_floor"
    assert "but in accuracy 25.0 points below a keyword baseline, which needs no language model" in sentence
    assert {s.name: [f.metric for f in s.figures] for s in table.systems()} == {
        "run": [decides, "accuracy"], "base": [decides, "accuracy"], "tfidf_svm": ["accuracy"]
    }  # fmt: skip
    assert [(d.other, d.metric) for d in table.differences()][-1] == ("tfidf_svm", "accuracy")
    assert _unseen(table) == []
    silent = [replace(p, output=None) for p in systems[2].predictions]
    unseen = _Table(given, "single_label", [metric(decides)], [*systems[:2], replace(systems[2], predictions=silent)])
    verdict, sentence = judge(unseen.evidence([]))
    assert verdict == "insufficient" and sentence.endswith(
        "but no figure could be had of it and of a keyword baseline."
    )
    assert _unseen(unseen) == [
        "No figure could be had of both the run and a keyword baseline: it may be better than the run."
    ]


def test_the_nearest_reply_stays_a_floor_where_likelihoods_alone_are_asked_for() -> None:
    rows = conversations(240)
    asked = {"task": "chat", "problem_type": None, "labels": (), "metrics": ("perplexity",)}
    report = ask(policy(), rows, **asked)
    floor = next(s for s in report.systems if s.role == "floor")
    assert [f.metric for f in floor.figures] == ["rouge"] and report.primary_metric == "perplexity"


def test_the_strongest_form_of_the_base_is_the_one_with_the_best_deciding_figure() -> None:
    """On validation the most frequent answer is right oftenest and the probe has the better F1."""

    def part(name: str, rare: int, alike: int, usual: int) -> list[Labelled]:
        drawn = [("my card", "card")] * rare + [("my card", "rate")] * alike + [("my rate", "rate")] * usual
        return [identify(Labelled(text=f"{t} {name} {k}", target=y)) for k, (t, y) in enumerate(drawn)]

    train, validation, test = part("a", 60, 10, 80), part("b", 10, 15, 75), part("c", 12, 13, 75)
    for metrics, base in ((("accuracy", "f1"), "majority"), (("f1", "accuracy"), "linear_probe")):
        asked = policy(HeadSpec(num_outputs=3, labels=LABELS))
        report = ask(asked, [], train=train, validation=validation, test=test, metrics=metrics)
        assert [s.name for s in report.systems if s.role == "base"] == [base]


def test_rows_that_cannot_be_evaluated() -> None:
    with pytest.raises(DataError, match="E360 The split `test` has no rows"):
        ask(policy(), [])
    turn = (Message("user", "q"),)
    with pytest.raises(DataError, match=r"E361 .*[\s\S]*preference"):
        ask(policy(), [Preference(prompt=turn, chosen=turn, rejected=turn)] * 4)


def answers(right: Sequence[bool], start: int = 0) -> list[Prediction]:
    return [Prediction(id=str(start + k), reference="a", output="a" if r else "b") for k, r in enumerate(right)]


def test_two_runs_are_compared_on_the_rows_they_share() -> None:
    first, second = answers([True] * 150), answers([False] * 30 + [True] * 100, start=10)
    found = versus(first, second[::-1], [metric("accuracy"), metric("ece")], names=("run 12", "run 9"))
    assert (found.num_rows, found.only_first, found.only_second) == (130, 20, 0)
    assert found.rows[0].delta == pytest.approx(30 / 130) and len(found.rows) == 1
    assert found.sentence.startswith("run 12 is better than run 9: 23.1 points above it in Accuracy on 130 common rows")
    same = versus(first, first, [metric("accuracy")], names=("run 12", "run 9"))
    assert same.sentence.startswith("No clear difference")
    few = versus(first[:50], second, [metric("accuracy")], names=("run 12", "run 9"))
    assert few.sentence.startswith("Not enough evidence: 40 common rows")
    with pytest.raises(DataError, match="E362"):
        versus(first[:5], second[-5:], [metric("accuracy")], names=("run 12", "run 9"))


def likelihoods(nats: float, tokens: int, num_bytes: int, n: int = 150, **more: Any) -> list[Prediction]:
    return [
        Prediction(id=str(k), reference="a reply", nll=nats + k % 3, num_tokens=tokens, num_bytes=num_bytes, **more)
        for k in range(n)
    ]


def test_perplexities_of_two_tokenizers_are_not_compared() -> None:
    metrics = [metric("bits_per_byte"), metric("perplexity")]
    coarse, fine = likelihoods(20.0, tokens=2, num_bytes=7), likelihoods(20.0, tokens=7, num_bytes=7)
    found = versus(coarse, fine, metrics, names=("run 1", "run 2"))
    assert [d.metric for d in found.rows] == ["bits_per_byte"]
    assert found.sentence.startswith("No clear difference in Bits per byte on 150 common rows")
    assert len(found.notes) == 1 and found.notes[0].startswith("Perplexity is left out: it is per token")
    alike = versus(coarse, likelihoods(30.0, tokens=2, num_bytes=7), metrics, names=("run 1", "run 2"))
    assert [d.metric for d in alike.rows] == ["bits_per_byte", "perplexity"] and alike.notes == ()


def test_rows_of_which_the_runs_measured_different_parts_are_in_no_likelihood() -> None:
    metrics = [metric("bits_per_byte"), metric("perplexity")]
    whole = likelihoods(20.0, tokens=9, num_bytes=30)
    cut = [*likelihoods(2.0, tokens=3, num_bytes=11)[:30], *whole[30:]]  # as by a smaller training.max_length
    found = versus(whole, cut, metrics, names=("run 1", "run 2"))
    assert [(d.metric, d.n, d.delta) for d in found.rows] == [("bits_per_byte", 120, 0.0), ("perplexity", 120, 0.0)]
    assert found.notes[0].startswith("30 of 150 common rows are left out of the likelihoods")
    replies = likelihoods(20.0, tokens=9, num_bytes=12)  # as against a run measured on prompt and reply
    none = versus(whole, replies, metrics, names=("run 1", "run 2"))
    assert none.rows == [] and none.sentence == "run 1 and run 2 have no figure in common."
    assert none.notes[0].startswith("150 of 150 common rows are left out of the likelihoods")
    assert versus(whole, replies, [metric("rouge")], names=("run 1", "run 2")).notes == ()


def test_the_first_token_of_a_text_may_be_missing_from_one_measurement_of_it() -> None:
    whole, rest = (likelihoods(20.0, tokens=n, num_bytes=n, prompt="a reply") for n in (7, 5))
    found = versus(whole, rest, [metric("bits_per_byte")], names=("run 1", "run 2"))
    assert [d.n for d in found.rows] == [150] and found.notes == ()


def test_a_comparison_says_which_split_each_run_was_measured_on() -> None:
    first, second = answers([True] * 150), answers([False] * 150)
    metrics, names = [metric("accuracy")], ("run 1", "run 2")
    mixed = versus(first, second, metrics, names=names, splits=("validation", "test"))
    assert "on 150 common rows (validation of run 1, test of run 2) (95 % interval" in mixed.sentence
    assert mixed.splits == ("validation", "test") and mixed.notes[0].endswith("that favours run 1.")
    both = versus(first, second, metrics, names=names, splits=("validation", "validation"))
    assert "on 150 common rows of validation (95 %" in both.sentence and both.notes[0].startswith("Both were measured")
    assert versus(first, second, metrics, names=names).notes == ()
