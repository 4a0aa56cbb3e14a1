from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from metier.core import locate, refs
from metier.core.errors import ConfigError, MachineError
from metier.core.project import (
    Project,
    digest_bytes,
    digest_file,
    digest_json,
    disk_errors,
    now,
    read_json,
    run_number,
    write_bytes,
    write_json,
)
from metier.core.run import Run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "p", "support")


def test_a_project_is_found_from_below_and_not_made_twice(project: Project) -> None:
    inside = project.root / "recipes"
    assert Project.find(inside).root == project.root
    assert Project.find(inside).name == "support"
    project.file.write_text("name: renamed\n")
    assert Project.create(project.root, "other").name == "renamed"


def test_no_project_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="E230"):
        Project.find(tmp_path)


@pytest.mark.parametrize("text", [b"- a\n", b"a: [\n", b"- \n", b"\xff\xfen\x00"])
def test_a_broken_project_file(project: Project, text: bytes) -> None:
    project.file.write_bytes(text)
    with pytest.raises(ConfigError, match="E204"):
        Project(project.root)


@pytest.mark.parametrize(
    ("text", "code", "line", "fix"),
    [
        ("version: 1\nname: a\ngate: {permission: required}\n", "E201", 3, "Did you mean `gates`?"),
        ("retention: 30\n", "E201", 1, "remove it"),
        ("on: 1\n", "E201", None, "remove it"),
        ("name: a\ngates: required\n", "E202", 2, "gates: {parity: required}"),
        ("name: [a]\n", "E202", 1, "name: support"),
        ("name: a\nname: b\n", "E205", 2, "keep one"),
        ("name: a\nversion: 2\n", "E206", 2, "CHANGELOG"),
    ],
)
def test_a_key_of_the_project_file_that_is_not_one_is_named_with_its_line(
    project: Project, text: str, code: str, line: int | None, fix: str
) -> None:
    project.file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Project(project.root)
    assert (caught.value.code, caught.value.place) == (code, f"metier.yaml:{line}" if line else "metier.yaml")
    assert fix in caught.value.fix


@pytest.mark.parametrize("text", ["", "# nothing\n", "gates:\n", "\ufeffname: p\ngates: {}\n"])
def test_a_project_file_may_leave_everything_out(project: Project, text: str) -> None:
    project.file.write_text(text, encoding="utf-8")
    found = Project(project.root)
    assert found.name == "p" and not found.settings.get("gates")


def test_private_rows_are_the_owners_alone_and_not_under_version_control(project: Project) -> None:
    assert project.private_dir.stat().st_mode & 0o777 == 0o700
    assert "private/" in (project.root / ".gitignore").read_text().split()


