"""A foreground run with a real worker: what Ctrl+C, SIGTERM and a second Ctrl+C do, and how each end is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metier.cli import watch
from metier.cli.progress import Lines, Silence
from metier.core import jobs
from metier.core.project import Project
from metier.core.run import Run

WORKER = """
import signal, sys, time
from pathlib import Path
from metier.core.run import Run

run, how = Run(Path(sys.argv[1])), sys.argv[2]
asked = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, f: asked.append(n))
if how == "slow":
    (run.dir / "begun").touch()
    time.sleep(2)
run.hold()
run.move("running")
run.event("phase", name="train", text="")
if how == "error":
    run.event("error", code="E412", what="Memory ran out", place="step 2", fix="smaller", exit_code=4)
    run.move("failed", reason="E412")
    sys.exit(4)
if how == "bug":
    run.event("error", code="E100", what="ValueError: a bug in Metier", exit_code=1)
    run.move("failed", reason="E100")
    raise ValueError("the traceback")
if how == "lost":
    import os
    os.kill(os.getpid(), signal.SIGKILL)
while how != "done":
    if asked and how != "stubborn":
        time.sleep(0.2)
        run.move("stopped", reason=signal.Signals(asked[0]).name)
        sys.exit(128 + asked[0])
    time.sleep(0.02)
run.event("done", sentence="Worth it.", report="r.html", verdict="worth_it")
run.move("done")
"""
FOREGROUND = """
import signal, sys, typer
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
from pathlib import Path
from metier.cli import app, watch
from metier.cli.show import Show
from metier.cli import watch
from metier.cli.progress import Lines, Silence
from metier.core import jobs
from metier.core.project import Project
from metier.core.run import Run

def find():
    run = Run(Path(sys.argv[2]))
    watch.foreground(run, Show("--json" in sys.argv), lambda: jobs.start([sys.executable, *sys.argv[1:4]], run))
    raise typer.Exit

Project.find = staticmethod(find)
sys.exit(app.run(["runs", "ls", *sys.argv[4:]]))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "p" / "runs" / "0001-aaaa-sft-x"
    folder.mkdir(parents=True)
    (tmp_path / "worker.py").write_text(WORKER)
    return Run.create(folder)


def foreground(run: Run, how: str, *flags: str) -> subprocess.Popen[str]:
    worker = run.dir.parents[2] / "worker.py"
    return subprocess.Popen(
        [sys.executable, "-c", FOREGROUND, str(worker), str(run.dir), how, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until_running(run: Run) -> None:
    patience = time.monotonic() + 20
    while run.status()["state"] != "running" or not run.held():
        assert time.monotonic() < patience
        time.sleep(0.02)
    time.sleep(0.5)  # the watcher's own handlers


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_request_saves_stops_and_prints_the_resume_command(run: Run, number: signal.Signals, code: int) -> None:
    process = foreground(run, "work")
    until_running(run)
    os.killpg(process.pid, number)  # as a terminal does: the worker has its own session and must not get it twice
    returned, _, err = ends(process)
    assert returned == code
    assert "metier runs resume 1" in err
    assert "Traceback" not in err
    assert (run.status()["state"], run.status()["reason"]) == ("stopped", number.name)


def test_a_request_that_comes_before_the_worker_can_hear_it_is_handed_on(run: Run) -> None:
    process = foreground(run, "slow")
    patience = time.monotonic() + 20
    while not (run.dir / "begun").exists():
        assert time.monotonic() < patience
        time.sleep(0.02)
    assert not run.held()
    process.send_signal(signal.SIGINT)
    returned, _, err = ends(process)
    assert returned == 130
    assert "metier runs resume 1" in err and "Traceback" not in err
    assert (run.status()["state"], run.status()["reason"]) == ("stopped", "SIGINT")


def test_a_second_ctrl_c_stops_at_once(run: Run) -> None:
    process = foreground(run, "stubborn")
    until_running(run)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.held()
    process.send_signal(signal.SIGINT)
    returned, _, err = ends(process)
    assert returned == 130
    assert "once more stops at once" in err
    assert (run.status()["state"], run.status()["reason"]) == ("stopped", "killed")


def test_a_sigterm_that_comes_twice_is_one_request(run: Run) -> None:
    process = foreground(run, "stubborn")
    until_running(run)
    process.terminate()
    time.sleep(0.3)
    process.terminate()  # `timeout` and batch systems ask the process and then its group
    time.sleep(0.3)
    assert run.held()
    process.send_signal(signal.SIGINT)
    assert ends(process)[0] == 130


def test_a_closed_terminal_leaves_the_worker_at_work(run: Run) -> None:
    process = foreground(run, "work")
    until_running(run)
    os.killpg(process.pid, signal.SIGHUP)
    assert ends(process)[0] == -signal.SIGHUP
    assert run.held()
    os.kill(run.pid() or 0, signal.SIGTERM)


def test_followed_as_json_the_events_come_one_per_line_while_the_worker_is_at_work(run: Run) -> None:
    Project.create(run.dir.parents[1], "p")
    jobs.start([sys.executable, str(run.dir.parents[2] / "worker.py"), str(run.dir), "work"], run)
    command = [sys.executable, "-m", "metier.cli", "runs", "logs", str(run.dir), "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None and follower.stderr is not None
        assert json.loads(follower.stdout.readline())["kind"] == "phase"
        assert run.held(), "the line came while the worker was at work"
        run.event("note", text="two\nlines")
        assert json.loads(follower.stdout.readline())["text"] == "two\nlines"
        jobs.stop(run)
        assert follower.stdout.read() == ""
        assert follower.wait(timeout=30) == 0
        assert follower.stderr.read() == ""


def test_the_end_is_told_on_stdout(run: Run) -> None:
    code, out, err = ends(foreground(run, "done"))
    assert (code, out) == (0, "Worth it.\nreport: r.html\n")
    assert "metier chat 1 --vs base" in err


def test_the_end_as_json(run: Run) -> None:
    code, out, _ = ends(foreground(run, "done", "--json"))
    value: dict[str, Any] = json.loads(out)
    assert (code, value["state"], value["verdict"], value["report"]) == (0, "done", "worth_it", "r.html")


def test_the_workers_error_becomes_the_commands(run: Run) -> None:
    code, _, err = ends(foreground(run, "error"))
    assert code == 4
    assert "E412 Memory ran out  step 2\n     next: smaller" in err
    assert "Traceback" not in err


def test_a_bug_of_the_worker_shows_its_traceback(run: Run) -> None:
    code, _, err = ends(foreground(run, "bug"))
    assert code == 1
    assert "ValueError: the traceback" in err


def test_a_worker_killed_by_the_system_says_so(run: Run) -> None:
    code, _, err = ends(foreground(run, "lost"))
    assert code == 4
    assert "E454" in err
    assert "metier runs resume 1" in err


def test_events_that_show_nothing_do_not_break_the_silence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr(watch, "Silence", lambda: Silence(60, now=lambda: moment[0]))

    def events(run: Run, offset: int) -> Iterator[dict[str, Any] | None]:
        for second in range(0, 150):
            moment[0] = second
            if second in (0, 100):
                yield {"time": "2026-01-01T00:00:00Z", "kind": "phase", "name": "train", "text": "steps"}
            yield {"time": "2026-01-01T00:00:00Z", "kind": "something-new"}
            yield None

    monkeypatch.setattr(jobs, "watch", events)
    written: list[str] = []
    watch._feed(run, Lines(written.append), 0)
    assert [line.split("  ")[-1] for line in written] == [
        "train: steps",
        "1 min 00 s without news, still at train: steps",
        "train: steps",
    ]
