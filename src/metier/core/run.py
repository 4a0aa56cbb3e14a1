"""Run: the handle on one run directory.

    runs/0012-7f3a-sft-support/
      recipe.yaml  recipe.resolved.yaml  recipe.lines.json  plan.json  environment.json  status.json  events.jsonl
      log.txt
      checkpoints/step-000200/  best.json  predictions/  report.{html,md,json}  README.md
      evaluations/validation-step-000200/

State machine:  created → running → done | stopped | failed;  stopped and failed may run again (resume).
A run is *held* by the process that has the lock on run.lock; the operating system drops it when that process dies,
so a stale lock cannot exist.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from metier.core.errors import ConfigError
from metier.core.project import disk_errors, now, read_json, write_json

State = Literal["created", "running", "stopped", "failed", "done"]
KEPT = ("evaluation",)
"""Kinds of events that are on the disk before `event` returns: a resume chooses the best checkpoint by them."""
MOVES: dict[State, tuple[State, ...]] = {
    "created": ("running", "failed", "stopped"),
    "running": ("done", "stopped", "failed"),
    "stopped": ("running",),
    "failed": ("running",),
    "done": (),
}


class Run:
    """One run directory: status, events, lock. Weights are the business of training/checkpoint.py."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self._lock: IO[str] | None = None
        self._mutex = threading.Lock()

    # ── what it is ──

    @property
    def id(self) -> str:
        """The number with its hex, such as `0012-7f3a`."""
        return "-".join(self.dir.name.split("-")[:2])

    @property
    def number(self) -> int:
        """The number a user types."""
        return int(self.dir.name.partition("-")[0])

    @property
    def checkpoints_dir(self) -> Path:
        """`checkpoints/step-000200/`."""
        return self.dir / "checkpoints"

    @property
    def predictions_dir(self) -> Path:
        """Predictions of the run and of the base, one JSONL per split and model."""
        return self.dir / "predictions"

    @property
    def evaluations_dir(self) -> Path:
        """Evaluations of another split or checkpoint than the run's own report: `validation-step-000200/`."""
        return self.dir / "evaluations"

    @property
    def log_file(self) -> Path:
        """What the worker printed."""
        return self.dir / "log.txt"

    def report_of_another(self) -> str:
        """Return which checkpoint the run's own report is of where that is not the chosen one; else empty.

        A run that was stopped, measured and resumed may have chosen another since.
        """
        report, best = self.dir / "report.json", self.dir / "best.json"
        if not (report.is_file() and best.is_file()):
            return ""
        step = read_json(report).get("training", {}).get("best_step")
        of = "" if step is None else f"step-{int(step):06d}"
        return of if of != read_json(best)["checkpoint"] else ""

    # ── status ──

    @classmethod
    def create(cls, folder: Path, **fields: Any) -> Run:
        """Start the status file of a fresh directory."""
        run = cls(folder)
        write_json(folder / "status.json", {"state": "created", "created": now(), **fields})
        return run

    def status(self) -> dict[str, Any]:
        """Return the status; a `running` whose process is gone is reported as `failed` (`reason: worker-lost`)."""
        value = read_json(self.dir / "status.json")
        if value["state"] == "running" and not self.held():
            value = {**value, "state": "failed", "reason": "worker-lost"}
        return value

    def move(self, state: State, **fields: Any) -> None:
        """Change the state.

        Raises:
            ConfigError: E233, a move that the state machine does not have.
        """
        status = self.status()
        if state not in MOVES[status["state"]]:
            raise ConfigError(
                233,
                f"Run {self.number} is {status['state']}; it cannot become {state}",
                place=str(self.dir),
                fix="metier runs show " + str(self.number),
            )
        self.update(**{"state": state, state: now(), "reason": None, **fields})

    def update(self, **fields: Any) -> None:
        """Merge fields into the status file; safe against another thread or process that does the same."""
        with disk_errors(self.dir), (self.dir / "status.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            value = read_json(self.dir / "status.json")
            value.update(fields)
            write_json(self.dir / "status.json", value)

    # ── events ──

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event; kinds: phase, plan, trunk, step, evaluation, checkpoint, note, done, error.

        An evaluation survives a power cut, as the checkpoint that is chosen by it does.
        """
        path = self.dir / "events.jsonl"
        line = json.dumps({"time": now(), "kind": kind, **fields}, ensure_ascii=False).encode() + b"\n"
        with disk_errors(path), path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                # A kill or a full disk may have cut the last line off: this one must not be lost with it.
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            if kind in KEPT:
                file.flush()
                os.fsync(file.fileno())

    def events(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the events, oldest first; a line cut off by a kill is passed over."""
        path = self.dir / "events.jsonl"
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if kind is None or value.get("kind") == kind:
                    yield value

    def follow(self, *, poll_seconds: float = 0.2, offset: int = 0) -> Iterator[dict[str, Any] | None]:
        """Yield events as they come, and None when nothing came for a poll; ends when nobody holds the run any more.

        `offset` is where to begin in events.jsonl, in bytes: a resumed run's earlier events lie before it.
        """
        path = self.dir / "events.jsonl"
        rest = b""
        while True:
            alive = self.held()
            if path.exists():
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read()
                offset += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError:
                        continue  # cut off by a kill
                if lines:
                    continue
            if not alive and self.status()["state"] != "created":
                return
            yield None
            time.sleep(poll_seconds)

    # ── the lock ──

    def hold(self) -> None:
        """Take the run for this process; released by `release` or by the process's end.

        Raises:
            ConfigError: E234, another process has it.
        """
        with disk_errors(self.dir):
            file = (self.dir / "run.lock").open("a+")
        for patience in range(50, -1, -1):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience:
                    time.sleep(0.01)  # somebody may only be looking: `held` takes a shared lock for an instant
                    continue
                file.close()
                raise ConfigError(
                    234,
                    f"Run {self.number} is running already",
                    place=str(self.dir),
                    fix=f"metier runs logs -f {self.number}",
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file
        if read_json(self.dir / "status.json")["state"] == "running":
            # Its process died without a word; from now on `status` would take us for it.
            self.update(state="failed", reason="worker-lost")

    def release(self) -> None:
        """Give the run back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def held(self) -> bool:
        """Return whether some process has the run."""
        if self._lock is not None:
            return True
        path = self.dir / "run.lock"
        if not path.exists():
            return False
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def pid(self) -> int | None:
        """Return the process that holds the run, if any does."""
        if not self.held():
            return None
        text = (self.dir / "run.lock").read_text().strip()
        return int(text) if text.isdigit() else None
