"""What an erasure takes out of predictions and reports, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erasing import people, report_of
from metier.core.fragments import fragments
from metier.core.project import Project, read_json
from metier.core.run import Run
from metier.core.subject import Subject
from metier.core.types import Labelled, identify
from metier.evaluation import card, report
from metier.evaluation.erase_reports import PredictionStore, ReportStore, warn

PERSONS = people(6, seed=8)
EXAMPLES = [
    identify(Labelled(text=text, target="card", place=f"rows.csv:{i}", meta={"person": p.key}))
    for i, (p, text) in enumerate((p, text) for p in PERSONS for text in p.texts)
]
ANNA = PERSONS[0]
SUBJECT = Subject(
    ANNA.key,
    frozenset({"person"}),
    ids=frozenset(e.id for e in EXAMPLES[:2]),
    fragments=frozenset(fragments(ANNA.texts)),
)


class Version:
    """As much of a dataset version as a report quotes."""

    ref = "data:desk@v1"
    digest = "d" * 64
    manifest = {"counts": {"train": 8, "validation": 0, "test": 4}}  # noqa: RUF012


@pytest.fixture
def run(tmp_path: Path) -> Run:
    project = Project.create(tmp_path, "p")
    run = Run.create(project.new_run_dir("classify", "desk"), name="desk")
    found = report_of(run, Version(), EXAMPLES)  # type: ignore[arg-type]
    report.write(found, run.dir)
    card.write(found, run.dir)
    report.write(found, run.evaluations_dir / "validation-step-000002")
    lines = [
        {"id": e.id, "prompt": e.text, "reference": "card", "output": "card", "meta": dict(e.meta)} for e in EXAMPLES
    ]
    lines.append({"id": "ffff", "prompt": "tell me", "output": ANNA.texts[1][:60], "meta": {}})
    run.predictions_dir.mkdir()
    (run.predictions_dir / "test-run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_rows_of_theirs_go_and_so_does_an_answer_that_gives_them_away(run: Run) -> None:
    store = PredictionStore(Project(run.dir.parents[1]))
    assert [t.num for t in store.find(SUBJECT)] == [3]
    store.erase(SUBJECT)
    assert store.find(SUBJECT) == [] == store.erase(SUBJECT)
    left = [json.loads(line)["id"] for line in (run.predictions_dir / "test-run.jsonl").open()]
    assert left == [e.id for e in EXAMPLES[2:]]


def test_quotations_and_slices_go_from_every_page_and_figures_stay(run: Run) -> None:
    store = ReportStore(Project(run.dir.parents[1]))
    assert len(store.find(SUBJECT)) == 2, "the run's own report, and that of another evaluation"
    store.erase(SUBJECT)
    assert store.find(SUBJECT) == []
    for folder in (run.dir, run.evaluations_dir / "validation-step-000002"):
        value = read_json(folder / "report.json")
        assert sum(len(group) for group in value["examples"].values()) == len(EXAMPLES) - 2
        assert [s["value"] for s in value["slices"]] == sorted(p.key for p in PERSONS[1:])
        assert value["data"]["rows"] == {"train": 8, "validation": 0, "test": 4}
        for page in ("report.html", "report.md"):
            assert not SUBJECT.seen((folder / page).read_bytes())
            assert PERSONS[1].texts[0] in (folder / page).read_text()


def test_a_short_key_leaves_the_slices(run: Run) -> None:
    value = read_json(run.dir / "report.json")
    value["slices"][0]["value"] = "17"
    (run.dir / "report.json").write_text(json.dumps(value))
    short = Subject("17", frozenset({"person"}))
    ReportStore(Project(run.dir.parents[1])).erase(short)
    assert "17" not in [s["value"] for s in read_json(run.dir / "report.json")["slices"]]


def test_a_surrogate_of_the_key_leaves_the_slices_of_its_own_version_alone(run: Run) -> None:
    value = read_json(run.dir / "report.json")
    value["slices"][0]["value"] = "83"
    (run.dir / "report.json").write_text(json.dumps(value))
    store = ReportStore(Project(run.dir.parents[1]))
    other = Subject("17", frozenset({"person"}), pseudonyms=frozenset({f"{'e' * 64}:83"}))
    assert store.find(other) == [] == store.erase(other)
    assert len(store.erase(Subject("17", frozenset({"person"}), pseudonyms=frozenset({f"{Version.digest}:83"})))) == 1
    assert "83" not in [s["value"] for s in read_json(run.dir / "report.json")["slices"]]


def test_a_warning_stands_once_on_every_page_and_on_the_card(run: Run) -> None:
    for _ in range(2):
        warn(run.dir, "Rows are gone (certificate erasure-1).")
    value = read_json(run.dir / "report.json")
    assert value["warnings"] == ["Rows are gone (certificate erasure-1)."] == value["limits"][:1]
    for page in ("report.html", "report.md", "README.md"):
        assert "erasure-1" in (run.dir / page).read_text(), page
    warn(run.dir / "checkpoints", "no report is here")
    assert not (run.dir / "checkpoints").exists()
