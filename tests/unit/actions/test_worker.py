"""The worker's own answer to signals, with its real `main`; only the training is a loop that waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metier.core.project import Project
from metier.core.run import Run

WORKER = """
import fcntl, sys, time, types
from pathlib import Path
from metier.core import jobs

run_dir, seconds, repeat = sys.argv[1], float(sys.argv[2]), sys.argv[3]
jobs.REPEAT_SECONDS = float(repeat)

def execute(run, project, stop):
    stop.deferred = True
    run.event("phase", name="train", text="")
    while stop.signal is None:
        time.sleep(0.01)
    with (run.dir / "status.lock").open("a") as lock:  # the signal may come while the worker writes its own status
        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(0.8)
    time.sleep(seconds)
    (run.dir / "saved").touch()
    stop.now()

sys.modules["metier.actions.execute"] = types.SimpleNamespace(execute=execute)
from metier.actions import worker
sys.exit(worker.main(run_dir))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))
    project = Project.create(tmp_path / "p", "p")
    return Run.create(project.new_run_dir("sft", "x"))


def work(run: Run, *, save_seconds: float, repeat_seconds: float) -> subprocess.Popen[str]:
    script = run.dir.parents[1] / "worker.py"
    script.write_text(WORKER)
    process = subprocess.Popen([sys.executable, str(script), str(run.dir), str(save_seconds), str(repeat_seconds)])
    patience = time.monotonic() + 60
    while not any(event["name"] == "train" for event in run.events("phase")):
        assert time.monotonic() < patience and process.poll() is None
        time.sleep(0.02)
    return process


def test_a_request_that_comes_twice_is_one_request(run: Run) -> None:
    process = work(run, save_seconds=0.5, repeat_seconds=2.0)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.15)
    os.kill(process.pid, signal.SIGTERM)  # once from whoever asked the group, once handed on by the foreground
    assert process.wait(timeout=60) == 143
    status = run.status()
    assert (run.dir / "saved").exists()
    assert (status["state"], status["reason"], status["resume"]) == ("stopped", "SIGTERM", "metier runs resume 1")


def test_a_second_request_later_ends_it_at_once_and_the_run_says_stopped(run: Run) -> None:
    process = work(run, save_seconds=60, repeat_seconds=0.1)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    status = run.status()
    assert not (run.dir / "saved").exists()
    assert (status["state"], status["reason"], status["resume"]) == ("stopped", "SIGINT", "metier runs resume 1")
    assert [e["code"] for e in run.events("note")] == ["stopped"]
