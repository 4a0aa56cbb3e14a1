"""The temperature of a task head: the right one is found, and no answer changes."""

from __future__ import annotations

import pytest
import torch

from contract.test_methods import LABELS, parts, run
from metier.core.types import Labelled, identify
from metier.evaluation.predict import predict_head
from metier.training import calibration
from metier.training.calibration import LARGEST, calibrate, fit_temperature
from metier.training.feed import Feed
from metier.training.method import Facts
from tiny import labelled_rows

TRUE = 2.5


def drawn(several: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs that are TRUE times as sure as they should be, and targets drawn from what they should say."""
    generator = torch.Generator().manual_seed(0)
    honest_NK = 2 * torch.randn(20_000, 5, generator=generator)
    if several:
        return honest_NK * TRUE, torch.bernoulli(honest_NK.sigmoid(), generator=generator)
    return honest_NK * TRUE, torch.multinomial(honest_NK.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("several", [False, True])
def test_the_temperature_that_made_the_outputs_too_sure_is_found(several: bool) -> None:
    outputs, targets = drawn(several)
    assert fit_temperature(outputs, targets, several=several) == pytest.approx(TRUE, rel=0.05)
    assert fit_temperature(outputs / 10, targets, several=several) == pytest.approx(TRUE / 10, rel=0.05)


def test_rows_that_are_all_right_do_not_ask_for_endless_confidence() -> None:
    targets = torch.arange(100) % 3
    outputs = torch.nn.functional.one_hot(targets).double()
    found = fit_temperature(outputs, targets, several=False)
    assert 1 / LARGEST < 0.1 < found < 1
    wrong = fit_temperature(outputs, (targets + 1) % 3, several=False)
    assert wrong == pytest.approx(LARGEST), "outputs that are always wrong are not turned round"


def feed_of(n: int, method, policy) -> Feed:  # type: ignore[no-untyped-def]
    rows = [identify(Labelled(text=r["text"], target=r["label"])) for r in labelled_rows(n)]
    return Feed.of(list(method.encode(rows, policy.encoder)), pad_id=1, facts=Facts(LABELS, "single_label"))


def test_answers_stay_and_confidences_move() -> None:
    method, train, policy = parts("classify")
    run(method, train, policy, steps=8)
    with torch.no_grad():
        policy.head.output.weight *= 3  # surer than it has any right to be
    rows = [identify(Labelled(text=r["text"], target=r["label"])) for r in labelled_rows(60)]
    before = predict_head(policy, rows, labels=LABELS, problem_type="single_label")
    found = calibrate(policy, feed_of(60, method, policy), budget_tokens=512, packing=False)
    after = predict_head(policy, rows, labels=LABELS, problem_type="single_label")
    assert found is not None and found.rows == 60
    assert policy.head.temperature == found.temperature != 1
    assert found.loss_after < found.loss_before
    assert [p.output for p in after] == [p.output for p in before]
    assert [p.label_probs for p in after] != [p.label_probs for p in before]
    again = calibrate(policy, feed_of(60, method, policy), budget_tokens=512, packing=False)
    assert again == found, "the temperature that is set does not count when it is fitted again"


def test_too_few_rows_and_models_without_a_head_keep_their_confidences() -> None:
    method, _, policy = parts("classify")
    few = feed_of(calibration.MIN_ROWS - 1, method, policy)
    assert calibrate(policy, few, budget_tokens=512, packing=False) is None and policy.head.temperature == 1
    _, feed, writer = parts("sft", "lora", {"r": 2})
    assert calibrate(writer, feed, budget_tokens=512, packing=False) is None
