"""An erasure has a project alone; everything else has it together and waits for an erasure."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from metier.core import locks
from metier.core.errors import ConfigError
from metier.core.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    return Project.create(tmp_path / "desk", "desk")


def test_who_is_at_work_is_named_where_an_erasure_is_refused(project: Project) -> None:
    with (
        locks.together(project, "metier data prepare"),
        pytest.raises(ConfigError, match="E293") as refused,
        locks.alone(project, "metier erase"),
    ):
        raise AssertionError("it had the project alone")
    assert "metier data prepare" in refused.value.received and "process" in refused.value.received
    with locks.alone(project, "metier erase"):
        pass


def test_two_erasures_do_not_run_at_once(project: Project) -> None:
    with (
        locks.alone(project, "metier erase"),
        pytest.raises(ConfigError, match="E293") as refused,
        locks.alone(project, "metier erase"),
    ):
        raise AssertionError("two had the project alone")
    assert "metier erase" in refused.value.received


def test_others_have_it_together_and_within_each_other(project: Project) -> None:
    with locks.together(project, "a"), locks.together(project, "b"):
        pass


def test_everything_else_waits_for_an_erasure_and_says_so(project: Project) -> None:
    said: list[str] = []
    order: list[str] = []

    @locks.sharing("metier data prepare")
    def prepare(what: str, project: Project, *, progress: Any = None) -> str:
        order.append(what)
        return what

    with locks.alone(project, "metier erase"):
        waiting = threading.Thread(
            target=prepare, args=("prepared", project), kwargs={"progress": lambda text, *_: said.append(text)}
        )
        waiting.start()
        patience = time.monotonic() + 10
        while not said and time.monotonic() < patience:
            time.sleep(0.01)
        order.append("erased")
    waiting.join()
    assert order == ["erased", "prepared"]
    assert len(said) == 1 and said[0].startswith("waiting for metier erase (process ")
    assert prepare("again", project) == "again"


def _hold(root: Path, held: multiprocessing.synchronize.Event) -> None:
    with locks.together(Project(root), "a run"):
        held.set()
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_gone(project: Project) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    worker = context.Process(target=_hold, args=(project.root, held))
    worker.start()
    assert held.wait(10)
    with pytest.raises(ConfigError, match="E293"), locks.alone(project, "metier erase"):
        pass
    worker.kill()
    worker.join()
    with locks.alone(project, "metier erase"):
        pass
