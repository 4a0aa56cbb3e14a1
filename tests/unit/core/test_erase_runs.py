from __future__ import annotations

import json
from pathlib import Path

from metier.core.erase_runs import RunFileStore, learnt, mark, warnings
from metier.core.project import Project
from metier.core.run import Run
from metier.core.subject import Subject

ANNA = Subject("P-00123", frozenset({"person"}), frozenset({"Anna Quill"}))


def run_with_traces(root: Path) -> tuple[Project, Run]:
    project = Project.create(root, "p")
    run = Run.create(project.new_run_dir("sft", "p"), name="p", note="of Anna Quill")
    run.event("note", text="cut: P-00123.txt:1")
    run.event("step", step=1, loss=0.5)
    run.log_file.write_text("warning: Anna Quill\nfine\n")
    (run.dir / "recipe.resolved.yaml").write_text("data:\n  sources:\n    - path: data/P-00123.csv\n")
    (run.dir / "plan.json").write_text('{"schema_version": 1, "person": "P-00123"}')
    return project, run


def test_words_go_and_figures_stay(tmp_path: Path) -> None:
    project, run = run_with_traces(tmp_path)
    store = RunFileStore(project)
    found = {trace.file.rpartition("/")[2] for trace in store.find(ANNA)}
    assert found == {"status.json", "events.jsonl", "log.txt", "recipe.resolved.yaml", "plan.json"}
    assert "P-00123" in (run.dir / "events.jsonl").read_text(), "looking changes nothing"
    store.erase(ANNA)
    assert store.find(ANNA) == [] == store.erase(ANNA)
    assert [e.get("loss") for e in run.events()] == [None, 0.5]
    assert run.log_file.read_text() == "(erased)\nfine\n"
    assert run.status()["state"] == "created" and run.status()["note"] == "(erased)"
    assert (run.dir / "recipe.resolved.yaml").read_text().endswith("path: data/(erased).csv\n")
    assert json.loads((run.dir / "plan.json").read_text()) == {"schema_version": 1, "person": "(erased)"}


def test_a_mark_says_what_the_weights_know(tmp_path: Path) -> None:
    _, run = run_with_traces(tmp_path)
    for _ in range(2):
        mark(run, "erasure-1", {"test": 2})
    (text,) = warnings(run.status())
    assert "2 test rows" in text and "erasure-1" in text and "retrain" not in text
    assert not learnt(run.status()["erased"])
    mark(run, "erasure-2", {"train": 1})
    assert len(run.status()["erased"]) == 2 and learnt(run.status()["erased"])
    assert "retrain" in warnings(run.status())[1]
