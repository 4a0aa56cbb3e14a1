"""What preview shows of the tokens: in color where somebody looks at it, in brackets where the text goes elsewhere."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from metier.actions.data import prepare, preview
from metier.cli import app
from metier.core.project import Project, read_json
from metier.core.recipe import Recipe
from tiny import chat_rows, write_model

RECIPE = """\
name: desk
data: {sources: [{path: rows.jsonl}]}
model: {name_or_path: base}
method: sft
"""


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.create(tmp_path_factory.mktemp("preview"), "desk")
    write_model(made.root / "base")
    (made.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(30)))
    (made.root / "recipes" / "desk.yaml").write_text(RECIPE)
    return made


def test_a_preview_holds_the_tokens_and_the_view_is_made_from_them(project: Project) -> None:
    found = preview(Recipe.parse(RECIPE), project, rows=1, tokens=1)
    (row,) = found.tokens
    assert set(row) == {"place", "tokens", "supervised", "cut_tokens", "pieces"}
    assert sum(supervised for _, supervised, _ in row["pieces"]) == row["supervised"] > 0
    assert "\x1b" not in json.dumps(found.model_dump()) + found.to_text()
    reply = found.examples[0]["messages"][1]["content"]
    assert f"⟦{reply}<|im_end|>⟧" in found.to_text()
    assert "\x1b[32m" in found.to_text(color=True) and "⟦" not in found.to_text(color=True)


@pytest.mark.parametrize(
    ("stream", "no_color", "colored"), [(Terminal, None, True), (Terminal, "1", False), (io.StringIO, None, False)]
)
def test_the_terminal_decides_on_color_as_for_every_command(
    project: Project, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], no_color: str | None, colored: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    for command in (["data", "preview", "--tokens", "1"], ["data", "check"]):
        out = stream()
        with contextlib.chdir(project.root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(Terminal()):
            assert app.run(command) == 0
        assert ("\x1b[" in out.getvalue()) is colored, command


def test_the_report_of_a_version_follows_what_the_recipe_says_of_its_audience(project: Project) -> None:
    def said(*overrides: str) -> tuple[str, str, int]:
        version = prepare(Recipe.parse(RECIPE, overrides=overrides), project)
        stated = read_json(version.dir / "report.json")["stated"]
        return version.ref, stated["description"], (version.dir / "report.html").stat().st_mtime_ns

    first = said("objective.description=Answer at the desk")
    assert first == said("objective.description=Answer at the desk")  # nothing new, nothing written
    second = said("objective.description=Answer by letter")
    assert (first[0], second[1]) == (second[0], "Answer by letter") and first[2] != second[2]
    assert said(f"data={{dataset: {first[0]}}}", "objective.description=Another recipe") == second
    assert (project.root / "audit.jsonl").read_text().count('"data.prepare"') == 1
