"""The rules of the verdict, one by one, and the sentence word for word."""

from __future__ import annotations

from typing import Any

import pytest

from metier.evaluation.result import Difference, Figure, TargetResult
from metier.evaluation.systems import Asked
from metier.evaluation.verdict import Compared, Evidence, judge, judge_targets


def compared(
    delta: float,
    low: float,
    high: float,
    *,
    phrase: str = "",
    metric: str = "accuracy",
    unit: str = "share",
    higher: bool = True,
) -> Compared:
    sign = 1 if higher else -1
    outcome: Any = (
        "better" if min(sign * low, sign * high) > 0 else "worse" if max(sign * low, sign * high) < 0 else "same"
    )
    found = Difference(
        metric=metric, label=metric.capitalize(), other="x", delta=delta, low=low, high=high, n=3080, outcome=outcome
    )
    return Compared(Asked("x", "X", "base", [], phrase=phrase), found, unit, higher)


BASE = compared(0.124, 0.11, 0.138)
FLOOR = compared(0.017, 0.009, 0.025, phrase="a keyword baseline")


def evidence(**changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "primary": Figure(metric="accuracy", label="Accuracy", value=0.931, n=3080, unit="share"),
        "base_measured": True,
        "over_base": BASE,
        "floors": [FLOOR],
        "targets": [],
        "confidence": 0.95,
        "situation": "single_label",
    }
    return Evidence(**{**values, **changes})


def test_worth_it() -> None:
    assert judge(evidence()) == (
        "worth_it",
        "Worth it: accuracy 0.931 on 3,080 held-out texts, 12.4 points above the untouched base "
        "(95 % interval 11.0–13.8) and 1.7 above a keyword baseline.",
    )


def test_never_worth_it_below_the_floor_however_small_the_gap() -> None:
    verdict, sentence = judge(evidence(floors=[compared(-0.0003, -0.009, 0.008, phrase="a keyword baseline")]))
    assert verdict == "below_floor"
    assert sentence.endswith("but less than 0.1 points below a keyword baseline, which needs no language model.")


def test_the_weakest_of_two_floors_does_not_save_it() -> None:
    better_floor = compared(-0.02, -0.03, -0.01, phrase="another")
    assert judge(evidence(floors=[FLOOR, better_floor]))[0] == "below_floor"


def test_a_floor_that_could_not_be_compared_leaves_it_open_and_a_missed_target_stands() -> None:
    verdict, sentence = judge(evidence(floors=[], unseen_floors=["a keyword baseline"]))
    assert (verdict, sentence) == (
        "insufficient",
        "Not enough evidence: accuracy 0.931 on 3,080 held-out texts, 12.4 points above the untouched base "
        "(95 % interval 11.0–13.8), but no figure could be had of it and of a keyword baseline.",
    )
    missed = [TargetResult(name="accuracy", condition=">= 0.95", value=0.931, met=False)]
    assert judge(evidence(floors=[], unseen_floors=["x"], targets=missed))[0] == "target_missed"


def test_no_gain_when_the_interval_holds_zero() -> None:
    verdict, sentence = judge(evidence(over_base=compared(0.003, -0.005, 0.011, phrase="frozen base + linear probe")))
    assert verdict == "no_gain"
    assert (
        "a difference of +0.3 points from the untouched base that may be chance "
        "(frozen base + linear probe; 95 % interval −0.5 to +1.1)" in sentence
    )


def test_worse() -> None:
    verdict, sentence = judge(evidence(over_base=compared(-0.032, -0.05, -0.011)))
    assert verdict == "worse"
    assert sentence == (
        "Not worth it: accuracy 0.931 on 3,080 held-out texts, 3.2 points below the untouched base "
        "(95 % interval 1.1–5.0)."
    )


def test_a_missed_target_is_named() -> None:
    missed = TargetResult(name="gain_over_base.accuracy", condition=">= 0.2", value=0.124, met=False)
    verdict, sentence = judge(evidence(targets=[missed]))
    assert verdict == "target_missed"
    assert sentence.endswith("; the gain in accuracy is 0.124, asked for was >= 0.2.")


