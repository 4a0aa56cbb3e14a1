"""Jobs: a run's worker is a process of its own, in a session of its own.

The command line, the web page and `logs -f` only look at it: closing any of them stops nothing (SIGHUP does not reach
another session). What stops it is a request: SIGINT (Ctrl+C in a foreground `metier train`) or SIGTERM (`metier runs
stop`) ask it to save and end; a second request, two seconds later or more, ends it at once.

    the one who starts                      the worker
    start(argv, run)     ── spawns ──▶      run.hold()
    watch(run)           ◀─ events ──       with heartbeat(run), compute_slot(run): …
    stop(run), kill(run) ── signal ──▶      its own handlers (actions/worker.py)

One machine has one compute slot per user; runs that wait for it say so as their phase `queued`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metier.core.errors import ConfigError, MachineError, MetierError, from_json
from metier.core.extras import cache_dir, user_dir
from metier.core.project import disk_errors, now, run_number
from metier.core.run import Run

HEARTBEAT_SECONDS = 10.0
START_SECONDS = 120.0
KILL_SECONDS = 10.0
LOOK_SECONDS = 0.05
REPEAT_SECONDS = 2.0
"""A request that comes again within this time is the same one: batch systems ask every process of a group, and the
foreground hands on what it gets."""


# ───────────────────────────────────────────────────────────────────────────── from outside


def start(argv: Sequence[str], run: Run) -> int:
    """Start a worker in its own session, wait until it holds the run, and return its process id.

    Args:
        argv: the worker's command line; its first act must be `run.hold()`.
        run: its run; stdout and stderr go to its log.txt.

    Raises:
        ConfigError: E234, the run is running already.
        MachineError: E451, the worker ended or said nothing before it held the run; E420–E422, no log can be written.
    """
    if run.held():
        raise ConfigError(
            234, f"Run {run.number} is running already", place=str(run.dir), fix=f"metier runs logs -f {run.number}"
        )
    before = run.status()
    with disk_errors(run.log_file), run.log_file.open("ab") as log:
        worker = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=worker_environment()
        )
    patience = time.monotonic() + START_SECONDS
    while time.monotonic() < patience:
        if run.held():
            _reap(worker)
            return worker.pid
        code = worker.poll()
        if code is not None and (code == 0 or run.status() != before):
            return worker.pid  # it was quick: its status and events say how it went
        if code is not None:
            break
        time.sleep(0.05)
    else:
        worker.kill()
    raise MachineError(
        451,
        f"The worker of run {run.number} ended before it began (exit code {worker.wait()})",
        place=str(run.log_file),
        fix=f"metier runs logs --worker {run.number}",
    )


def worker_environment() -> dict[str, str]:
    """Return the environment of a worker: as here, but OpenMP threads spin only briefly before they sleep.

    By default they spin for as long as it takes, which beside any other busy process costs most of the speed. A short
    spin keeps 94 % of a quiet machine's speed and nearly all that sleeping gains on a busy one (LOG.md, 2026-11-21).
    torch.compile keeps its code in the user's own folder instead of the system's temporary one, where others could put
    theirs, and compiles in the worker itself: a pool of helpers would outlive a kill.
    What the user has set stays.
    """
    own = {
        "GOMP_SPINCOUNT": "1000",
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir() / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    return {**own, **os.environ}


def watch(run: Run, *, offset: int = 0) -> Iterator[dict[str, Any] | None]:
    """Yield the run's events as they come and None when nothing came; ends with the worker.

    Unlike `Run.follow` it also ends when the worker died before it said that it runs.
    """
    for event in run.follow(offset=offset):
        yield event
        if event is None and not run.held() and run.status()["state"] == "created":
            return


def stop(run: Run, how: signal.Signals = signal.SIGTERM) -> int:
    """Ask the worker to save and end; returns its process id at once.

    Raises:
        ConfigError: E253, the run is not running.
    """
    pid = run.pid()
    if pid is None:
        raise ConfigError(
            253,
            f"Run {run.number} is not running",
            place=str(run.dir),
            received=f"state {run.status()['state']}",
            fix=f"metier runs show {run.number}",
        )
    with contextlib.suppress(ProcessLookupError):  # it ended in this instant, which is what was wanted
        os.kill(pid, how)
    return pid


def kill(run: Run) -> None:
    """End the worker and its children at once, without a save; the last checkpoint stays whole.

    Raises:
        MachineError: E452, the process does not go away.
    """
    pid = run.pid()
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        # A worker leads its own session; one that runs inside another process (a notebook, a test) has no group to end.
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    patience = time.monotonic() + KILL_SECONDS
    while run.held():
        if time.monotonic() > patience:
            raise MachineError(
                452,
                f"Process {pid} of run {run.number} does not end",
                place=str(run.dir),
                fix=f"it waits for a disk or a device; end it with: kill -9 {pid}",
            )
        time.sleep(0.02)
    if run.status()["state"] != "done":  # it may have ended well in the last instant
        run.update(state="stopped", stopped=now(), reason="killed")


def failure(run: Run) -> MetierError:
    """Return why a failed run failed: the error that its worker wrote down, or E454 where it wrote none."""
    # A worker that was lost wrote no error: the last one is of an earlier start.
    found = list(run.events("error"))[-1:] if run.status().get("reason") != "worker-lost" else []
    if found:
        return from_json(found[0])
    return MachineError(
        454,
        f"The worker of run {run.number} is gone without a word (killed, or the machine ran out of memory)",
        place=str(run.log_file),
        fix=f"metier runs resume {run.number}",
    )


def heartbeat_age(run: Run) -> float | None:
    """Return the seconds since the worker's last sign of life, or None when it never gave one."""
    beat = run.status().get("heartbeat")
    return None if beat is None else (datetime.now(UTC) - datetime.fromisoformat(str(beat))).total_seconds()


