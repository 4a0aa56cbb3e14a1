"""Progress of a run: one live block on a terminal, plain lines elsewhere; never silent for more than a minute."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from metier.cli.show import Show, colored, duration, figure, size, typed

SILENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0
PLAIN_SECONDS = 10.0
BAR_SECONDS = 0.1
_NOT_FIGURES = ("time", "kind", "step", "best", "loss", "seconds")


@dataclass(slots=True)
class State:
    """What is known of a run so far: its events, folded."""

    phase: str = "start"
    text: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    saved_step: int | None = None
    work: tuple[str, int, int | None] | None = None

    def apply(self, event: dict[str, Any]) -> None:
        """Take in one event of events.jsonl; unknown kinds change nothing."""
        kind = event.get("kind")
        if kind == "phase":
            self.phase, self.text, self.work = str(event["name"]), str(event.get("text", "")), None
        elif kind == "plan":
            self.steps = int(event["steps"])
        elif kind == "step":
            self.step, self.steps = int(event["step"]), int(event["steps"])
            self.loss, self.tokens_per_second = event.get("loss"), event.get("tokens_per_second")
            self.seconds_left = event.get("seconds_left")
        elif kind == "evaluation":
            self.validation = _figures(event)
            if event.get("best"):
                self.best, self.best_step = self.validation, int(event["step"])
        elif kind == "checkpoint":
            self.saved_step = int(event["step"])
        elif kind == "progress":
            total = event.get("total")
            self.work = (str(event["what"]), int(event.get("done", 0)), None if total is None else int(total))

    @property
    def doing(self) -> str:
        """What is being done, in a few words."""
        if self.work is not None:
            what, done, total = self.work
            return f"{self.phase}: {what}" + (f" {done:,}/{total:,}" if total else f" {done:,}" if done else "")
        if self.phase == "train" and self.steps:
            return f"train: step {self.step:,}/{self.steps:,}"
        return f"{self.phase}: {self.text}" if self.text else self.phase

    def block(self) -> list[str]:
        """Return the lines of the live block."""
        lines = [self.doing]
        if self.phase == "train" and self.steps:
            share = self.step / self.steps
            filled = round(30 * share)
            left = f"   {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
            lines.append(f"{'━' * filled}{'─' * (30 - filled)} {share:4.0%}{left}")
        if self.loss is not None:
            lines.append(f"loss {figure(self.loss)}")
            if self.validation:
                lines[-1] += f"   validation {_written(self.validation)}"
            if self.best_step is not None:
                lines.append(f"best {_written(self.best)} at step {self.best_step:,}")
            speed = f"{self.tokens_per_second:,.0f} tokens/s" if self.tokens_per_second else ""
            saved = f"saved at step {self.saved_step:,}" if self.saved_step is not None else "nothing saved yet"
            lines.append(f"{speed}   {saved}".strip())
        return lines


class Lines:
    """Plain lines: phases, evaluations, saves and notes at once, steps and other work at most every ten seconds."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.state = State()
        self._last_step = float("-inf")
        self._work, self._last_work = "", float("-inf")

    def feed(self, event: dict[str, Any]) -> bool:
        """Take in one event; returns whether a line told of it."""
        self.state.apply(event)
        line = self._line(event)
        if line is not None:
            self.write(f"{clock(event)}  {line}")
        return line is not None

    def silence(self, text: str) -> None:
        """Say that nothing was heard for a while."""
        self.write(f"          {text}")

    def _line(self, event: dict[str, Any]) -> str | None:
        kind = event.get("kind")
        if kind == "phase":
            return self.state.doing
        if kind == "step":
            return self._step(event)
        if kind == "evaluation":
            mark = "   best so far" if event.get("best") else ""
            return f"validation at step {event['step']:,}: {_written(_figures(event))}{mark}"
        if kind == "checkpoint":
            return f"saved {event['path']}"
        if kind == "progress":
            return self._progress(event)
        if kind == "plan":
            return planned(event)
        if kind == "note":
            return noted(event)
        if kind == "done":
            return f"done: {event.get('sentence', '')}"
        if kind == "error":
            return f"{event.get('code')} {event.get('what')}"
        return None

    def _progress(self, event: dict[str, Any]) -> str | None:
        what, moment = str(event["what"]), seconds(event)
        if what == self._work and moment - self._last_work < PLAIN_SECONDS:
            return None
        self._work, self._last_work = what, moment
        return self.state.doing

    def _step(self, event: dict[str, Any]) -> str | None:
        moment = seconds(event)
        last = event["step"] == event["steps"]
        if not last and moment - self._last_step < PLAIN_SECONDS:
            return None
        self._last_step = moment
        left = f"   {duration(event['seconds_left'])} left" if event.get("seconds_left") is not None else ""
        speed = f"   {event['tokens_per_second']:,.0f} tokens/s" if event.get("tokens_per_second") else ""
        return f"step {event['step']:,}/{event['steps']:,}   loss {figure(event.get('loss'))}{speed}{left}"


class Block:
    """The live block: rewritten in place; the plan, notes and phases that ended stay above it."""

    def __init__(self, live: Any) -> None:
        self.live = live
        self.state = State()
        self._quiet = ""

    def feed(self, event: dict[str, Any]) -> bool:
        """Show one event: the block is drawn anew for each."""
        before = self.state.phase
        self.state.apply(event)
        self._quiet = ""
        if event.get("kind") == "phase" and self.state.phase != before and before != "start":
            self.live.console.print(f"✓ {before}", style="green", highlight=False)
        if event.get("kind") == "plan":
            self.live.console.print(planned(event), highlight=False)
        if event.get("kind") == "note":
            self.live.console.print(noted(event), highlight=False, markup=False, soft_wrap=True)
        self._draw()
        return True

    def silence(self, text: str) -> None:
        """Say in the block that nothing was heard for a while."""
        self._quiet = text
        self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        lines = self.state.block() + ([self._quiet] if self._quiet else [])
        self.live.update(Text("\n".join(lines)))


