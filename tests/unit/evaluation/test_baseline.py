"""The systems that a run must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from metier.core.types import Conversation, Labelled, Message
from metier.evaluation import baseline
from metier.evaluation.baseline import Rows
from metier.metrics import metric

WORDS = {"card": "my card was lost", "rate": "exchange rate of the euro", "fee": "why this fee"}


def rows(n: int, seed: int, *, noise: float = 0.0) -> list[Labelled]:
    rng = np.random.default_rng(seed)
    filler = ["please", "hello", "could", "you", "tell", "me", "today", "about", "again", "thanks"]
    found = []
    for _ in range(n):
        label = str(rng.choice(list(WORDS), p=[0.5, 0.3, 0.2]))
        text = " ".join([*rng.choice(filler, 3), WORDS[label], *rng.choice(filler, 2)])
        target = str(rng.choice(list(WORDS))) if rng.random() < noise else label
        found.append(Labelled(text=text, target=target))
    return found


SINGLE = Rows(rows(150, 0), rows(60, 1), rows(100, 2), tuple(WORDS), "single_label")


def test_majority_gives_the_shares_of_train() -> None:
    found = baseline.majority(SINGLE, SINGLE.asked)
    share = sum(e.target == "card" for e in SINGLE.train) / 150
    assert {p.output for p in found} == {"card"}
    assert found[0].confidence == pytest.approx(share)
    assert (found[0].label_probs or {})["card"] == pytest.approx(share)
    assert metric("accuracy").value(found) == pytest.approx(sum(e.target == "card" for e in SINGLE.asked) / 100)


def test_majority_breaks_ties_by_name_and_takes_the_mean_of_numbers() -> None:
    tied = Rows(
        [Labelled(text="x", target="b"), Labelled(text="y", target="a")], [], SINGLE.asked, ("a", "b"), "single_label"
    )
    assert baseline.majority(tied, SINGLE.asked)[0].output == "a"
    numbers = Rows([Labelled(text="x", target=1.0), Labelled(text="y", target=4.0)], [], SINGLE.asked, (), "regression")
    assert baseline.majority(numbers, [Labelled(text="z", target=0.0)])[0].output == 2.5


def test_keywords_are_learned_and_give_the_same_answers_each_time() -> None:
    found = baseline.tfidf_linear(SINGLE)
    assert metric("accuracy").value(found) == 1.0
    assert found[0].label_probs is None  # an SVM has no probabilities: no calibration is claimed
    assert baseline.tfidf_linear(SINGLE) == found


def test_strength_is_chosen_on_validation() -> None:
    """A validation split whose labels contradict train prefers the weakest fit; the test rows have no say."""
    from sklearn.dummy import DummyClassifier

    train = SINGLE.train
    models = [DummyClassifier(strategy="constant", constant=label) for label in WORDS]
    for wanted in WORDS:
        held_out = [Labelled(text="x", target=wanted)] * 5
        chosen = baseline.fit_best(
            models,
            train,
            np.zeros((150, 1)),
            Rows(train, held_out, SINGLE.asked, tuple(WORDS), "single_label"),
            np.zeros((5, 1)),
        )
        assert chosen.model.constant == wanted
    unchosen = baseline.fit_best(
        models, train, np.zeros((150, 1)), Rows(train, [], [], tuple(WORDS), "single_label"), None
    )
    assert unchosen.model.constant == "rate"  # the middle one


def rare(n_rare: int, false_alarms: int) -> list[Labelled]:
    """Return 90 usual rows, of which some look rare, and some rare rows that do."""
    usual = [Labelled(text="alarm" if k < false_alarms else "calm", target="usual") for k in range(90)]
    return [*usual, *(Labelled(text="alarm", target="rare") for _ in range(n_rare))]


def alarm(examples: Sequence[Labelled]) -> np.ndarray:
    return np.array([[e.text == "alarm"] for e in examples], np.float32)


@pytest.mark.parametrize(("decides", "wanted"), [("accuracy", "Dummy"), ("f1", "Tree"), ("f1:average=micro", "Dummy")])
def test_strength_is_chosen_by_the_figure_that_decides(decides: str, wanted: str) -> None:
    """Always `usual` is right in 90 of 100 rows with an F1 of 0.47; the other fit in 85 with an F1 of 0.74."""
    from sklearn.dummy import DummyClassifier
    from sklearn.tree import DecisionTreeClassifier

    train, held_out = rare(60, 10), rare(10, 15)
    given = Rows(train, held_out, [], ("usual", "rare"), "single_label", metric(decides))
    models = [DummyClassifier(strategy="constant", constant="usual"), DecisionTreeClassifier()]
    for order in (models, models[::-1]):
        assert wanted in type(baseline.fit_best(order, train, alarm(train), given, alarm(held_out)).model).__name__


def test_where_less_is_better_the_least_is_chosen_and_without_the_figure_the_problem_types_own() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    train = held_out = rare(10, 0)
    several = Rows(train, held_out, [], ("usual", "rare"), "single_label", metric("brier"))
    likely = [LogisticRegression(C=c) for c in (1.0, 0.01, 100.0)]  # all are right everywhere, the last the surest
    assert baseline.fit_best(likely, train, alarm(train), several, alarm(held_out)).model.C == 100.0
    sure = [LinearSVC(C=c) for c in (1e-6, 1.0)]  # no probabilities, so no Brier score
    assert baseline.fit_best(sure, train, alarm(train), several, alarm(held_out)).model.C == 1.0


def length_features(examples: Sequence[Labelled]) -> np.ndarray:
    return np.array([[w in e.text for w in ("card", "rate", "fee")] for e in examples], np.float32)


def test_probe_reads_features_and_orders_its_probabilities_by_the_frozen_labels() -> None:
    backwards = Rows(SINGLE.train, SINGLE.validation, SINGLE.asked, ("never_seen", *reversed(WORDS)), "single_label")
    on_validation, found = baseline.linear_probe(backwards, length_features)
    assert metric("accuracy").value(found) == 1.0 == metric("accuracy").value(on_validation)
    assert list(found[0].label_probs or {}) == ["never_seen", "fee", "rate", "card"]
    assert (found[0].label_probs or {})["never_seen"] == 0.0


def test_several_labels_and_numbers() -> None:
    several = [Labelled(text=e.text, target=(str(e.target), "any")) for e in SINGLE.train]
    asked = [Labelled(text=e.text, target=(str(e.target), "any")) for e in SINGLE.asked]
    multi = Rows(several, several[:40], asked, (*WORDS, "any"), "multi_label")
    assert metric("f1:average=micro").value(baseline.tfidf_linear(multi)) == 1.0
    assert metric("accuracy").value(baseline.linear_probe(multi, length_features)[1]) == 1.0
    assert baseline.majority(multi, asked)[0].output == ("card", "any")
    value = {"card": 1.0, "rate": 5.0, "fee": 9.0}
    numbers = [
        [Labelled(text=e.text, target=value[str(e.target)]) for e in part]
        for part in (SINGLE.train, SINGLE.validation, SINGLE.asked)
    ]
    regression = Rows(*numbers, (), "regression")
    error = metric("mae").value(baseline.tfidf_linear(regression))
    assert error is not None and error < 0.8
    probe_error = metric("mae").value(baseline.linear_probe(regression, length_features)[1])
    assert probe_error is not None and probe_error < 0.2


def test_calibrated_zero_shot_undoes_a_label_that_is_always_likely() -> None:
    asked = [Labelled(text="x", target="a"), Labelled(text="y", target="b")]
    scores, prior = np.array([[-9.0, -4.0], [-10.0, -3.0]]), np.array([-10.0, -4.0])
    plain = baseline.zero_shot(scores, prior, asked, ("a", "b"), calibrated=False)
    calibrated = baseline.zero_shot(scores, prior, asked, ("a", "b"), calibrated=True)
    assert [p.output for p in plain] == ["b", "b"]
    assert [p.output for p in calibrated] == ["a", "b"]


def turn(prompt: str, reply: str) -> Conversation:
    return Conversation(messages=(Message("user", prompt), Message("assistant", reply)))


def test_nearest_reply_copies_the_reply_of_the_most_similar_prompt() -> None:
    train = [turn("I lost my card", "Freeze it."), turn("What is the rate?", "1.1"), turn("I lost my card", "second")]
    found = baseline.nearest_reply(train, [turn("my card is lost!", "Freeze it."), turn("exchange rate", "?")])
    assert [p.output for p in found] == ["Freeze it.", "1.1"]
    assert found[0].reference == "Freeze it." and found[0].nll is None


def test_a_floor_is_fitted_on_what_time_and_memory_allow() -> None:
    short, long = ["x" * 100] * 150_000, ["x" * 1000] * 150_000
    assert baseline.affordable(short, 1, baseline.FIT_WORK) == 150_000
    assert baseline.affordable(long, 1, baseline.FIT_WORK) == 20_000  # 20 MB of text, and never fewer rows than this
    assert baseline.affordable(short, 60, baseline.FIT_WORK) == 100_000  # 6e8 characters × labels
    assert baseline.affordable(short[:10], 10**9, baseline.FIT_WORK) == 10
    assert baseline.affordable([""] * 5, 0, baseline.NEAREST_WORK) == 5


def test_the_strength_is_tried_on_a_sample_and_the_fit_is_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that only rows beyond the sample have still decides."""
    train = rows(200, 3)
    drawn = {id(e) for e in baseline.sample(train, 40, 0)}
    train = [e if id(e) in drawn else Labelled(text=f"{e.text} zq{e.target}", target=e.target) for e in train]
    asked = [Labelled(text=f"hello zq{label}", target=label) for label in WORDS]
    given = Rows(train, SINGLE.validation, asked, tuple(WORDS), "single_label")
    monkeypatch.setattr(baseline, "FIT_ROWS", 40)
    assert metric("accuracy").value(baseline.tfidf_linear(given)) == 1.0
    only = Rows([e for e in train if "zq" not in e.text], SINGLE.validation, asked, tuple(WORDS), "single_label")
    assert (metric("accuracy").value(baseline.tfidf_linear(only)) or 0) < 1.0
    alone = [*[Labelled(text="x", target="a")] * 199, Labelled(text="y", target="b")]
    rare_label = Rows(alone, [], [Labelled(text="y", target="b")], ("a", "b"), "single_label")
    assert baseline.tfidf_linear(rare_label)[0].output in ("a", "b")  # the sample holds one label alone


def test_a_sample_is_seeded_and_keeps_the_order() -> None:
    assert (
        baseline.sample(range(100), 5, 1)
        == baseline.sample(range(100), 5, 1)
        == sorted(baseline.sample(range(100), 5, 1))
    )
    assert baseline.sample(range(100), 5, 1) != baseline.sample(range(100), 5, 2)
    assert baseline.sample(range(3), 5, 0) == [0, 1, 2]


def test_train_with_one_label_is_answered_by_it() -> None:
    one = Rows([Labelled(text="x", target="a")] * 3, [], [Labelled(text="y", target="b")], ("a", "b"), "single_label")
    assert baseline.tfidf_linear(one)[0].output == "a"
    assert baseline.linear_probe(one, length_features)[1][0].output == "a"
