"""Look at a worker until it ends, and hand on what its user types: Ctrl+C asks it to save and stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from metier.cli.progress import Printer, Silence, printer
from metier.cli.show import Show, duration, style, typed
from metier.core.errors import Bug, ConfigError

if TYPE_CHECKING:
    from metier.core.run import Run

LOG_TAIL_LINES = 40
_EXIT = {"SIGINT": 130, "SIGTERM": 143, "killed": 130}


def foreground(run: Run, show: Show, start: Callable[[], object], *, offset: int = 0, then: bool = True) -> None:
    """Start a run and show it until it ends; Ctrl+C and SIGTERM go to the worker as requests, a second one ends it.

    Args:
        start: starts the worker; what is asked meanwhile reaches it as soon as it can hear it.
        offset: where this start's events begin in events.jsonl (a resumed run has earlier ones).
        then: whether to name the next commands.

    Raises:
        typer.Exit: 130 or 143, the run was stopped; MetierError: the error that the worker met.
    """
    with printer() as shown, _passing_signals_to(run, shown) as started:
        start()
        started()
        _feed(run, shown, offset)
    outcome(run, show, then=then)


def follow(run: Run, *, offset: int = 0) -> None:
    """Show a run until it ends; leaving with Ctrl+C stops nothing."""
    with printer() as shown:
        _feed(run, shown, offset)


def outcome(run: Run, show: Show, *, then: bool = True) -> None:
    """Print how a run ended: its sentence and report, or the command that resumes it, or its error.

    Of a bug it shows the traceback that is in the worker's log.

    Raises:
        typer.Exit: the run was stopped or met a bug; MetierError: the error that the worker met.
    """
    from metier.core import jobs

    status = run.status()
    state, reason = status["state"], str(status.get("reason") or "")
    if state == "done":
        done = list(run.events("done"))[-1:]
        value = {"run": run.number, "state": state, "dir": str(run.dir), **(_content(done[0]) if done else {})}
        show.result(value, _conclusion(value))
        if then:
            # A task head labels, and a model of texts goes on with them: neither was taught to talk.
            talks = status.get("method") not in ("classify", "cpt")
            try_it = f"metier chat {run.number} --vs base" if talks else f"metier predict {run.number} 'a text'"
            show.next(f"metier report {run.number} --open", try_it)
        return
    if state == "stopped":
        resume = f"metier runs resume {run.number}"
        show.result({"run": run.number, "state": state, "reason": reason, "dir": str(run.dir), "resume": resume})
        show.say(f"Run {run.number} is stopped. Continue with:  {style(typed(resume), 'bold')}")
        raise typer.Exit(_EXIT.get(reason, 130))
    error = jobs.failure(run)
    if error.exit_code != Bug.digit:
        raise error
    show.result({"error": error.to_json()})
    show.say(f"{log_tail(run)}\n{error.code} {error.what}  {run.log_file}")
    raise typer.Exit(error.exit_code)


def log_tail(run: Run, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of what the worker printed."""
    if not run.log_file.exists():
        return ""
    return "\n".join(run.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def end_of_events(run: Run) -> int:
    """Return the size of events.jsonl: where the next start's events will begin."""
    path = run.dir / "events.jsonl"
    return path.stat().st_size if path.exists() else 0


# ───────────────────────────────────────────────────────────────────────────── parts


def _feed(run: Run, shown: Printer, offset: int) -> None:
    from metier.core import jobs

    silence = Silence()
    for event in jobs.watch(run, offset=offset):
        if event is not None:
            if shown.feed(event):
                silence.event()
            continue
        quiet = silence.due()
        if quiet is not None:
            age = jobs.heartbeat_age(run)
            pulse = f"; the worker gave a sign of life {duration(max(age, 0))} ago" if age is not None else ""
            shown.silence(f"{duration(quiet)} without news, still at {shown.state.doing}{pulse}")


@contextmanager
def _passing_signals_to(run: Run, shown: Printer) -> Iterator[Callable[[], None]]:
    """Turn the first Ctrl+C or SIGTERM into a request to the worker, the second into its end.

    Gives a callable that says that the worker has started: a request from before is handed on then.
    """
    from metier.core import jobs

    asked: float | None = None
    begun = False
    early: int | None = None

    def started() -> None:
        nonlocal begun
        begun = True
        if early is not None:
            handle(early, None)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked, early
        if not begun:
            early = number
            return
        try:
            if asked is not None:
                # Nobody presses Ctrl+C twice by mistake; SIGTERM comes to a process and again to its group.
                if number == signal.SIGTERM and time.monotonic() - asked < jobs.REPEAT_SECONDS:
                    return
                jobs.kill(run)
            else:
                jobs.stop(run, signal.Signals(number))
                shown.silence("stopping: the step in progress ends and is saved; once more stops at once")
        except ConfigError as error:
            if error.number != 253:  # it has just ended by itself: the watcher sees that
                raise
        asked = time.monotonic()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _content(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("time", "kind")}


def _conclusion(value: dict[str, Any]) -> str:
    sentence, report = value.get("sentence", f"Run {value['run']} is done."), value.get("report")
    return f"{sentence}\nreport: {report}" if report else str(sentence)
