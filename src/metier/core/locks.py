"""Locks between processes: one at a time, and one per project between erasures and everything else.

An erasure has the project alone, from looking for the person to the byte scan: a preparation that had read the sources
before would write their rows again behind it. It does not wait, since training may take days: it is refused (E293) and
says who is at work. Everything else (preparing, evaluating, re-identifying, the process of a run) has the project
together with others, and waits for an erasure, which is short.

The kernel drops a lock with its process, so that a stale one cannot exist. The file says who came last.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

from metier.core.errors import ConfigError, MachineError
from metier.core.project import Project, disk_errors, now

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 1.0
"""How long an erasure tries: what holds the project for an instant need not refuse it."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A")


@contextlib.contextmanager
def one_at_a_time(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let one process at a time into a block.

    Args:
        file: the lock, in a folder that is there; it is made, stays, and says nothing.
        waiting: called once where another process is in the block.

    Raises:
        MachineError: E420–E422, the lock cannot be written.
    """
    with disk_errors(file):
        lock = file.open("a")
    with lock:
        if not _taken(lock, fcntl.LOCK_EX):
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(project: Project, what: str) -> Iterator[None]:
    """Have the project alone for a block.

    Args:
        what: shown to whom it keeps waiting, such as `metier erase`.

    Raises:
        ConfigError: E293, somebody is at work in it.
        MachineError: E420–E422, the lock cannot be written.
    """
    with _opened(project) as file:
        patience = time.monotonic() + PATIENCE_SECONDS
        while not _taken(file, fcntl.LOCK_EX):
            if time.monotonic() > patience:
                raise ConfigError(
                    293,
                    "The project is in use; an erasure needs it alone",
                    place=project.name,
                    received=_holder(file),
                    expected="no preparation, run, evaluation or other erasure at the same time",
                    fix="wait until it is done, or stop it (metier runs stop), then repeat",
                )
            time.sleep(POLL_SECONDS)
        _sign(file, what)
        yield


@contextlib.contextmanager
def together(project: Project, what: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Have the project for a block, together with others; wait for an erasure.

    Args:
        what: shown to an erasure that is refused, such as `metier data prepare`.
        waiting: told once, in words, when there is an erasure to wait for.

    Raises:
        MachineError: E420, E422, the lock cannot be written.
    """
    file: IO[str] | None = None
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_opened(project))
        except MachineError as error:
            if error.number != 421:  # who may only read cannot write rows behind an erasure
                raise
        while file and not _taken(file, fcntl.LOCK_SH):
            if waiting:
                waiting(f"waiting for {_holder(file)}")
                waiting = None
            time.sleep(POLL_SECONDS)
        if file:
            _sign(file, what)
        yield


def sharing(
    what: str,
) -> Callable[[Callable[Concatenate[_A, Project, _P], _T]], Callable[Concatenate[_A, Project, _P], _T]]:
    """Run a function of (something, project, …) as `together` does; a `progress` that it gets is told of the wait."""

    def around(act: Callable[Concatenate[_A, Project, _P], _T]) -> Callable[Concatenate[_A, Project, _P], _T]:
        @functools.wraps(act)
        def acting(first: _A, project: Project, /, *args: _P.args, **words: _P.kwargs) -> _T:
            progress: Any = words.get("progress")
            with together(project, what, (lambda text: progress(text, 0, None)) if progress else None):
                return act(first, project, *args, **words)

        return acting

    return around


# ───────────────────────────────────────────────────────────────────────────── inside


@contextlib.contextmanager
def _opened(project: Project) -> Iterator[IO[str]]:
    path = project.root / "private" / ".project.lock"
    with disk_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = path.open("a+")
    with file:
        yield file


def _taken(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: IO[str], what: str) -> None:
    """Write who has the project; of several that have it together, the last one."""
    with contextlib.suppress(OSError):  # a full disk: the lock holds without words
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps({"pid": os.getpid(), "what": what, "since": now()}).encode())


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        value = json.loads(file.read())
        return f"{value['what']} (process {value['pid']}, since {value['since']}), or one beside it"
    except (ValueError, KeyError, TypeError):
        return "another process"


__all__ = ["alone", "one_at_a_time", "sharing", "together"]
