from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.cli import show
from metier.cli.show import Show


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


@pytest.mark.parametrize(("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (3.4e6, "3.4 MB"), (2.4e10, "24.0 GB")])
def test_sizes(num_bytes: float, text: str) -> None:
    assert show.size(num_bytes) == text


def test_figures_have_four_digits_and_none_is_a_dash() -> None:
    assert [show.figure(v) for v in (0.912345, 1234.5678, None, float("nan"))] == ["0.9123", "1235", "–", "nan"]


def test_tables_align_numbers_right_and_words_left() -> None:
    assert show.table(("name", "n"), [("a", 5), ("long name", 1234), ("b", None)]).split("\n") == [
        "name          n",
        "a             5",
        "long name  1234",
        "b",
    ]


def test_json_and_text_exclude_each_other(capsys: Any) -> None:
    Show(json=False).result({"a": 1}, "text\n")
    assert capsys.readouterr().out == "text\n"
    Show(json=True).result({"a": Path("/x"), "b": {3, 1}, "c": "ü"}, "text")
    assert json.loads(capsys.readouterr().out) == {"a": "/x", "b": [1, 3], "c": "ü"}


def test_what_is_no_json_data_is_a_bug() -> None:
    with pytest.raises(TypeError):
        Show(json=True).result(object())


def test_talk_goes_to_stderr(capsys: Any) -> None:
    Show().say("hello")
    Show().next("metier plan", "metier train")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "hello\nnext  metier plan\n      metier train\n"


def test_color_only_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert show.style("x", "bold", "red", stream=stream) == "\x1b[1;31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "")
    assert show.style("x", "bold", stream=stream) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not show.colored(stream)
