"""Intervals: do they cover what they promise, on data whose truth is known?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metier.evaluation.compare import Resampler, difference, figure, measure, outcome, wilson
from metier.metrics import Prediction, metric

TRIALS = 300


def answers(right: np.ndarray) -> list[Prediction]:
    return [Prediction(id=str(k), reference="a", output="a" if r else "b") for k, r in enumerate(right)]


def covered(trial: Callable[[int], tuple[float, float, float]]) -> float:
    hits = 0
    for seed in range(TRIALS):
        low, high, truth = trial(seed)
        hits += low <= truth <= high
    return hits / TRIALS


def test_paired_difference_of_accuracy_covers_the_truth() -> None:
    def trial(seed: int) -> tuple[float, float, float]:
        rng = np.random.default_rng(seed)
        hard = rng.random(150)  # both systems find the same rows hard: what pairing is for
        ours, theirs = answers(rng.random(150) < 0.95 - 0.4 * hard), answers(rng.random(150) < 0.85 - 0.4 * hard)
        accuracy = metric("accuracy")
        found = difference(
            measure(accuracy, ours), measure(accuracy, theirs), "base", Resampler(150, samples=400, seed=seed)
        )
        assert found is not None
        return found.low, found.high, 0.10

    assert 0.92 <= covered(trial) <= 0.985


def test_ratio_metric_covers_the_truth() -> None:
    def trial(seed: int) -> tuple[float, float, float]:
        rng = np.random.default_rng(seed)
        size = rng.integers(20, 200, 120)
        bits = rng.gamma(4.0, 0.5, 120)  # mean 2 bits per byte, independent of the size
        rows = [
            Prediction(id=str(k), nll=float(b * n * np.log(2)), num_bytes=int(n))
            for k, (b, n) in enumerate(zip(bits, size, strict=True))
        ]
        found = figure(measure(metric("bits_per_byte"), rows), Resampler(120, samples=400, seed=seed))
        assert found.low is not None and found.high is not None
        return found.low, found.high, 2.0

    assert 0.91 <= covered(trial) <= 0.985


def test_macro_f1_covers_the_truth() -> None:
    def draw(seed: int, n: int) -> list[Prediction]:
        rng = np.random.default_rng(seed)
        truth = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
        said = np.where(rng.random(n) < 0.7, truth, rng.choice(4, n))
        return [Prediction(id="", reference=f"c{t}", output=f"c{s}") for t, s in zip(truth, said, strict=True)]

    f1 = metric("f1")
    truth = f1.value(draw(10_000, 100_000))
    assert truth is not None

    def trial(seed: int) -> tuple[float, float, float]:
        found = figure(measure(f1, draw(seed, 150)), Resampler(150, samples=300, seed=seed))
        assert found.low is not None and found.high is not None
        return found.low, found.high, truth

    assert 0.91 <= covered(trial) <= 0.985


def confident(seed: int, n: int, gap: float, spread: float = 0.5) -> list[Prediction]:
    """Answers whose confidence is too high by `gap` everywhere: the calibration error is `gap`."""
    rng = np.random.default_rng(seed)
    sure = 1 - spread * rng.random(n)
    right = rng.random(n) < np.clip(sure - gap, 0, 1)
    return [
        Prediction(id=str(k), reference="a", output="a" if r else "b", confidence=float(c))
        for k, (c, r) in enumerate(zip(sure, right, strict=True))
    ]


@pytest.mark.parametrize(("n", "gap"), [(100, 0.0), (300, 0.0), (300, 0.03), (300, 0.1), (1000, 0.03)])
def test_calibration_error_covers_the_truth_and_its_own_value(n: int, gap: float) -> None:
    """Chance opens a gap in every bin: 300 answers that are calibrated perfectly have an error of 0.05."""
    ece = metric("ece")

    def trial(seed: int) -> tuple[float, float, float]:
        found = figure(measure(ece, confident(seed, n, gap)), Resampler(n, samples=200, seed=seed))
        assert found.low is not None and found.high is not None and found.value is not None
        assert 0.0 <= found.low <= found.value <= found.high and found.high - found.low > 0.02
        return found.low, found.high, gap

    assert covered(trial) >= 0.92


def test_a_single_bin_that_happens_to_fit_still_has_a_width() -> None:
    rows = [Prediction(id=str(k), reference="ab"[k % 2], output="a", confidence=0.5) for k in range(200)]
    found = figure(measure(metric("ece"), rows), Resampler(200))
    assert (found.value, found.low) == (0.0, 0.0) and found.high is not None
    assert found.high == pytest.approx(1.96 * np.sqrt(0.25 / 200), rel=0.25)


@pytest.mark.parametrize(
    ("ours", "theirs", "called"), [(0.0, 0.0, (0.0, 0.03)), (0.03, 0.03, (0.0, 0.03)), (0.0, 0.15, (0.8, 1.0))]
)
def test_a_difference_of_calibration_errors_covers_the_truth(
    ours: float, theirs: float, called: tuple[float, float]
) -> None:
    """The confidences of one lie in 8 bins, of the other in 2: chance raises one error more than the other."""
    ece = metric("ece")
    hits = not_same = 0
    for seed in range(TRIALS):
        run, base = confident(seed, 400, ours), confident(seed + TRIALS, 400, theirs, 0.12)
        found = difference(measure(ece, run), measure(ece, base), "base", Resampler(400, samples=200, seed=seed))
        assert found is not None and found.low <= found.delta <= found.high
        hits += found.low <= ours - theirs <= found.high
        not_same += found.outcome != "same"
    assert hits / TRIALS >= 0.92
    assert called[0] <= not_same / TRIALS <= called[1]


def test_a_system_that_is_no_better_is_rarely_called_better() -> None:
    called = 0
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        same = rng.random(200) < 0.9
        flips = rng.random((2, 200)) < 0.03  # few discordant rows: where a plain bootstrap is too sure
        ours, theirs = (answers(same ^ flip) for flip in flips)
        accuracy = metric("accuracy")
        found = difference(
            measure(accuracy, ours), measure(accuracy, theirs), "base", Resampler(200, samples=400, seed=seed)
        )
        assert found is not None
        called += found.outcome != "same"
    assert called / TRIALS <= 0.06


@pytest.mark.parametrize(("won", "expected"), [(4, "same"), (5, "same"), (7, "better"), (12, "better")])
def test_few_discordant_rows_agree_with_mcnemar(won: int, expected: str) -> None:
    """Exact two-sided McNemar: 4-0 p = 0.125, 5-0 p = 0.063, 7-0 p = 0.016."""
    ours, theirs = np.ones(100, bool), np.ones(100, bool)
    theirs[:won] = False
    accuracy = metric("accuracy")
    found = difference(measure(accuracy, answers(ours)), measure(accuracy, answers(theirs)), "base", Resampler(100))
    assert found is not None and found.outcome == expected
    assert found.delta == pytest.approx(won / 100)


def test_wilson_by_hand() -> None:
    low, high = wilson(0.9, 100, 0.95)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(1.0, 120, 0.95) == pytest.approx((0.9690, 1.0), abs=1e-4)  # all right is not proof of always right


def test_intervals_are_the_same_each_time_and_depend_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    rows = [
        Prediction(id=str(k), reference=float(a), output=float(b)) for k, (a, b) in enumerate(rng.normal(size=(80, 2)))
    ]
    measured = measure(metric("mae"), rows)
    first, again, other = (figure(measured, Resampler(80, seed=s)) for s in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low is not None and first.high is not None and first.value is not None
    assert first.low < first.value < first.high


def test_resamples_are_drawn_alike_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from metier.evaluation import compare

    statistics = np.random.default_rng(0).normal(size=(50, 3))
    whole = Resampler(50, samples=100).sums(statistics)
    monkeypatch.setattr(compare, "KEPT_VALUES", 0)
    assert np.allclose(Resampler(50, samples=100).sums(statistics), whole)
    assert whole.shape == (100, 3)


def test_only_rows_that_both_answered_are_compared() -> None:
    ours = answers(np.ones(150, bool))
    theirs = [*answers(np.ones(100, bool)), *(Prediction(id=str(k), reference="a") for k in range(50))]
    accuracy = metric("accuracy")
    found = difference(measure(accuracy, ours), measure(accuracy, theirs), "sampled", Resampler(150))
    assert found is not None and (found.n, found.delta, found.outcome) == (100, 0.0, "same")
    nothing = [Prediction(id=str(k), reference="a") for k in range(150)]
    assert difference(measure(accuracy, ours), measure(accuracy, nothing), "mute", Resampler(150)) is None


@pytest.mark.parametrize(
    ("spec", "expected"), [("f1", -0.477), ("f1:average=micro", -0.477), ("precision", -0.8), ("recall", 1 / 6)]
)
def test_false_alarms_count_where_the_other_system_is_rightly_silent(spec: str, expected: float) -> None:
    """1,000 comments, 120 toxic: 100 hits and 400 false alarms against 80 hits and none."""

    def system(alarms: Callable[[int], bool]) -> list[Prediction]:
        said = (("toxic",) if alarms(k) else () for k in range(1000))
        return [
            Prediction(id=str(k), reference=("toxic",) if k < 120 else (), output=output)
            for k, output in enumerate(said)
        ]

    wanted = metric(spec)
    run = measure(wanted, system(lambda k: k < 100 or k >= 600))
    floor = measure(wanted, system(lambda k: k < 80))
    found = difference(run, floor, "tfidf_svm", Resampler(1000, samples=200))
    assert found is not None
    assert found.delta == pytest.approx(run.value - floor.value, abs=1e-9) == pytest.approx(expected, abs=1e-3)
    assert found.outcome == ("better" if expected > 0 else "worse")
    assert found.n == run.n == floor.n == 1000
    assert found.low < found.delta < found.high


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, True, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.1, True, "same"),
        (0.0, 0.1, True, "same"),
    ],
)
def test_outcome(low: float, high: float, higher: bool, expected: str) -> None:
    assert outcome(low, high, higher) == expected