class Printer(Protocol):
    """What shows events: `Lines` or `Block`."""

    state: State

    def feed(self, event: dict[str, Any]) -> bool:
        """Take in one event; returns whether its reader sees that something happened."""
        ...

    def silence(self, text: str) -> None:
        """Say that nothing was heard for a while."""
        ...


class Silence:
    """Notices when nothing was heard for a minute and says what is being done, then again each further minute."""

    def __init__(self, limit: float = SILENCE_SECONDS, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.now = now
        self.heard = self.said = now()

    def event(self) -> None:
        """Something was heard."""
        self.heard = self.said = self.now()

    def due(self) -> float | None:
        """Return the seconds of silence when it is time to say something, else None."""
        moment = self.now()
        if moment - self.said < self.limit:
            return None
        self.said = moment
        return moment - self.heard


def printer() -> AbstractContextManager[Printer]:
    """Return a live block on a terminal with color, plain lines on stderr elsewhere."""
    return _block() if colored(sys.stderr) else _lines()


@contextmanager
def counting(show_line: Callable[[str], None]) -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a callable `(what, done, total)` that says each new thing once, and its count every ten seconds.

    Where neither comes for a minute, a clock beside the work says what it was last heard of.
    """
    last_what, last_time, doing = "", 0.0, "work"

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal last_what, last_time, doing
        moment = time.monotonic()
        if what != last_what or moment - last_time >= PLAIN_SECONDS:
            last_what, last_time = what, moment
            doing = what + (f" {done:,}/{total:,}" if total else "")
            silence.event()
            show_line(doing)

    with _clock(lambda quiet: show_line(f"{duration(quiet)} without news, still at {doing}")) as silence:
        yield report


@contextmanager
def bar(show_line: Callable[[str], None]) -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a callable `(what, done, total)`: one line with a bar on a terminal with color, `counting` elsewhere."""
    if not colored(sys.stderr):
        with counting(show_line) as said:
            yield said
        return
    last, line = ("", 0.0), ""

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal last, line
        moment = time.monotonic()
        silence.event()
        if what == last[0] and done != total and moment - last[1] < BAR_SECONDS:
            return
        last, line = (what, moment), bar_line(what, done, total)
        draw(line)

    def draw(text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{_cut(text, _columns() - 1)}")
        sys.stderr.flush()

    try:
        with _clock(lambda quiet: draw(f"{line}   {duration(quiet)} without news".strip())) as silence:
            yield report
    finally:
        draw("")


@contextmanager
def _clock(say: Callable[[float], None]) -> Iterator[Silence]:
    """Give a Silence that is looked at beside the work: `say(seconds)` once a minute while nothing is heard."""
    silence, done = Silence(SILENCE_SECONDS), threading.Event()

    def look() -> None:
        while not done.wait(LOOK_SECONDS):
            if (quiet := silence.due()) is not None:
                say(quiet)

    thread = threading.Thread(target=look, name="silence", daemon=True)
    thread.start()
    try:
        yield silence
    finally:
        done.set()
        thread.join()


def _columns() -> int:
    """The width of the terminal behind stderr."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # none, or one that does not say
        return shutil.get_terminal_size().columns


def _cut(text: str, width: int) -> str:
    """Cut a text to the columns of a terminal: a line that wraps would not be overwritten whole."""
    from rich.cells import cell_len, set_cell_size

    return set_cell_size(text, width) if cell_len(text) > width else text


def bar_line(what: str, done: int, total: int | None, width: int = 30) -> str:
    """Return a bar with its share, `done/total` and what is being done; without a total the count alone."""
    if not total:
        return f"{what}" + (f" {done:,}" if done else "")
    filled = min(width, round(width * done / total))
    return f"{'━' * filled}{'─' * (width - filled)} {min(1.0, done / total):4.0%}  {what} {done:,}/{total:,}"


def planned(event: dict[str, Any]) -> str:
    """Return what a plan event predicts; an older run's has the steps alone."""
    parts = [f"plan: {event['steps']:,} steps"]
    if "tokens" in event:
        parts.append(f"{event['tokens']:,} tokens per epoch")
    if "seconds" in event:
        parts.append(f"about {duration(event['seconds'] + event.get('validation_seconds', 0.0))}")
    if "memory_bytes" in event:
        parts.append(f"{size(event['memory_bytes'])} of memory")
    return "   ".join(parts)


def noted(event: dict[str, Any]) -> str:
    """Return the text of a note, its commands as they can be typed here."""
    return typed(str(event.get("text", "")))


def clock(event: dict[str, Any]) -> str:
    """Return the local wall time of an event, `14:03:22`."""
    return datetime.fromisoformat(str(event["time"])).astimezone().strftime("%H:%M:%S")


def seconds(event: dict[str, Any]) -> float:
    """Return the time of an event in seconds since the epoch."""
    return datetime.fromisoformat(str(event["time"])).timestamp()


@contextmanager
def _lines() -> Iterator[Printer]:
    yield Lines(lambda text: Show().say(text))


@contextmanager
def _block() -> Iterator[Printer]:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield Block(live)


def _figures(event: dict[str, Any]) -> dict[str, float]:
    named = {k: v for k, v in event.items() if k not in _NOT_FIGURES and isinstance(v, int | float)}
    return {"loss": float(event["loss"]), **named} if "loss" in event else named


def _written(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {figure(value)}" for name, value in figures.items())
