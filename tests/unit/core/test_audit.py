from __future__ import annotations

import json
import multiprocessing
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from metier.core import audit
from metier.core.errors import MachineError
from metier.core.extras import user_dir
from metier.core.project import Project

Lines = list[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))
    project = Project.create(tmp_path / "p", "p")
    for number in range(6):
        audit.append(project, "train", run=number)
    return project


def kinds(project: Project) -> list[str]:
    return [f.kind for f in audit.verify(project)]


def change(project: Project, how: Callable[[Lines], Lines]) -> None:
    lines = project.audit_file.read_text().splitlines()
    project.audit_file.write_text("".join(line + "\n" for line in how(lines)))


def edited(lines: Lines) -> Lines:
    record = json.loads(lines[2])
    record["fields"]["run"] = 99
    return [*lines[:2], json.dumps(record), *lines[3:]]


def forged(lines: Lines) -> Lines:
    record = json.loads(lines[2])
    return [*lines[:3], json.dumps({**record, "who": "somebody"}), *lines[3:]]


def test_a_whole_chain_has_no_findings_and_links_every_record(project: Project) -> None:
    assert audit.verify(project) == []
    found = list(audit.records(project))
    assert [r["seq"] for r in found] == list(range(6))
    assert found[0]["previous"] == audit.GENESIS
    assert all(b["previous"] == a["mac"] for a, b in pairwise(found))


def test_no_log_is_no_finding(tmp_path: Path) -> None:
    assert audit.verify(Project.create(tmp_path / "q", "q")) == []


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (edited, "edited"),
        (lambda lines: lines[:2] + lines[3:], "deleted"),
        (lambda lines: lines[1:], "deleted"),
        (forged, "inserted"),
        (lambda lines: [*lines, lines[2]], "inserted"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "reordered"),
        (lambda lines: lines[:-1], "truncated"),
        (lambda lines: lines[:1], "truncated"),
        (lambda lines: [], "truncated"),
        (lambda lines: [*lines[:3], "not a record", *lines[4:]], "edited"),
    ],
)
def test_each_tampering_is_detected_and_named(project: Project, how: Callable[[Lines], Lines], kind: str) -> None:
    change(project, how)
    assert kind in kinds(project)


def test_an_edit_alone_is_one_finding_with_its_line(project: Project) -> None:
    change(project, edited)
    (finding,) = audit.verify(project)
    assert (finding.kind, finding.place) == ("edited", "audit.jsonl:3")


def test_every_single_byte_is_under_the_seal(project: Project) -> None:
    data = project.audit_file.read_bytes()
    for position in range(0, len(data), 97):
        project.audit_file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert audit.verify(project), f"byte {position}"


def test_a_removed_log_is_missed(project: Project) -> None:
    project.audit_file.unlink()
    assert kinds(project) == ["truncated"]


def test_a_history_rewritten_with_another_key_is_detected(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "theirs"))
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "theirs"))
    project.audit_file.unlink()
    for number in range(6):
        audit.append(project, "train", run=number)
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))
    assert kinds(project) == ["rewritten"]


def test_a_history_rewritten_with_the_same_key_does_not_reach_the_anchor(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "elsewhere"))
    project.audit_file.unlink()
    for number in range(6):
        audit.append(project, "train", run=number + 1)
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))
    assert kinds(project) == ["rewritten"]


def test_going_on_after_a_cut_keeps_the_gap_visible(project: Project) -> None:
    change(project, lambda lines: lines[:3])
    audit.append(project, "export")
    assert "deleted" in kinds(project)


def test_a_crash_between_record_and_anchor_is_no_alarm(project: Project) -> None:
    anchor = audit._anchor_file(project)
    before = anchor.read_bytes()
    audit.append(project, "train", run=6)
    anchor.write_bytes(before)
    assert audit.verify(project) == []
    audit.append(project, "train", run=7)
    assert audit.verify(project) == []
    assert [r["seq"] for r in audit.records(project)] == list(range(8))


def test_a_torn_last_line_is_named_and_removed_by_the_next_record(project: Project) -> None:
    with project.audit_file.open("a") as file:
        file.write('{"seq": 6, "acti')
    assert kinds(project) == ["torn"]
    audit.append(project, "train")
    assert audit.verify(project) == []


def test_a_moved_project_says_that_it_has_no_anchor(project: Project, tmp_path: Path) -> None:
    project.root.rename(tmp_path / "moved")
    assert kinds(Project(tmp_path / "moved")) == ["unanchored"]


def test_the_key_is_the_owners_alone_and_its_loss_is_said(project: Project) -> None:
    key = user_dir("config") / "audit.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(project.audit_file.stat().st_mode) == 0o600
    key.unlink()
    for act in (lambda: audit.append(project, "train"), lambda: audit.verify(project)):
        with pytest.raises(MachineError, match="E453"):
            act()


def _many(root: Path) -> None:
    for _ in range(10):
        audit.append(Project(root), "train")


def test_writers_at_the_same_time_make_one_chain(project: Project) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_many, args=(project.root,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert audit.verify(project) == []
    assert len(list(audit.records(project))) == 36
