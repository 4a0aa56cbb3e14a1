from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from metier.core import jobs
from metier.core.errors import ConfigError, MachineError
from metier.core.run import Run

WORKER = """
import signal, sys, time
from pathlib import Path
from metier.core import jobs
from metier.core.run import Run

run = Run(Path(sys.argv[1]))
run.hold()
asked = []
signal.signal(signal.SIGTERM, lambda n, f: asked.append(n))
signal.signal(signal.SIGINT, lambda n, f: asked.append(n))
run.move("running")
print("hello from the worker", flush=True)
with jobs.heartbeat(run, seconds=0.05), jobs.compute_slot(run, poll_seconds=0.02):
    run.event("phase", name="train", text="")
    for step in range(int(sys.argv[2])):
        if asked:
            run.move("stopped", reason=signal.Signals(asked[0]).name)
            sys.exit(128 + asked[0])
        time.sleep(0.02)
run.move("done")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture(autouse=True)
def own_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))


def make(tmp_path: Path, number: int = 1) -> Run:
    folder = tmp_path / "proj" / "runs" / f"{number:04d}-aaaa-sft-x"
    folder.mkdir(parents=True)
    return Run.create(folder)


def argv(script: Path, run: Run, steps: int) -> list[str]:
    return [sys.executable, str(script), str(run.dir), str(steps)]


def until(condition: object, seconds: float = 20.0) -> None:
    patience = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < patience, "it did not happen in time"
        time.sleep(0.01)


def test_a_worker_runs_in_its_own_session_and_its_output_is_kept(tmp_path: Path, script: Path) -> None:
    run = make(tmp_path)
    pid = jobs.start(argv(script, run, 10_000), run)
    assert run.pid() == pid
    assert os.getsid(pid) == pid != os.getsid(0)
    assert jobs.stop(run) == pid
    events = [e for e in jobs.watch(run) if e is not None]
    assert [e["name"] for e in events] == ["train"]
    assert (run.status()["state"], run.status()["reason"]) == ("stopped", "SIGTERM")
    assert "hello from the worker" in run.log_file.read_text()


def test_a_closed_terminal_stops_nothing(tmp_path: Path, script: Path) -> None:
    run = make(tmp_path)
    starter = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from metier.core import jobs
        from metier.core.run import Run
        run = Run(Path(sys.argv[2]))
        jobs.start([sys.executable, *sys.argv[1:]], run)
        import os, signal
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.kill(os.getpid(), signal.SIGHUP)
        """
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", starter, str(script), str(run.dir), "20"], check=False, timeout=60)
    assert done.returncode == -signal.SIGHUP
    for _ in jobs.watch(run):
        pass
    assert run.status()["state"] == "done"


def test_starting_a_run_twice_is_refused(tmp_path: Path, script: Path) -> None:
    run = make(tmp_path)
    jobs.start(argv(script, run, 10_000), run)
    with pytest.raises(ConfigError, match="E234"):
        jobs.start(argv(script, run, 1), run)
    jobs.kill(run)


def test_a_worker_that_ends_before_it_begins_says_where_its_words_are(tmp_path: Path) -> None:
    run = make(tmp_path)
    with pytest.raises(MachineError) as caught:
        jobs.start([sys.executable, "-c", "raise SystemExit('no such thing')"], run)
    assert (caught.value.code, caught.value.place) == ("E451", str(run.log_file))
    assert "no such thing" in run.log_file.read_text()


def test_a_kill_ends_it_at_once_and_is_written_down(tmp_path: Path, script: Path) -> None:
    run = make(tmp_path)
    pid = jobs.start(argv(script, run, 10_000), run)
    jobs.kill(run)
    assert not run.held()
    assert (run.status()["state"], run.status()["reason"]) == ("stopped", "killed")
    until(lambda: not Path(f"/proc/{pid}").exists() if Path("/proc").exists() else True)


def test_a_kill_that_comes_too_late_leaves_a_done_run_done(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    run.update(state="done")
    monkeypatch.setattr(Run, "pid", lambda self: 2**22 + 1)  # it ended between the look and the signal
    jobs.kill(run)
    assert run.status()["state"] == "done"


def test_nothing_to_stop(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="E253"):
        jobs.stop(make(tmp_path))


def test_watching_a_run_that_nobody_started_ends(tmp_path: Path) -> None:
    assert [e for e in jobs.watch(make(tmp_path)) if e] == []


def test_the_heartbeat_goes_on_while_the_worker_works(tmp_path: Path, script: Path) -> None:
    run = make(tmp_path)
    assert jobs.heartbeat_age(run) is None
    jobs.start(argv(script, run, 10_000), run)
    until(lambda: "heartbeat" in run.status())
    first = run.status()["heartbeat"]
    until(lambda: run.status()["heartbeat"] > first)
    age = jobs.heartbeat_age(run)
    assert age is not None
    assert age < 10
    jobs.kill(run)


def test_one_run_computes_and_the_other_says_for_whom_it_waits(tmp_path: Path, script: Path) -> None:
    first, second = make(tmp_path, 1), make(tmp_path, 2)
    jobs.start(argv(script, first, 10_000), first)
    until(lambda: jobs.slot_holder())
    assert jobs.slot_holder() is not None
    jobs.start(argv(script, second, 1), second)
    until(lambda: second.status().get("phase") == "queued")
    assert [e["text"] for e in second.events("phase")] == ["waiting for run 1 of proj"]
    jobs.kill(first)
    for _ in jobs.watch(second):
        pass
    assert second.status()["state"] == "done"
    assert second.status()["phase"] is None
    assert [e["name"] for e in second.events("phase")] == ["queued", "train"]
    assert jobs.slot_holder() is None


def test_a_run_that_was_stopped_while_it_waited_is_no_longer_queued_once_it_computes(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.update(phase="queued")
    with jobs.compute_slot(run):
        assert run.status()["phase"] is None


def test_an_exception_ends_the_wait_for_the_slot(tmp_path: Path) -> None:
    first, second = make(tmp_path, 1), make(tmp_path, 2)
    timer = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGUSR1])

    class Enough(Exception):
        pass

    def handler(*_: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with jobs.compute_slot(first):
            assert json.loads(jobs._slot_file().read_text())["pid"] == os.getpid()
            timer.start()
            with pytest.raises(Enough), jobs.compute_slot(second, poll_seconds=30):
                raise AssertionError("two have the slot")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert jobs.slot_holder() is None
