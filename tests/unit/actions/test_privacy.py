"""`metier data pii-eval`: the action and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metier.actions.data import measure_privacy
from metier.cli.data import app
from metier.core.errors import ConfigError


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    rows = [
        {
            "text": f"Please call Zbigniew at 212-555-01{i:02d}.",
            "spans": [{"label": "PERSON", "start": 12, "end": 20}, {"label": "PHONE", "start": 24, "end": 36}],
            "template": i % 7,
        }
        for i in range(30)
    ]
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_the_sides_divide_the_templates(labelled: Path) -> None:
    whole, one, other = (measure_privacy(labelled, side=side) for side in ("all", "a", "b"))
    assert (whole.num_documents, whole.num_templates) == (30, 7)
    assert one.num_documents + other.num_documents == 30
    assert one.num_templates + other.num_templates == 7
    assert whole.recall("name").enough.share == whole.recall("phone").full.share == whole.precision.share == 1.0


def test_small_letters_and_the_profile_reach_the_detector(labelled: Path) -> None:
    assert measure_privacy(labelled, lower=True, profile="hipaa-safe-harbor").recall("name").enough.hits == 30


@pytest.mark.parametrize("wrong", [{"profile": "none"}, {"side": "c"}])
def test_an_unknown_profile_or_side_is_refused(labelled: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="E208"):
        measure_privacy(labelled, **wrong)  # type: ignore[arg-type]


def test_the_command_prints_a_table_or_json(labelled: Path) -> None:
    shown = CliRunner().invoke(app, ["pii-eval", str(labelled)])
    assert shown.exit_code == 0
    assert "documents that leak" in shown.stdout
    assert "100.0 %" in shown.stdout
    value = json.loads(CliRunner().invoke(app, ["pii-eval", str(labelled), "--json"]).stdout)
    assert value["document_leaks"]["at_80"] == {"hits": 0, "total": 30, "share": 0.0, "low": 0.0, "high": 0.1}
    assert value["recall"]["phone"]["full"]["hits"] == 30