def test_paths_of_a_recipe_expand_variables_and_start_at_the_root(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", "/somewhere")
    assert project.path("data/a.csv") == project.root / "data" / "a.csv"
    assert project.path("${WHERE}/a.csv") == Path("/somewhere/a.csv")
    monkeypatch.delenv("WHERE")
    with pytest.raises(ConfigError, match=r"E231.*WHERE"):
        project.path("${WHERE}/a.csv")


def test_runs_are_numbered_and_two_starters_never_share_one(project: Project) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.extend(project.new_run_dir("sft", "x") for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(p.name[:4]) for p in made) == list(range(1, 21))
    assert project.run_dirs() == [], "none of them has a status yet: whoever lists runs must not meet them"
    for folder in made:
        write_json(folder / "status.json", {"state": "created"})
    assert [p.name for p in project.run_dirs()] == sorted(p.name for p in made)
    assert not list(project.runs_dir.glob(".*"))


def test_a_number_is_not_given_again_after_a_run_in_between_was_removed(project: Project) -> None:
    first, second = project.new_run_dir("sft", "x"), project.new_run_dir("sft", "x")
    first.rmdir()
    assert project.new_run_dir("sft", "x").name.startswith("0003-")
    assert second.exists()


def test_a_claim_left_by_a_dead_process_is_passed(project: Project) -> None:
    project.runs_dir.mkdir()
    stale = project.runs_dir / ".0001.claim"
    stale.touch()
    os.utime(stale, (1, 1))
    assert project.new_run_dir("sft", "x").name.startswith("0001-")


def test_a_run_is_found_by_number_name_path_and_last(project: Project) -> None:
    first, second = project.new_run_dir("sft", "x"), project.new_run_dir("sft", "x")
    for folder in (first, second):
        write_json(folder / "status.json", {})
    for ref in ("1", "0001", "run:1", first.name):
        assert project.run_dir(ref) == first
    assert project.run_dir("last") == second
    assert project.run_dir(str(first)) == first


@pytest.mark.parametrize("ref", ["3", "last", "nothing", "", "../x", "a long text " * 400, "a\0b"])
def test_no_such_run(project: Project, ref: str) -> None:
    with pytest.raises(ConfigError, match="E232"):
        project.run_dir(ref)


def test_a_copy_with_a_name_of_its_own_is_no_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(project.new_run_dir("sft", "x"))
    copy = run.dir.rename(run.dir.with_name("before-change"))
    monkeypatch.chdir(project.root)
    for ref in ("before-change", "runs/before-change", str(copy), Run(copy)):
        with pytest.raises(ConfigError, match="E232") as refused:
            locate.run(ref)
    assert refused.value.received == "before-change, a directory without a number"
    with pytest.raises(ConfigError, match="E232"):
        locate.run("a long text " * 400)


@pytest.mark.parametrize("place", ["rows.csv", "rows.csv/below"])
def test_a_project_where_no_folder_can_be(place: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    with pytest.raises(ConfigError, match="E298") as refused:
        Project.create(tmp_path / place, "p")
    assert refused.value.place == str(tmp_path / place) and "--data" in refused.value.fix


# ───────────────────────────────────────────────────────────────────────────── files


def test_digests_are_sha256_of_bytes_and_canonical_json(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "f").write_bytes(b"")
    assert digest_bytes(b"") == digest_file(tmp_path / "f") == empty
    assert (
        digest_json({"b": 1, "a": "ü"}) == digest_json({"a": "ü", "b": 1}) == digest_bytes('{"a":"ü","b":1}'.encode())
    )


def test_times_are_utc_with_milliseconds() -> None:
    assert len(now()) == len("2026-01-01T00:00:00.000Z")
    assert now().endswith("Z")


def test_a_write_that_fails_leaves_the_old_bytes_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    write_json(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="E420"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text())["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "E420"),
        (errno.EDQUOT, "E420"),
        (errno.EROFS, "E421"),
        (errno.EACCES, "E421"),
        (errno.EIO, "E422"),
    ],
)
def test_refusals_of_the_system_are_coded(tmp_path: Path, number: int, code: str) -> None:
    with pytest.raises(MachineError) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert (caught.value.code, caught.value.place) == (code, str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="E421"):
        write_bytes(tmp_path / "f", b"x")


@pytest.mark.parametrize(
    ("text", "code"), [(None, "E220"), ("{", "E221"), ("[]", "E221"), ('{"schema_version": 99}', "E222")]
)
def test_unreadable_json(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "f.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_json(path)
    assert (caught.value.code, caught.value.place) == (code, str(path))


def test_the_run_after_9999_is_10000_everywhere(project: Project) -> None:
    (project.runs_dir / "9999-aaaa-sft-x").mkdir(parents=True)
    made = [project.new_run_dir("sft", "x") for _ in range(2)]
    assert [p.name.partition("-")[0] for p in made] == ["10000", "10001"]
    folders = [project.runs_dir / "9999-aaaa-sft-x", *made]
    for folder in folders:
        write_json(folder / "status.json", {"state": "created"})
    assert project.run_dirs() == folders, "by number, not by name"
    assert project.run_dir("last") == made[1]
    assert project.run_dir("10000") == project.run_dir(made[0].name) == made[0]
    assert [Run(p).number for p in folders] == [9999, 10000, 10001]
    assert refs.parse(f"run:{made[0].name}@best").name == made[0].name
    with pytest.raises(ConfigError, match="E232"):
        project.run_dir("1000")


@pytest.mark.parametrize(
    ("name", "number"), [("0012-7f3a-sft-x", 12), ("10000-ab-x", 10000), (".0001.claim", None), ("012-x", None)]
)
def test_the_number_of_a_run_directory(name: str, number: int | None) -> None:
    assert run_number(name) == number
