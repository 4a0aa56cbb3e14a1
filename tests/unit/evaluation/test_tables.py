"""Per-class tables, confusions, calibration, slices and the rows worth reading."""

from __future__ import annotations

import math

import pytest

from metier.evaluation import chart
from metier.evaluation.detail import calibration, class_rows, confusion
from metier.evaluation.examples import pick
from metier.evaluation.slices import slice_rows
from metier.metrics import Prediction, metric


def row(truth: str, said: str, confidence: float = 0.9, k: int = 0, **more: object) -> Prediction:
    probs = {name: confidence if name == said else (1 - confidence) / 2 for name in ("a", "b", "c")}
    return Prediction(
        id=str(k),
        reference=truth,
        output=said,
        confidence=confidence,
        label_probs=probs,
        **more,  # type: ignore[arg-type]
    )


RUN = [row("a", "a"), row("a", "b"), row("b", "b"), row("b", "b"), row("a", "b")]
BASE = [row("a", "b")] * 5


def test_class_rows() -> None:
    found = {r.label: r for r in class_rows(RUN, BASE)}
    assert set(found) == {"a", "b"}  # c is offered and never occurs
    assert (found["a"].n, found["a"].precision, found["a"].recall) == (3, 1.0, pytest.approx(1 / 3))
    assert (found["b"].n, found["b"].precision, found["b"].recall) == (2, 0.5, 1.0)
    assert found["a"].f1 == pytest.approx(0.5) and found["a"].base_f1 == 0.0
    assert class_rows(RUN, None)[0].base_f1 is None


def test_confusion() -> None:
    found = confusion([*RUN, row("a", "")])
    assert found is not None
    assert found.labels == ["a", "b", "(no label)"]
    assert found.counts == [[1, 2, 1], [0, 2, 0], [0, 0, 0]]
    assert found.top_pairs == [("a", "b", 2), ("a", "(no label)", 1)]
    assert confusion([Prediction(id="1", reference=("a",), output=("a",))]) is None


def test_a_large_confusion_matrix_shows_the_classes_that_are_confused() -> None:
    many = [Prediction(id="", reference=f"c{k:02}", output=f"c{k:02}") for k in range(60)]
    many += [Prediction(id="", reference="c41", output="c42")] * 3
    found = confusion(many)
    assert found is not None and len(found.labels) == 20 and found.num_labels == 60
    drawn = chart.confusion(found)
    assert drawn is not None and drawn.note.startswith("The 20 classes with the most errors, of 60.")
    assert {"c41", "c42"} <= set(found.labels)


def test_calibration_bins() -> None:
    rows = [row("a", "a", 0.95), row("a", "a", 1.0), row("b", "a", 0.95), row("a", "a", 0.52)]
    found = calibration(rows, None)
    assert found is not None
    assert [b["n"] for b in found.bins] == [1.0, 3.0]
    assert found.bins[1]["accuracy"] == pytest.approx(2 / 3)
    assert found.bins[1]["confidence"] == pytest.approx((0.95 + 1.0 + 0.95) / 3)
    assert found.bins[1]["high"] == 1.0
    assert found.ece == pytest.approx((abs(2.9 - 2) + abs(0.52 - 1)) / 4)
    assert calibration([Prediction(id="1", reference="a", output="a")], None) is None


def test_small_slices_are_insufficient_not_a_number() -> None:
    rows = [
        row("a", "a" if k % 10 else "b", k=k, prompt="x" * (k % 7), meta={"lang": "en" if k < 100 else "de"})
        for k in range(199)
    ]
    found, limits = slice_rows(metric("accuracy"), rows, rows, ("lang", "colour"), samples=200, seed=0, confidence=0.95)
    by_value = {r.value: r for r in found if r.column == "lang"}
    assert (by_value["en"].figure, by_value["en"].base, by_value["en"].n) == (
        pytest.approx(0.9),
        pytest.approx(0.9),
        100,
    )
    assert by_value["en"].low is not None and by_value["en"].low < 0.9
    assert (by_value["de"].figure, by_value["de"].low, by_value["de"].note, by_value["de"].n) == (
        None,
        None,
        "insufficient",
        99,
    )
    assert limits == ["No measured row has the slice column `colour`."]
    lengths = [r for r in found if r.column == "text length"]
    assert sum(r.n for r in lengths) == 199 and len(lengths) == 3


def test_worst_are_the_confident_mistakes_and_changed_go_both_ways() -> None:
    run = [row("a", "a", 0.9, k=0), row("a", "b", 0.6, k=1), row("a", "b", 0.99, k=2), row("a", "a", 0.7, k=3)]
    base = [row("a", "b", k=0), row("a", "b", k=1), row("a", "a", k=2), row("a", "a", k=3)]
    found = pick([metric("accuracy")], run, base, seed=0)
    assert [s.id for s in found.worst] == ["2", "1"]
    assert found.worst[0].why == "wrong with confidence 0.99"
    assert {s.id: s.why for s in found.changed} == {"0": "better than the base", "2": "worse than the base"}
    assert found == pick([metric("accuracy")], run, base, seed=0)
    assert len(found.random) == 4


def test_text_rows_are_read_by_their_wording_not_their_likelihood() -> None:
    run = [
        Prediction(id="0", reference="a b c", output="a b c", nll=90.0, num_tokens=3, num_bytes=5, finish="stop"),
        Prediction(id="1", reference="a b c", output="x y", nll=1.0, num_tokens=3, num_bytes=5, finish="stop"),
        Prediction(id="2", reference="a b c", nll=99.0, num_tokens=3, num_bytes=5),
    ]
    found = pick([metric("bits_per_byte"), metric("rouge")], run, None, seed=0)
    assert [s.id for s in found.worst] == ["1"]  # 0 is perfect, 2 was not answered
    likelihood_only = [run[2], Prediction(id="3", reference="a", nll=math.log(2), num_tokens=1, num_bytes=1)]
    assert [s.id for s in pick([metric("bits_per_byte")], likelihood_only, None, seed=0).worst] == ["2", "3"]
