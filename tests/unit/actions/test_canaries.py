"""Canaries through a whole run: planted, trained on, measured, shown."""

from __future__ import annotations

from pathlib import Path

from contract.recipe_probes import WRITER, Desk, _reported
from metier.core.project import read_json
from metier.data.canaries import MARK, is_canary
from metier.data.versions import Dataset


def test_a_run_says_how_well_its_model_knows_what_was_planted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    project = desk.project()
    recipe = desk.recipe({**WRITER, "data.canaries": {"num": 3, "repeats": [1, 2]}})
    run, report = _reported(recipe, project)
    assert [(row.repeats, row.canaries) for row in report.exposure] == [(1, 2), (2, 1)]
    assert report.exposure_note.endswith("has 1.44 bits on average, 8 are the most.")
    assert read_json(run.dir / "report.json")["exposure"] == [row.model_dump() for row in report.exposure]
    page, text = ((run.dir / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "Memorisation" in page
    assert report.exposure_note in page
    assert "Planted secrets, each 2 × in train" in text
    folder = next(project.datasets_dir.glob("*/v1-*"))
    planted = [row for row in Dataset.open(folder).examples("train") if is_canary(row)]
    assert len(planted) == 4
    assert not any(str(row.meta[MARK]["digits"]) in page + text for row in planted)
