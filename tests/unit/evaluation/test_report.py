"""The report: one safe, self-contained, deterministic page that says the verdict first."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from metier.evaluation import card, view
from metier.evaluation import report as rendering
from metier.evaluation.diff import Piece, words
from metier.evaluation.result import Examples, Report, Shown, TargetResult, Verdict

Make = Callable[[str], Report]
PageOf = Callable[[Report], str]
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; collects tags, attributes, headings, ids and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def test_page_is_well_formed_and_locked(any_report: Report, page_of: PageOf) -> None:
    html = page_of(any_report)
    page = Page(html)
    css = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert css is not None
    digest = base64.b64encode(hashlib.sha256(css[1].encode()).digest()).decode()
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert f"'sha256-{digest}'" in policy
    assert not page.tags & {"script", "img", "iframe", "link", "form", "object", "base"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith("#") for value in page.values("href"))
    assert len(page.values("id")) == len(set(page.values("id")))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(page.values("id"))


def test_the_eleven_sections_stand_in_order_under_real_headings(any_report: Report, page_of: PageOf) -> None:
    html = page_of(any_report)
    ids = re.findall(r'<section id="(\w+)"', html)
    assert ids == [id for id, _ in view.SECTIONS] and len(ids) == 11
    headings = Page(html).headings
    assert headings[0] == 1 and headings.count(1) == 1
    # The contents list has an h2 of its own; no level is skipped on the way down.
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_same_report_same_bytes(any_report: Report, page_of: PageOf) -> None:
    again = Report.model_validate_json(any_report.model_dump_json())
    assert page_of(any_report) == rendering.render(again)
    assert rendering.report_markdown(any_report) == rendering.report_markdown(again)


def test_figures_stand_in_the_page_and_in_markdown(make_report: Make, page_of: PageOf) -> None:
    report = make_report("classification")
    for text in ("".join(Page(page_of(report)).text), rendering.report_markdown(report)):
        for expected in (
            "Worth it",
            "93.2\u00a0%",
            "92.3–94.1\u00a0%",
            "+4.1\u00a0points",
            "Of the test rows, 25 have an exact twin and 77 have a near twin",
            "at least 92.0\u00a0%",
            "Accuracy, gain over the base",
            "6\u00a0min 53\u00a0s",
            "+6\u00a0%",  # 413 s against 390 s planned
        ):
            assert expected in text


def test_planned_times_of_a_run_that_ended_early_say_what_they_are_for(make_report: Make) -> None:
    named = [
        rendering._estimate(key, 9.0, 9.0, scaled=scaled)[0]
        for key in ("seconds", "validation_seconds", "memory_bytes")
        for scaled in (True, False)
    ]
    assert named == [
        "Training, the steps taken", "Training",
        "Evaluations during training, those made", "Evaluations during training", "Memory", "Memory",
    ]  # fmt: skip
    report = make_report("classification")
    for scaled in (True, False):
        training = report.training.model_copy(update={"estimate_scaled": scaled})
        text = rendering.report_markdown(report.model_copy(update={"training": training}))
        assert ("the steps taken" in text) == scaled


def test_full_and_leak_free_figures_of_run_base_and_floor_stand_together(make_report: Make, page_of: PageOf) -> None:
    report = make_report("classification")
    run, base, floor = (
        "93.2\u00a0% → 93.0\u00a0% (92.1–93.9\u00a0%)",
        "89.1\u00a0% → 88.7\u00a0%",
        "91.4\u00a0% → 91.1\u00a0%",
    )
    for text in (rendering.report_markdown(report), card.render(report)):
        assert "| Figure | This run | Untouched base (frozen + linear probe) | TF-IDF + linear SVM | Rows |" in text
        assert f"| Accuracy | {run} | {base} | {floor} | 3,080 → 2,978 |" in text
    page = "".join(Page(page_of(report)).text)
    assert f"{run}{base}{floor}3,080 → 2,978" in page
    older = report.model_copy(update={"data": report.data.model_copy(update={"leak_free_others": {}})})
    assert "| Figure | This run | Rows |" in rendering.report_markdown(older)


def test_twins_without_figures_of_their_own_are_not_said_to_be_shown(make_report: Make) -> None:
    made = make_report("classification")
    data = made.data.model_copy(update={"leak_free_figures": [], "leak_free_others": {}})
    text = rendering.report_markdown(made.model_copy(update={"data": data, "split": "validation"}))
    assert "Of the validation rows, 25 have an exact twin" in text
    assert "both are shown" not in text


def test_a_figure_of_other_rows_than_the_runs_says_so_in_page_markdown_and_card(make_report: Make) -> None:
    report = make_report("classification")
    zero = next(s for s in report.systems if s.name == "zero_shot")
    zero.figures[0] = zero.figures[0].model_copy(update={"n": 500, "note": "on a sample of 500 rows"})
    zero.figures[1] = zero.figures[1].model_copy(update={"n": 499})  # as an older report.json has it, without a note
    low = "13.3–15.1\xa0%"
    for text in (rendering.render(report), rendering.report_markdown(report), card.render(report)):
        assert f"{low}; on a sample of 500 rows" in text
        assert text.count("; 499 rows") == 1
        assert "3,080 rows)" not in text and "; 3,080 rows<" not in text, "the run's rows need no mention in each cell"


def test_a_warning_stands_beside_the_verdict_in_page_markdown_and_card(make_report: Make) -> None:
    report = make_report("classification").model_copy(update={"warnings": ["90% of 200 answers were cut"]})
    html = rendering.render(report)
    box = re.search(r'<div class="verdict bad"><p[^>]*>(.*?)</div>', html)
    assert box is not None and "90% of 200 answers were cut" in box[1]
    assert html.index('class="verdict good"') < box.start() < html.index('<ul class="cards">')
    for text in (rendering.report_markdown(report), card.render(report)):
        assert text.index("⚠ 90% of 200 answers were cut") < text.index("\n## ")


@pytest.mark.parametrize(("passed", "word"), [(True, "✔ passed"), (False, "✘ failed")])
def test_the_reload_is_judged_in_words_with_its_tolerance(make_report: Make, passed: bool, word: str) -> None:
    report = make_report("classification")
    report = report.model_copy(update={"parity": {"reload": {**report.parity["reload"], "passed": passed}}})
    html = rendering.render(report)
    section = "".join(Page(html[html.index("<p>Reload") : html.index("</p>", html.index("<p>Reload")) + 4]).text)
    for text in (section, rendering.report_markdown(report)):
        assert f"Reload {word}: the validation loss of step-000480, computed from what is on disk, is 0.312" in text
        assert "They differ by 0.0002; 0.020 is allowed." in text.replace("\u00a0", " ")


def test_hostile_text_is_only_ever_text(make_report: Make, page_of: PageOf) -> None:
    report = make_report("hostile")
    html = page_of(report)
    assert "<script" not in html and "<img" not in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    assert "مرحبا بالعالم" in html and "👩\u200d⚕️" in html
    outside = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", rendering.report_markdown(report))
    outside = re.sub(r"(`+)[^\n]*?\1", "", outside)
    assert "<script" not in outside and "<img" not in outside


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_every_verdict_has_words(make_report: Make, verdict: Verdict) -> None:
    report = make_report("pretraining").model_copy(update={"verdict": verdict})
    html = rendering.render(report)
    banner = html[html.index('<p class="word">') :][:400]
    assert view.VERDICTS[verdict].title in banner and view.VERDICTS[verdict].symbol in banner


def test_the_sentence_does_not_repeat_the_banner(make_report: Make) -> None:
    assert view.sentence(make_report("classification")).startswith("Accuracy 93.2 %")
    assert view.sentence(make_report("pretraining")) == "12 held-out rows."


def test_key_figures_show_run_base_and_best_floor(make_report: Make) -> None:
    first = view.cards(make_report("classification"))[0]
    assert first.base is not None and first.base[0].name == "base" and first.base[1].value == 0.8911
    assert first.floor is not None and first.floor[0].name == "tfidf_svm"
    assert first.difference is not None and first.difference.delta == 0.0407
    assert first.marks["run"] == 93.2 and first.marks["base"] == 89.1
    perplexity = view.cards(make_report("summarisation"))[1]
    assert perplexity.floor is None and perplexity.run.value == 18.2


def test_what_was_not_measured_is_said(make_report: Make) -> None:
    text = "".join(Page(rendering.render(make_report("pretraining"))).text)
    for expected in (
        "Nothing was compared",
        "No targets were set",
        "No slices were asked for",
        "No parity certificate",
    ):
        assert expected in text
    assert "nan" not in text.lower() and "None" not in text.replace("None seen", "")


def test_rows_that_were_cut_or_left_out_are_said_where_the_data_stand(make_report: Make) -> None:
    report = make_report("classification")
    said = "Cut at what the model reads at once: 1,212 train rows and 1 validation row. The notes"
    dropped = report.data.model_copy(update={"cut_rows": {}, "dropped_rows": {"train": 3}})
    left = "within that: 3 train rows. The notes"
    markdown = lambda r: rendering.report_markdown(r).replace("\\", "")  # noqa: E731
    for text in (markdown, lambda r: "".join(Page(rendering.render(r)).text)):
        assert said in text(report) and "Left out" not in text(report)
        other = text(report.model_copy(update={"data": dropped}))
        assert left in other and "Cut at" not in other
        assert "within that" not in text(make_report("pretraining"))


def test_targets_are_shown_in_the_unit_of_their_figure(make_report: Make) -> None:
    report = make_report("classification")
    gain = TargetResult(name="gain_over_floor.accuracy", condition="> 0.015", value=0.0178, met=True)
    assert view.condition(report, gain) == "above +1.5\u00a0points"
    assert view.target_name(report, gain) == "Accuracy, gain over the floor"
    other = TargetResult(name="perplexity", condition="<=20", value=None, met=None)
    assert view.condition(report, other) == "at most 20"


@pytest.mark.parametrize(
    ("name", "condition", "value", "asked", "shown"),
    [
        ("accuracy", ">= 0.92", 0.91961, "at least 92.0\xa0%", "91.96\xa0%"),
        ("accuracy", ">= 0.9196", 0.9198, "at least 91.96\xa0%", "92.0\xa0%"),
        ("accuracy", ">= 0.9196", 0.91955, "at least 91.96\xa0%", "91.95\xa0%"),
        ("perplexity", "<= 1250.4", 1250.47, "at most 1250.4", "1250.5"),
        ("accuracy", ">= 0.92", 0.87654, "at least 92.0\xa0%", "87.7\xa0%"),
        ("accuracy", ">= 0.92", 0.92, "at least 92.0\xa0%", "92.0\xa0%"),
        ("gain_over_base.accuracy", "> 0.05", 0.049996, "above +5.0\xa0points", "+4.9996\xa0points"),
        ("rouge", "<= 1.2345678", 1.2345, "at most 1.2345678", "1.234"),
    ],
)
def test_a_target_and_its_figure_are_never_rounded_to_the_same(
    name: str, condition: str, value: float, asked: str, shown: str, make_report: Make
) -> None:
    report = make_report("classification")
    target = TargetResult(name=name, condition=condition, value=value, met=None)
    assert (view.condition(report, target), view.measured(report, target)) == (asked, shown)


def test_twins_are_looked_for_in_train_and_validation_and_that_is_said(make_report: Make) -> None:
    report = make_report("classification")
    none = report.model_copy(update={"data": report.data.model_copy(update={"leaks": {}})})
    for render in (rendering.report_markdown, card.render, rendering.render):
        assert "twin in the training or validation rows" in render(report)
        assert "twin in the training or validation rows" in render(none)
        # A validation row is compared with train alone.
        assert "twin in the training rows" in render(none.model_copy(update={"split": "validation"}))


def test_a_page_with_77_classes_stays_small(make_report: Make, page_of: PageOf) -> None:
    assert len(page_of(make_report("classification")).encode()) < 400_000


def test_page_stays_under_two_megabytes_and_says_what_was_left_out(make_report: Make) -> None:
    report = make_report("pretraining")
    long = [
        Shown(id=str(i), prompt='"<&' * 40_000, reference="👩 & " * 9000, run=f"<{i}> " * 9000, base="'" * 50_000)
        for i in range(40)
    ]
    sources = [{"path": f"{'p' * 3000}{i}", "license": "x" * 9000} for i in range(300)]
    report = report.model_copy(
        update={
            "examples": Examples(worst=long, changed=long, random=long),
            "limits": ["&" * 5000] * 100,
            "data": report.data.model_copy(update={"sources": sources}),
        }
    )
    html = rendering.render(report)
    assert len(html.encode()) <= rendering.MAX_BYTES
    text = "".join(Page(html).text)
    assert "were shortened to keep this file under 2 MB" in text
    assert "of 40 are shown here" in text


def test_write_puts_three_files_and_json_goes_round(make_report: Make, page_of: PageOf, tmp_path: Path) -> None:
    report = make_report("summarisation")
    assert rendering.write(report, tmp_path) == tmp_path / "report.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert Report.model_validate(json.loads((tmp_path / "report.json").read_text("utf-8"))) == report
    assert (tmp_path / "report.html").read_text("utf-8") == page_of(report)


def test_markdown_tables_are_rectangular(any_report: Report) -> None:
    text = rendering.report_markdown(any_report)
    blocks = [block.splitlines() for block in re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", text).split("\n\n")]
    tables = [block for block in blocks if block and block[0].startswith("|")]
    assert tables
    for table in tables:
        assert set(table[1]) <= set("|-:")
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]


# ───────────────────────────────────────────────────────────────────────────── the word diff


def test_diff_marks_words_and_keeps_both_texts() -> None:
    old, new = "a 45-year-old woman, no fever", "a 54-year-old woman, with fever and chills"
    pieces = words(old, new)
    assert pieces is not None
    assert "".join(p.text for p in pieces if p.kind != "added").split() == old.split()
    assert "".join(p.text for p in pieces if p.kind != "removed") == new
    assert Piece("removed", "45") in pieces and Piece("added", "54") in pieces


def test_neighbouring_changes_become_one() -> None:
    pieces = words("pain without radiation today it is bad", "pain radiating backwards today it is bad")
    assert pieces is not None
    assert [p.kind for p in pieces] == ["same", "removed", "added", "same"]
    assert pieces[1].text == "without radiation "


def test_diff_of_scripts_without_spaces_is_by_character() -> None:
    pieces = words("東京は晴れです", "東京は雨です")
    assert pieces is not None
    assert [p.text for p in pieces] == ["東京は", "晴れ", "雨", "です"]


def test_texts_with_little_in_common_have_no_diff() -> None:
    assert words("card_arrival", "lost_or_stolen") is None
    assert words("", "") is None
    assert words("one two three", "four five six") is None


def test_a_model_that_repeats_itself_for_ever_is_compared_in_bounded_time() -> None:
    pieces = words("pain " * 1500, "pain " * 1400 + "fever " * 50)  # minutes with difflib
    assert pieces is not None
    assert [(p.kind, len(p.text.split())) for p in pieces] == [("same", 1400), ("removed", 100), ("added", 50)]


@pytest.mark.parametrize(
    ("more", "steps", "checkpoint"),
    [
        (
            {"steps": 600, "planned_steps": 600, "stopped_early": False, "chosen_by": "loss"},
            "600 (3 epochs)",
            "step 480, chosen by the loss on validation",
        ),
        (
            {"steps": 600, "planned_steps": 900, "stopped_early": True, "chosen_by": "accuracy", "temperature": 1.5},
            "600 of 900 planned (3 epochs), stopped early on validation",
            "step 480, chosen by the accuracy on validation; confidences at temperature 1.50, fitted on validation",
        ),
        (
            {"steps": 600, "planned_steps": 900, "stopped_early": False, "chosen_by": "request"},
            "600 of 900 planned (3 epochs), stopped before its end",
            "step 480, asked for by this evaluation",
        ),
        (
            {"steps": 480, "planned_steps": 480, "stopped_early": False, "chosen_by": "last step"},
            "480 (3 epochs)",
            "step 480, the last one",
        ),
    ],
)
def test_steps_taken_and_the_measured_checkpoint_are_two_figures(
    make_report: Make, more: dict[str, object], steps: str, checkpoint: str
) -> None:
    made = make_report("classification")
    report = made.model_copy(update={"training": made.training.model_copy(update={"best_step": 480, **more})})
    for text in (rendering.report_markdown(report), card.render(report)):
        assert f"- Steps taken: {steps}\n" in text
        assert f"- Checkpoint measured: {checkpoint}\n" in text
