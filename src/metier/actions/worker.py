"""The process of one run: `python -m metier.actions.worker RUN_DIR`.

compose → train → evaluate → report. Everything it finds goes to events.jsonl and status.json, where the command line
and the web page read it. SIGINT or SIGTERM is a request to stop: the step in progress ends, a checkpoint is written,
the run can be resumed; a second signal ends the process at once, if it is not the first one sent twice. SIGHUP stops
nothing.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from metier.core import jobs
from metier.core.errors import MachineError, MetierError
from metier.core.locks import together
from metier.core.project import Project, disk_errors
from metier.core.run import Run

RESERVE_BYTES = 1 << 16
"""Set aside while a run works, so that on a full disk its last words can still be written."""


class Stopped(BaseException):
    """Somebody asked the run to stop."""


class StopRequest:
    """Turns the first signal into a request and a later one into an end.

    Inside the training loop the request waits for the step to end; elsewhere it interrupts, since every write is
    atomic and every phase can be repeated.
    """

    def __init__(self, run: Run) -> None:
        self.signal: int | None = None
        self.deferred = False
        self._run = run
        self._since = 0.0
        self._ending = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if not self._ending and time.monotonic() - self._since >= jobs.REPEAT_SECONDS:
                self._ending = True
                # In a thread, since what the signal has interrupted may hold the lock of the status file; and a bare
                # one, since it may hold a lock of `threading` as well.
                _thread.start_new_thread(self._end, (self.signal,))
            return
        self.signal, self._since = number, time.monotonic()
        if not self.deferred:
            self.now()

    def now(self) -> None:
        """End the run's work here."""
        raise Stopped

    def _end(self, number: int) -> None:
        """End the process without a save; of a run that it holds, the state says so."""
        try:
            if self._run.pid() == os.getpid():
                _say_stopped(self._run, number, "stopped at once on a second request")
        finally:
            os._exit(128 + number)


def main(run_dir: str) -> int:
    """Run one run directory to its end and return the exit code."""
    run = Run(Path(run_dir))
    stop = StopRequest(run)
    try:
        run.hold()
    except MetierError as error:  # another worker has it: nothing of the run may be touched
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        project = Project.find(run.dir)
        run.move("running", pid=os.getpid())
        _set_aside(run)
        with ExitStack() as stack:
            stack.enter_context(jobs.heartbeat(run))
            run.event("phase", name="queue", text="waiting for the machine's compute slot")
            stack.enter_context(jobs.compute_slot(run))
            stack.enter_context(together(project, f"run {run.number}", lambda text: _waits(run, text)))
            # torch; imported once the run can report a failure
            from metier.actions.execute import execute

            execute(run, project, stop)
        run.move("done")
        return 0
    except Stopped:
        number = stop.signal or signal.SIGTERM
        _say_stopped(run, number, "stopped on request")
        return 128 + number
    except MetierError as error:
        return _failed(run, error)
    except Exception as error:
        if refusal := _of_the_disk(error, run):
            return _failed(run, refusal)
        run.event(
            "error",
            exit_code=1,
            code="E100",
            what=f"{type(error).__name__}: a bug in Metier",
            place="log.txt",
            received="",
            expected="",
            fix=f"metier runs logs {run.number} shows the traceback",
        )
        run.move("failed", reason="E100")
        traceback.print_exc()
        return 1
    finally:
        _give_back(run)
        run.release()


# ───────────────────────────────────────────────────────────────────────────── the last words


def _say_stopped(run: Run, number: int, text: str) -> None:
    """Write down that the run was stopped, and the command that continues it."""
    _give_back(run)
    resume = f"metier runs resume {run.number}"
    run.event("note", code="stopped", text=f"{text}; continue with: {resume}")
    run.move("stopped", reason=signal.Signals(number).name, resume=resume)


def _failed(run: Run, error: MetierError) -> int:
    """Write down why the run failed and return the exit code."""
    _give_back(run)
    # Where even the reserve was taken by another process, the silence says it: whoever watches reads `worker-lost`.
    with contextlib.suppress(MachineError):
        run.event("error", exit_code=error.exit_code, **error.to_json())
        run.move("failed", reason=error.code)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
    return error.exit_code


def _of_the_disk(error: Exception, run: Run) -> MachineError | None:
    """Return the coded error where a library met a full or closed disk; anything else is a bug."""
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return None
    try:
        with disk_errors(Path(getattr(error, "filename", None) or run.dir)):
            raise error
    except MachineError as refusal:
        return refusal


def _waits(run: Run, text: str) -> None:
    run.event("phase", name="queued", text=text)


def _set_aside(run: Run) -> None:
    with disk_errors(run.dir):
        (run.dir / ".reserve").write_bytes(os.urandom(RESERVE_BYTES))


def _give_back(run: Run) -> None:
    with contextlib.suppress(OSError):
        (run.dir / ".reserve").unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
