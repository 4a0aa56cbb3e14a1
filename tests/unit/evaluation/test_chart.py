"""The charts: small, themed, deterministic SVG with the same figures as a table behind."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from metier.evaluation import chart, curve
from metier.evaluation.drawing import Chart
from metier.evaluation.result import Calibration, ClassRow, Confusion, Report, SliceRow

Make = Callable[[str], Report]


def all_charts(report: Report) -> list[Chart]:
    found = [
        chart.systems(report),
        *curve.curves(report.training),
        chart.reliability(report.calibration) if report.calibration else None,
        chart.confusion(report.confusion) if report.confusion else None,
        chart.classes(report.classes),
        chart.slices(report.slices, "Accuracy by language", "share", "slice-0"),
        chart.labels(report.data.labels),
    ]
    return [c for c in found if c is not None]


def test_classification_has_every_chart(make_report: Make) -> None:
    names = [c.name for c in all_charts(make_report("classification"))]
    assert names == [
        "systems", "loss", "curve-accuracy", "curve-learning-rate", "curve-grad-norm", "curve-tokens-per-second",
        "reliability", "confusion", "classes", "slice-0", "labels",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["classification", "summarisation", "hostile"])
def test_charts_can_stand_in_a_locked_page(make_report: Make, kind: str) -> None:
    for item in all_charts(make_report(kind)):
        assert len(item.svg.encode()) <= 60_000, item.name
        root = ElementTree.fromstring(item.svg)
        for element in root.iter():
            assert "style" not in element.attrib
            assert not element.tag.endswith(("style", "script", "metadata", "image"))
            assert all(not value.startswith("http") for value in element.attrib.values())
        ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
        assert all(name.startswith(f"{item.name}-") for name in ids)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == item.alt
        assert item.rows and all(len(row) == len(item.header) for row in item.rows)


def test_text_is_text_and_colours_follow_the_page(make_report: Make) -> None:
    item = chart.systems(make_report("classification"))
    assert item is not None
    texts = ["".join(e.itertext()) for e in ElementTree.fromstring(item.svg).iter() if e.tag.endswith("text")]
    assert "TF-IDF + linear SVM" in texts and "93.2\u00a0%" in texts
    assert "var(--run,#0072b2)" in item.svg and "var(--base,#b45f06)" in item.svg and "currentColor" in item.svg
    assert not re.search(r'(fill|stroke)="#(?!0072b2|fefefe)', item.svg)  # no colour that ignores dark mode


def test_same_input_same_bytes(make_report: Make) -> None:
    first, second = (all_charts(make_report("summarisation")) for _ in range(2))
    assert [c.svg for c in first] == [c.svg for c in second]


def test_labels_of_any_script_draw_without_a_warning(make_report: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        item = chart.labels({"日本語": 3, "مرحبا": 2, "👩‍⚕️ $x_1$ \\frac": 1})
    assert item is not None
    assert "$x_1$" in item.svg and "日本語" in item.svg


def test_many_classes_are_cut_to_the_weakest_and_the_table_has_all() -> None:
    rows = [ClassRow(label=f"c{i:03}", n=9, precision=0.5, recall=0.5, f1=1 - i / 500) for i in range(400)]
    item = chart.classes(rows)
    assert item is not None
    assert item.title == "The 20 weakest of 400 classes"
    assert len(item.rows) == 400 and item.rows[0][0] == "c399"
    assert "c399" in item.svg and "c379" not in item.svg


def test_confusion_keeps_the_classes_with_most_errors() -> None:
    counts = [[10 if i == j else 0 for j in range(30)] for i in range(30)]
    counts[28][3] = 7
    item = chart.confusion(
        Confusion(labels=[f"k{i}x" for i in range(30)], counts=counts, top_pairs=[("k28x", "k3x", 7)])
    )
    assert item is not None
    assert ">k28x<" in item.svg and ">k3x<" in item.svg and ">7<" in item.svg and ">k29x<" not in item.svg
    assert item.note.startswith("The 20 classes with the most errors, of 30.")


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    points = [(float(i), float(i)) for i in range(10_000)]
    thin = curve.thinned(points, curve.MAX_POINTS)
    assert len(thin) <= curve.MAX_POINTS + 1 and thin[0] == points[0] and thin[-1] == points[-1]


def test_slices_below_the_minimum_have_words_instead_of_a_point() -> None:
    rows = [
        SliceRow(column="l", value="en", n=500, metric="accuracy", figure=0.9),
        SliceRow(column="l", value="am", n=9, metric="accuracy", figure=None, note="insufficient"),
    ]
    item = chart.slices(rows, "t", "share", "s")
    assert item is not None and "insufficient" in item.svg
    assert item.rows[1] == ("am", "9", "–", "–", "–", "insufficient")
    assert chart.slices(rows[1:], "t", "share", "s") is None


def test_nothing_to_draw_is_none(make_report: Make) -> None:
    empty = make_report("pretraining")
    assert all_charts(empty) == []
    assert chart.reliability(Calibration(ece=0.0, bins=[])) is None
    assert chart.confusion(Confusion(labels=["a"], counts=[[0]], top_pairs=[])) is None
