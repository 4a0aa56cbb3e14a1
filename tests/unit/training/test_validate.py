"""Early stopping, and the verdict on overfitting in words."""

from __future__ import annotations

import pytest
import torch

from contract.test_methods import parts
from metier.core.errors import DataError
from metier.training.feed import Feed
from metier.training.validate import Watch, overfitting, validate


def test_a_figure_that_is_not_finite_is_an_error_that_names_rows_and_never_the_best() -> None:
    method, feed, policy = parts("sft", "lora", {"r": 2})
    with torch.no_grad():
        next(iter(policy.trained().values())).fill_(float("nan"))
    with pytest.raises(DataError, match="E371") as error:
        validate(policy, method, feed, budget_tokens=512, packing=False)
    assert any(item.example_id in error.value.received for item in feed.items)


def test_a_validation_holds_one_micro_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the frozen trunk is kept, each carries its states: all of them at once would be the whole split's."""
    method, feed, policy = parts("sft", "lora", {"r": 2})
    order: list[str] = []
    collate, measure = Feed.collate, type(method).measure
    monkeypatch.setattr(Feed, "collate", lambda *given: (order.append("made"), collate(*given))[1])
    monkeypatch.setattr(type(method), "measure", lambda *given: (order.append("measured"), measure(*given))[1])
    validate(policy, method, feed, budget_tokens=64, packing=False)
    assert len(order) > 8 and order == ["made", "measured"] * (len(order) // 2)


def test_loss_falls_and_accuracy_rises() -> None:
    loss, accuracy = Watch("loss", 0), Watch("accuracy", 0)
    assert [loss.see(i, {"loss": v}) for i, v in enumerate([3.0, 2.0, 2.5, 1.9])] == [True, True, False, True]
    seen = [accuracy.see(i, {"accuracy": v}) for i, v in enumerate([0.5, 0.6, 0.6, 0.7])]
    assert seen == [True, True, False, True]
    assert (loss.best_step, accuracy.best_value) == (3, 0.7)


def test_patience_counts_evaluations_without_improvement_and_zero_means_never() -> None:
    watch, never = Watch("loss", 2), Watch("loss", 0)
    for step, value in enumerate([1.0, 1.1, 1.2]):
        assert not watch.done
        watch.see(step, {"loss": value})
        never.see(step, {"loss": value})
    assert watch.done and not never.done


def test_nothing_stops_before_the_first_pass_over_the_rows_is_done() -> None:
    watch = Watch("loss", 1, first_step=30)
    seen = []
    for step in (10, 20, 30):
        watch.see(step, {"loss": float(step)})
        seen.append(watch.done)
    assert seen == [False, False, True]


TRAIN = [(10, 2.0), (20, 1.5), (30, 1.0), (40, 0.6)]


def test_overfitting_is_named_with_its_step_and_size() -> None:
    text = overfitting(TRAIN, [(10, 2.1), (20, 1.8), (30, 1.9), (40, 2.16)])
    assert "after step 20" in text and "20.0%" in text and "training loss went on falling" in text


@pytest.mark.parametrize(
    "validation,words",
    [
        ([(10, 2.1), (20, 1.8), (30, 1.7), (40, 1.6)], "none"),
        ([(10, 2.1), (20, 1.8), (30, 1.805), (40, 1.81)], "none"),
        ([(10, 2.1), (20, 1.8)], "too few"),
    ],
)
def test_what_is_no_overfitting(validation: list[tuple[int, float]], words: str) -> None:
    assert overfitting(TRAIN, validation).startswith(words)


def test_a_rise_of_both_is_not_called_overfitting() -> None:
    rising = [(10, 1.0), (20, 1.2), (30, 1.4), (40, 1.6)]
    assert "rose with it" in overfitting(rising, [(10, 1.0), (20, 1.1), (30, 1.2), (40, 1.3)])
