from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError
from metier.core.run import MOVES, Run

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "0012-7f3a-sft-support"
    folder.mkdir()
    return Run.create(folder, name="support")


def _hold(folder: Path, held: Any, seconds: float) -> None:
    other = Run(folder)
    other.hold()
    other.move("running")
    held.set()
    time.sleep(seconds)


@pytest.fixture
def worker(run: Run) -> Iterator[Any]:
    """Another process that holds the run."""
    held = FORK.Event()
    process = FORK.Process(target=_hold, args=(run.dir, held, 60))
    process.start()
    assert held.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_run_says_its_number_and_id(run: Run) -> None:
    assert (run.number, run.id) == (12, "0012-7f3a")
    assert run.status()["state"] == "created"
    assert run.status()["schema_version"] == 1


def test_only_the_moves_of_the_state_machine_are_possible(run: Run) -> None:
    run.hold()
    for before, allowed in MOVES.items():
        for after in MOVES:
            run.update(state=before)
            if after in allowed:
                run.move(after)
                assert run.status()["state"] == after
            else:
                with pytest.raises(ConfigError, match="E233"):
                    run.move(after)


def test_a_run_is_held_by_one_process_only(run: Run, worker: Any) -> None:
    assert run.held()
    assert run.pid() == worker.pid
    assert run.status()["state"] == "running"
    with pytest.raises(ConfigError, match="E234"):
        Run(run.dir).hold()


def test_a_killed_worker_leaves_no_stale_lock(run: Run, worker: Any) -> None:
    worker.kill()
    worker.join()
    assert not run.held()
    assert run.pid() is None
    assert (run.status()["state"], run.status()["reason"]) == ("failed", "worker-lost")
    run.hold()
    run.move("running")
    assert (run.status()["state"], run.status()["reason"]) == ("running", None)


def test_who_only_looks_does_not_keep_a_worker_from_starting(run: Run) -> None:
    (run.dir / "run.lock").touch()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            Run(run.dir).held()

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            mine = Run(run.dir)
            mine.hold()
            mine.release()
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_two_threads_that_update_lose_nothing(run: Run) -> None:
    def write(name: str) -> None:
        for index in range(25):
            Run(run.dir).update(**{f"{name}{index}": index})

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = run.status()
    assert all(status[f"{name}{index}"] == index for name in "ab" for index in range(25))


def test_a_line_cut_off_by_a_kill_is_passed_over(run: Run) -> None:
    run.event("step", step=1)
    with (run.dir / "events.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00Z", "kind": "st\n')
    run.event("step", step=2)
    assert [e["step"] for e in run.events("step")] == [1, 2]
    run.update(state="stopped")
    assert [e["step"] for e in run.follow() if e] == [1, 2]


def test_an_evaluation_is_on_the_disk_before_anything_is_built_on_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((run.dir / "events.jsonl").read_bytes()))
    run.event("step", step=1)
    run.event("evaluation", step=1, loss=0.5)
    run.event("step", step=2)
    assert len(synced) == 1 and synced[0].endswith(b'"loss": 0.5}\n')


def test_following_begins_at_its_offset_and_ends_with_the_worker(run: Run, worker: Any) -> None:
    run.event("step", step=1)
    offset = (run.dir / "events.jsonl").stat().st_size
    run.event("step", step=2)
    seen: list[int] = []
    for event in run.follow(poll_seconds=0.01, offset=offset):
        if event is not None:
            seen.append(event["step"])
            if event["step"] == 2:
                run.event("step", step=3)
                worker.kill()
    assert seen == [2, 3]
