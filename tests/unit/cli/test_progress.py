from __future__ import annotations

import io
import re
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from metier.cli import progress
from metier.cli.progress import Block, Lines, Silence, State, bar, bar_line, clock, counting


def event(kind: str, second: int = 0, **fields: Any) -> dict[str, Any]:
    return {"time": f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.000Z", "kind": kind, **fields}


STORY = [
    event("phase", name="prepare", text="data"),
    event("progress", what="tokenise train", done=10, total=40),
    event("plan", steps=40),
    event("phase", name="train", text="step 0 of 40"),
    event("step", 1, step=10, steps=40, loss=2.0, tokens_per_second=1234.5, seconds_left=90.0),
    event("evaluation", 2, step=10, best=True, loss=1.9, accuracy=0.5),
    event("checkpoint", 3, step=10, path="step-000010"),
    event("step", 4, step=20, steps=40, loss=1.5, tokens_per_second=1300.0, seconds_left=60.0),
    event("evaluation", 5, step=20, best=False, loss=1.95, accuracy=0.6),
]


def test_the_block_shows_step_eta_losses_best_speed_and_save() -> None:
    state = State()
    for one in STORY:
        state.apply(one)
    assert state.block() == [
        "train: step 20/40",
        "━" * 15 + "─" * 15 + "  50%   1 min 00 s left",
        "loss 1.5   validation loss 1.95, accuracy 0.6",
        "best loss 1.9, accuracy 0.5 at step 10",
        "1,300 tokens/s   saved at step 10",
    ]


def test_the_plan_is_told_with_its_figures_in_lines_and_above_the_block() -> None:
    plan = event("plan", steps=1200, examples=800, tokens=45_678, seconds=200.4, memory_bytes=1_234_000_000)
    expected = "plan: 1,200 steps   45,678 tokens per epoch   about 3 min 20 s   1.2 GB of memory"
    written: list[str] = []
    Lines(written.append).feed(plan)
    assert written == [f"{clock(plan)}  {expected}"]
    kept: list[str] = []
    live = SimpleNamespace(console=SimpleNamespace(print=lambda text, **_: kept.append(text)), update=lambda _: None)
    block = Block(live)
    block.feed(plan)
    assert kept == [expected]
    block.feed(event("plan", steps=3))  # of an older run
    assert kept[1:] == ["plan: 3 steps"]


def test_notes_stay_above_the_block_whatever_comes_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console
    from rich.live import Live

    screen = io.StringIO()
    long = "predicted not to fit: 25.1 of 24.0 GB of memory; training.micro_batch_tokens=512 → predicted 14.9 GB"
    with Live(console=Console(file=screen, force_terminal=True, width=60), transient=True, auto_refresh=False) as live:
        block = Block(live)
        for text in ("resumed from step-000010", long):
            block.feed(event("note", code="x", text=text))
        assert block.state.block() == ["start"], "they take no line of it"
        block.feed(STORY[4])
    left = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "resumed from step-000010" in left
    assert long in " ".join(left.split()), "whole, however long"


def test_a_bar_has_its_share_and_a_thing_without_a_total_its_count() -> None:
    assert bar_line("clean", 1, 4, width=8) == "━━──────  25%  clean 1/4"
    assert bar_line("clean", 4, 4, width=8) == "━━━━━━━━ 100%  clean 4/4"
    assert bar_line("reading a.jsonl", 12_000, None) == "reading a.jsonl 12,000"
    assert bar_line("writing", 0, None) == "writing"


def test_a_bar_is_drawn_on_a_terminal_alone_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    said: list[str] = []
    monkeypatch.setattr("sys.stderr", Terminal())
    with bar(said.append) as report:
        report("clean", 1, 4)
        report("clean", 2, 4)  # within a tenth of a second: not drawn
        report("clean", 4, 4)
    drawn = sys.stderr.getvalue().split("\r\x1b[2K")  # type: ignore[attr-defined]
    assert [line[-9:] for line in drawn if line] == ["clean 1/4", "clean 4/4"]
    assert drawn[-1] == "" and said == []
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with bar(said.append) as report:
        report("clean", 1, 4)
    assert said == ["clean 1/4"] and sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_bar_never_takes_a_second_line_of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", Terminal())
    with bar(lambda _: None) as report:
        report("reading a/long/path/of/rows.jsonl", 120_000, None)
        report("読み込み中の長い名前のファイル一覧です.jsonl", 5, None)
    drawn = [line for line in sys.stderr.getvalue().split("\r\x1b[2K") if line]  # type: ignore[attr-defined]
    assert drawn[0] == "reading a/long/path/of/rows.j"
    assert drawn[1] == "読み込み中の長い名前のファイ ", "14 wide characters, and no half of one"


def test_before_training_it_says_what_it_prepares() -> None:
    state = State()
    for one in STORY[:2]:
        state.apply(one)
    assert state.block() == ["prepare: tokenise train 10/40"]


def test_unknown_events_change_nothing() -> None:
    state = State()
    state.apply(event("something-new", x=1))
    assert state == State()


def test_plain_lines_show_a_step_every_ten_seconds_and_the_last() -> None:
    written: list[str] = []
    lines = Lines(written.append)
    for second in range(0, 31, 2):
        lines.feed(event("step", second, step=second + 1, steps=31, loss=1.0))
    assert [line.split("   ")[0].split("  ")[1] for line in written] == [
        "step 1/31",
        "step 11/31",
        "step 21/31",
        "step 31/31",
    ]


def test_plain_lines_of_everything_else_come_at_once() -> None:
    written: list[str] = []
    lines = Lines(written.append)
    for one in [
        *STORY,
        event("note", text="halved"),
        event("done", sentence="Better."),
        event("error", code="E412", what="x"),
    ]:
        lines.feed(one)
    text = "\n".join(written)
    for part in (
        "prepare: data",
        "tokenise train 10/40",
        "plan: 40 steps",
        "best so far",
        "saved step-000010",
        "halved",
    ):
        assert part in text
    assert "done: Better." in text
    assert "E412 x" in text
    assert text.count("tokenise") == 1


def test_a_minute_of_silence_is_broken_once_a_minute() -> None:
    moment = [0.0]
    silence = Silence(60, now=lambda: moment[0])
    heard: list[float | None] = []
    for second in (59, 60, 61, 119, 120):
        moment[0] = second
        heard.append(silence.due())
    assert heard == [None, 60, None, None, 120]
    silence.event()
    assert silence.due() is None


def test_plain_lines_show_the_same_work_again_every_ten_seconds() -> None:
    written: list[str] = []
    lines = Lines(written.append)
    told = [lines.feed(event("progress", second, what="writing", done=second, total=60)) for second in range(0, 60, 3)]
    assert [line.split("  ")[1] for line in written] == [f"start: writing {n}/60" for n in (0, 12, 24, 36, 48)]
    assert [3 * place for place, shown in enumerate(told) if shown] == [0, 12, 24, 36, 48]


def test_counting_says_each_new_thing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: moment[0])
    said: list[str] = []
    with counting(said.append) as report:
        for what, done, total, after in [
            ("read", 1, None, 0),
            ("read", 2, None, 1),
            ("split", 0, 9, 0),
            ("split", 5, 9, 11),
        ]:
            moment[0] += after
            report(what, done, total)
    assert said == ["read", "split 0/9", "split 5/9"]


def until(said: list[str], many: int) -> None:
    patience = time.monotonic() + 20
    while len(said) < many:
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_work_that_says_nothing_for_long_is_told_by_a_clock_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    said: list[str] = []
    with counting(said.append) as report:
        until(said, 1)
        report("the base answers", 3, 9)
        until(said, 3)
    told = list(said)
    assert told[0] == "0 s without news, still at work"
    assert told[1] == "the base answers 3/9"
    assert set(told[2:]) == {"0 s without news, still at the base answers 3/9"}
    time.sleep(0.3)
    assert said == told, "the clock ends with the work"


def test_a_bar_that_stands_still_says_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with bar(lambda _: None) as report:
        report("clean", 1, 4)
        patience = time.monotonic() + 20
        while "without news" not in screen.getvalue():
            assert time.monotonic() < patience
            time.sleep(0.01)
    assert "clean 1/4   0 s without news" in screen.getvalue()
