from __future__ import annotations

import json
import multiprocessing
import os
import random
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


# ───────────────────────────────────────────────────────────────────────────── a hundred of each

NUM_RECORDS, NUM_TRIES = 12, 100
Tamper = Callable[[Lines, random.Random, Path], Lines]


def _edit(lines: Lines, rng: random.Random, _: Path) -> Lines:
    """Change one value of one record: a field, its author, its time, its action, its number or its seal."""
    place = rng.randrange(len(lines))
    record = json.loads(lines[place])
    name = rng.choice(["run", "who", "time", "action", "seq", "previous", "mac"])
    if name == "run":
        record["fields"]["run"] += rng.randrange(1, 1000)
    elif name == "seq":
        record["seq"] += rng.choice([-1, 1, 100])
    else:
        at = rng.randrange(len(record[name]))
        other = rng.choice([c for c in "0123456789abcdef" if c != record[name][at]])
        record[name] = record[name][:at] + other + record[name][at + 1 :]
    return [*lines[:place], json.dumps(record, sort_keys=True, separators=(",", ":")), *lines[place + 1 :]]


def _delete(lines: Lines, rng: random.Random, _: Path) -> Lines:
    first = rng.randrange(len(lines) - 1)  # the last one would be a cut
    size = rng.randrange(1, len(lines) - first)
    return [*lines[:first], *lines[first + size :]]


def _insert(lines: Lines, rng: random.Random, _: Path) -> Lines:
    """Put a record in that was made up, or one of the log a second time."""
    record = json.loads(rng.choice(lines))
    if rng.random() < 0.7:
        record["fields"] = {"run": rng.randrange(10**6)}
        record["seq"] = rng.choice([record["seq"], len(lines), rng.randrange(100)])
    place = rng.randrange(len(lines) + 1)
    return [*lines[:place], json.dumps(record, sort_keys=True, separators=(",", ":")), *lines[place:]]


def _reorder(lines: Lines, rng: random.Random, _: Path) -> Lines:
    while (mixed := rng.sample(lines, len(lines))) == lines:
        pass
    if rng.random() < 0.5:  # two neighbours alone
        at = rng.randrange(len(lines) - 1)
        mixed = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
    return mixed


def _truncate(lines: Lines, rng: random.Random, _: Path) -> Lines:
    return lines[: rng.randrange(len(lines))]


def _rewrite(lines: Lines, rng: random.Random, elsewhere: Path) -> Lines:
    """Write the whole history anew with one's own key, or with the right key in another state directory."""
    other = Project.create(elsewhere / "copy", "p")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("METIER_STATE_DIR", str(elsewhere / "state"))
        if rng.random() < 0.5:
            patched.setenv("METIER_CONFIG_DIR", str(elsewhere / "config"))
        for number in range(len(lines)):
            audit.append(other, "train", run=rng.randrange(10**6) + number)
    return other.audit_file.read_text().splitlines()


@pytest.mark.parametrize(
    ("how", "kinds_of_it"),
    [
        (_edit, {"edited", "inserted", "deleted", "truncated"}),  # a changed number leaves a gap and a stranger
        (_delete, {"deleted"}),
        (_insert, {"inserted", "edited"}),
        (_reorder, {"reordered"}),
        (_truncate, {"truncated"}),
        (_rewrite, {"rewritten"}),
    ],
    ids=["edit", "delete", "insert", "reorder", "truncate", "rewrite"],
)
def test_a_hundred_tamperings_of_each_kind_are_all_found(
    how: Tamper, kinds_of_it: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("config", "state"):
        monkeypatch.setenv(f"METIER_{kind.upper()}_DIR", str(tmp_path / kind))
    project = Project.create(tmp_path / "p", "p")
    for number in range(NUM_RECORDS):
        audit.append(project, "train", run=number)
    whole = project.audit_file.read_bytes()
    assert audit.verify(project) == []
    missed = []
    for seed in range(NUM_TRIES):
        project.audit_file.write_bytes(whole)
        folder = tmp_path / f"try-{seed}"
        change(project, lambda lines, s=seed, f=folder: how(lines, random.Random(s), f))  # type: ignore[misc]
        if not kinds_of_it & set(kinds(project)):
            missed.append((seed, kinds(project)))
    assert missed == []
    project.audit_file.write_bytes(whole)
    assert audit.verify(project) == [], "the whole one is still taken for whole"


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


def test_a_pseudonym_needs_the_key_and_is_the_same_each_time(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = audit.pseudonym(project, "P-1")
    assert made == audit.pseudonym(project, "P-1") != audit.pseudonym(project, "P-2")
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "theirs"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "audit.key").write_text("00" * 32)
    assert audit.pseudonym(project, "P-1") != made


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


def test_a_record_is_written_whole_where_the_system_takes_a_part_at_a_time(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:7]))
        audit.append(project, "train", run=6)
    assert audit.verify(project) == []
    assert list(audit.records(project))[-1]["fields"] == {"run": 6}


@pytest.mark.parametrize(
    "line",
    [
        '{"seq": 2, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"seq": 2, "x": ' + "[" * 400 + "]" * 400 + "}",
        '{"seq": 2, "mac": "łączka"}',
        r'{"seq": 2, "mac": "\ud800"}',
        '{"seq": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "null",
    ],
    ids=["deep", "less deep", "no hex", "half a pair", "long number", "open", "null"],
)
def test_a_hostile_line_is_tampering_and_the_log_goes_on(project: Project, line: str) -> None:
    change(project, lambda lines: [*lines[:2], line, *lines[3:]])
    assert {"edited", "inserted", "deleted"} & set(kinds(project))
    audit.append(project, "train", run=7)
    assert kinds(project) and list(audit.records(project))[-1]["fields"] == {"run": 7}