def slot_holder() -> dict[str, Any] | None:
    """Return who has this machine's compute slot (`pid`, `run`, `since`), or None when it is free."""
    path = _slot_file()
    if not path.exists():
        return None
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_slot(path)
    return None


# ───────────────────────────────────────────────────────────────────────────── inside the worker


@contextlib.contextmanager
def heartbeat(run: Run, seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Write `heartbeat: <time>` into the status file every so many seconds, from a thread."""
    done = threading.Event()

    def beat() -> None:
        while True:
            # A full disk must not end the run from a side thread: the run meets it at its own next write, and a
            # heartbeat that stays behind is exactly what there is to see until then.
            with contextlib.suppress(MachineError):
                run.update(heartbeat=now())
            if done.wait(seconds):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def compute_slot(run: Run, *, poll_seconds: float = 0.5) -> Iterator[None]:
    """Hold this machine's compute slot; wait for it with the visible phase `queued`.

    A signal handler that raises ends the wait. The operating system frees the slot of a process that dies.

    Raises:
        MachineError: E421, the slot's file cannot be written.
    """
    path = _slot_file()
    with disk_errors(path):
        file = path.open("a+")
    with file:
        waiting = False
        if not _try_lock(file.fileno()):
            time.sleep(LOOK_SECONDS)  # somebody may only be looking: `slot_holder` takes a shared lock for an instant
            while not _try_lock(file.fileno()):
                if not waiting:
                    waiting = True
                    run.event("phase", name="queued", text=f"waiting for {_describe(_read_slot(path))}")
                    run.update(phase="queued")
                time.sleep(poll_seconds)
        if waiting or run.status().get("phase"):  # an earlier start may have been stopped while it waited
            run.update(phase=None)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "run": str(run.dir), "since": now()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


# ───────────────────────────────────────────────────────────────────────────── small parts


def _slot_file() -> Path:
    # Home directories are shared between machines more often than not: the slot is the machine's.
    return user_dir("state") / f"compute-{socket.gethostname()}.lock"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_slot(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError:  # taken, and not yet written
        return {}
    return value if isinstance(value, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    folder = Path(str(holder.get("run", "")))
    number = run_number(folder.name)
    return "another run" if number is None else f"run {number} of {folder.parent.parent.name}"


def _reap(worker: subprocess.Popen[bytes]) -> None:
    """Collect the exit status in the background: no zombie stays while the starter lives."""
    threading.Thread(target=worker.wait, name=f"worker-{worker.pid}", daemon=True).start()
