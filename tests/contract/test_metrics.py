"""The battery that every metric passes; a new file in metier/metrics is tested by standing there."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from metier.core.catalog import Options, catalog
from metier.metrics import ANSWERS, Metric, Prediction, applicable, metrics_for

NAMES = catalog("metrics").names()
TASKS = ["chat", "summarize", "translate", "extract", "generate", "continue"]
SITUATIONS = ["single_label", "multi_label", "regression", *TASKS]


def sample(name: str) -> tuple[Metric, list[Prediction], float]:
    module = catalog("metrics").get(name)
    options = catalog("metrics").options(name, module.SAMPLE.get("options", {}))
    return (
        Metric(name, module, options),
        [Prediction(**p) for p in module.SAMPLE["predictions"]],
        module.SAMPLE["value"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str) -> None:
    metric, _, _ = sample(name)
    assert metric.module.__doc__ and metric.module.summary.endswith(".")
    assert issubclass(metric.module.Options, Options)
    assert all(field.description for field in metric.module.Options.model_fields.values())
    assert metric.label and "{" not in metric.label
    assert isinstance(metric.higher_is_better, bool)
    assert set(metric.module.tasks) <= set(SITUATIONS)
    assert set(getattr(metric.module, "primary", ())) <= set(metric.module.tasks)


@pytest.mark.parametrize("name", NAMES)
def test_sample(name: str) -> None:
    metric, predictions, expected = sample(name)
    assert metric.value(predictions) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_order_does_not_count_and_the_range_holds(name: str) -> None:
    metric, predictions, expected = sample(name)
    low, high = metric.module.range
    for seed in range(5):
        shuffled = random.Random(seed).sample(predictions, len(predictions))
        value = metric.value(shuffled)
        assert value == pytest.approx(expected, abs=1e-9)
        assert value is not None and low <= value <= high


@pytest.mark.parametrize("name", NAMES)
def test_empty_and_odd_input(name: str) -> None:
    metric, predictions, _ = sample(name)
    assert metric.value([]) is None
    silent = [Prediction(id="x", reference=p.reference) for p in predictions]
    assert metric.value(silent) is None or metric.value(silent) == 0.0  # nothing was answered: no figure, never a crash
    for reference, output in (("a", "a"), ("", ""), ("a", "\x00\ud800"), (("a", "b"), ()), (1.0, 1.0), ("é 字", "字")):
        one = [Prediction(id="1", reference=reference, output=output, confidence=1.0, label_probs={"a": 1.0})]
        value = metric.value(one * 3)  # one class, one value
        assert value is None or math.isfinite(value)


@pytest.mark.parametrize("name", NAMES)
def test_sums_decide_the_figure(name: str) -> None:
    metric, predictions, expected = sample(name)
    statistics = metric.statistics(predictions)
    assert statistics.shape[0] == len(predictions) and np.isfinite(statistics).all()
    doubled = metric.figure(2 * statistics.sum(axis=0))  # every row twice
    assert float(doubled) == pytest.approx(expected, abs=1e-9)
    several = metric.figure(np.stack([statistics.sum(axis=0)] * 4).reshape(2, 2, -1))
    assert several.shape == (2, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_takes_no_part_adds_nothing_and_one_without_an_answer_takes_none(name: str) -> None:
    metric, predictions, _ = sample(name)
    silent = [Prediction(id="x", reference=p.reference) for p in predictions]
    applies = metric.applies([*predictions, *silent])
    assert applies.dtype == np.bool_ and applies[: len(predictions)].any() and not applies[len(predictions) :].any()
    assert not metric.statistics([*predictions, *silent])[~applies].any()


GIVEN: dict[str, list[Prediction]] = {
    "single_label": [
        Prediction(id=x, reference=x, output=x, label_probs={"a": 0.5, "b": 0.5}, confidence=0.5) for x in "ab"
    ],
    "multi_label": [
        Prediction(id=x, reference=(x,), output=(x,), label_probs={"a": 0.5, "b": 0.5}, confidence=0.5) for x in "ab"
    ],
    "regression": [Prediction(id=str(x), reference=x, output=x) for x in (1.0, 2.0)],
    "continue": [Prediction(id="1", reference="12", nll=2.0, num_tokens=1, num_bytes=2)],
    "extract": [
        Prediction(id="1", reference="12", output="12", finish="stop", nll=2.0, num_tokens=1, num_bytes=2)
    ],
}  # fmt: skip
"""What predict.py makes in each situation; the other tasks are like `extract`."""


@pytest.mark.parametrize("situation", GIVEN)
@pytest.mark.parametrize("name", NAMES)
def test_a_metric_has_a_figure_wherever_it_says_it_applies(name: str, situation: str) -> None:
    metric, _, _ = sample(name)
    applies = name in applicable([situation])
    assert not applies or metric.value(GIVEN[situation]) is not None
    assert applies or situation not in metric.module.tasks
    # Where a label or a number is the answer and no text, its wording is measured by nobody, figure or not.
    if metric.module.answers == ("text",):
        assert applies == (situation == "extract")


def test_every_situation_has_its_kinds_of_answers() -> None:
    assert set(ANSWERS) == set(SITUATIONS)
    used = {kind for name in NAMES for kind in catalog("metrics").get(name).answers}
    assert used == {kind for kinds in ANSWERS.values() for kind in kinds}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_has_one_metric_that_decides(situation: str) -> None:
    chosen = metrics_for(situation)
    assert [situation in getattr(m.module, "primary", ()) for m in chosen] == [True] + [False] * (len(chosen) - 1)
