from __future__ import annotations

import json
import subprocess
import sys
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


def install(folder: Path) -> Path:
    """A `metier` that a shell can run and that says that it was."""
    folder.mkdir(parents=True)
    (folder / "metier").write_text('#!/bin/sh\necho ran "$@"\n')
    (folder / "metier").chmod(0o755)
    return folder / "metier"


def test_talk_goes_to_stderr(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = install(tmp_path / "bin")
    monkeypatch.setattr(sys, "argv", [str(own)])
    monkeypatch.setenv("PATH", str(own.parent))
    Show().say("hello")
    Show().next("metier plan", "metier train")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "hello\nnext  metier plan\n      metier train\n"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["no metier on the path", "another metier on the path"])
def test_a_command_that_a_shell_would_not_find_is_shown_so_that_it_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    own = install(tmp_path / "my tools" / "bin")
    path = str(install(tmp_path / "other").parent) if elsewhere else ""
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["my tools/bin/metier", "demo"])
    written = show.typed("cd . && metier report last --open")
    assert written == f"cd . && '{own}' report last --open"
    done = subprocess.run(written, shell=True, capture_output=True, text=True, check=True, cwd=tmp_path / "my tools")
    assert done.stdout == "ran report last --open\n"
    error = "E454 The worker is gone\n     next: metier runs resume 1; metier runs ls names the others, says metier"
    assert show.typed(error).count(f"'{own}' runs") == 2
    assert show.typed(error).endswith("says metier")


def test_called_from_python_the_command_beside_the_interpreter_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert show.typed("metier runs ls") == f"{tmp_path}/bin/python -m metier.cli runs ls"
    own = install(tmp_path / "bin")
    assert show.typed("metier runs ls") == f"{own} runs ls"
    monkeypatch.setenv("PATH", str(own.parent))
    assert show.typed("metier runs ls") == "metier runs ls"


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