@pytest.mark.parametrize(
    ("condition", "value", "said"),
    [
        (">= 0.92", 0.9196, "accuracy is 0.9196, asked for was >= 0.92"),
        (">= 0.92", 0.91999996, "accuracy is 0.91999996, asked for was >= 0.92"),
        ("> 0.92", 0.92, "accuracy is 0.92, asked for was > 0.92"),
        ("<= 0.1234", 0.12341, "accuracy is 0.12341, asked for was <= 0.1234"),
        (">= 0.92", 0.87654, "accuracy is 0.877, asked for was >= 0.92"),
    ],
)
def test_a_missed_target_is_seen_to_be_missed(condition: str, value: float, said: str) -> None:
    missed = judge_targets({"accuracy": condition}, {"accuracy": value}, {})
    assert missed[0].met is False
    assert judge(evidence(targets=missed))[1].endswith(f"; {said}.")


def test_a_target_that_could_not_be_measured_is_missed() -> None:
    unknown = TargetResult(name="ece", condition="<= 0.05", value=None, met=None)
    assert judge(evidence(targets=[unknown]))[0] == "target_missed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"primary": Figure(metric="accuracy", label="Accuracy", value=1.0, n=99, unit="share")},
            "99 held-out texts are fewer than the 100",
        ),
        ({"base_measured": False, "over_base": None}, "the untouched base was not measured"),
        ({"over_base": None}, "the untouched base has no such figure"),
        (
            {"primary": Figure(metric="accuracy", label="Accuracy", value=None, n=0, unit="share")},
            "accuracy could not be computed",
        ),
    ],
)
def test_insufficient(changes: dict[str, Any], words: str) -> None:
    verdict, sentence = judge(evidence(**changes))
    assert verdict == "insufficient" and words in sentence


def test_lower_is_better() -> None:
    bits = Figure(
        metric="bits_per_byte", label="Bits per byte", value=1.934, n=200, higher_is_better=False, unit="bits/byte"
    )
    gain = compared(-0.31, -0.34, -0.28, metric="bits_per_byte", unit="bits/byte", higher=False)
    verdict, sentence = judge(evidence(primary=bits, over_base=gain, floors=[], situation="continue"))
    assert verdict == "worth_it"
    assert sentence == (
        "Worth it: bits per byte 1.93 on 200 held-out texts, 0.31 less than the untouched base "
        "(95 % interval 0.28–0.34)."
    )
    loss = compared(0.31, 0.28, 0.34, metric="bits_per_byte", unit="bits/byte", higher=False)
    assert judge(evidence(primary=bits, over_base=loss, floors=[], situation="continue"))[0] == "worse"


def test_a_floor_without_the_deciding_metric_is_compared_on_another() -> None:
    bits = Figure(
        metric="bits_per_byte", label="Bits per byte", value=1.9, n=200, higher_is_better=False, unit="bits/byte"
    )
    gain = compared(-0.31, -0.34, -0.28, metric="bits_per_byte", unit="bits/byte", higher=False)
    floor = compared(-0.04, -0.06, -0.02, metric="ROUGE-L", phrase="the reply of the nearest training row")
    verdict, sentence = judge(evidence(primary=bits, over_base=gain, floors=[floor], situation="chat"))
    assert verdict == "below_floor"
    assert "4.0 points below the reply of the nearest training row" in sentence


def test_targets() -> None:
    targets = {
        "accuracy": ">= 0.92",
        "ece": "<=0.05",
        "f1": "> 0.5",
        "gain_over_base.accuracy": " < 0.1",
        "rouge": ">= 0.3",
        "gain_over_floor.accuracy": ">= 0",
    }
    values = {"accuracy": 0.92, "ece": 0.06, "f1": 0.5, "rouge": None}
    found = judge_targets(targets, values, {"gain_over_base.accuracy": 0.05, "gain_over_floor.accuracy": 0.0})
    assert [t.met for t in found] == [True, False, False, True, None, True]
    assert "counts as missed" in found[4].note
