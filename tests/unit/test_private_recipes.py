"""The two recipes that use all of the data section: what they make of a part of their rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from metier.core.errors import PermissionDenied
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Conversation
from metier.data.canaries import MARK, without
from metier.data.dataset import build
from metier.governance.permission import permitted

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
EVERY_STEP = {
    *("clean", "filter_language", "filter_length", "filter_quality", "deduplicate", "deidentify", "redact_secrets"),
    *("decontaminate", "label_issues", "balance"),
}


@pytest.fixture
def project(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for package in ("lingua", "ftfy", "cryptography"):
        pytest.importorskip(package, reason="the recipes need metier[privacy,curate]")
    monkeypatch.setenv("METIER_DATA", str(shared_data))
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    return Project.create(tmp_path / "project", "test")


def recipe(name: str, **changes: object) -> Recipe:
    return Recipe.read(RECIPES / f"{name}.yaml").with_values(changes)


def test_together_they_use_every_step() -> None:
    used = {
        step.kind for name in ("clinical-note-private", "banking-intent-private") for step in recipe(name).data.steps
    }
    assert used == EVERY_STEP


@pytest.mark.parametrize("name", ["clinical-note-private", "banking-intent-private"])
def test_no_row_is_read_where_a_permission_is_taken_out(project: Project, name: str) -> None:
    permitted(recipe(name), project)
    for key in ("license", "basis", "purpose", "personal_data"):
        with pytest.raises(PermissionDenied) as caught:
            permitted(recipe(name, **{f"data.sources.0.permission.{key}": [] if key == "purpose" else None}), project)
        assert caught.value.code == "E601"


def test_the_clinical_one_hides_people_and_leaves_the_prompt_as_it_will_be(project: Project) -> None:
    made = build(recipe("clinical-note-private", **{"data.sources.0.limit": 300}), project)
    manifest = made.manifest
    assert manifest["privacy"]["status"] == "pseudonymized"
    assert manifest["canaries"]["num"] == 10 and manifest["split_proof"]["groups_on_both_sides"] == 0
    assert manifest["split"]["group_by"] == "ID"
    sections = Counter()
    for split in SPLITS:
        for example in without(made.examples(split)):
            assert isinstance(example, Conversation)
            (header,) = re.findall(r"\nNote, section (.+):$", example.messages[0].text)
            assert header == example.meta["section_header"]
            sections[header] += 1
            assert not re.search(r"\bKumar\b", json.dumps([m.text for m in example.messages]))
    assert sections["FAM/SOCHX"] > 50
    planted = [e for e in made.examples("train") if MARK in e.meta]
    assert len(planted) == sum((1, 4, 16)[i % 3] for i in range(10))
    assert (project.root / "private" / "vaults" / "clinical-note-private.vault").is_file()


def test_the_banking_one_leaves_the_given_test_and_lists_labels_for_a_person(project: Project) -> None:
    limits = {"data.sources.0.limit": 1200, "data.sources.1.limit": 160}
    made = build(recipe("banking-intent-private", **limits), project)
    records = {record["name"]: record for record in made.manifest["steps"]}
    assert made.count("test") == 160
    assert (
        records["balance"]["after_split"] and records["label_issues"]["rows_in"] == records["label_issues"]["rows_out"]
    )
    assert records["label_issues"]["review"]["file"].startswith("private/review/banking-intent-private/")
    assert made.manifest["privacy"]["status"] == "de-identified"
    assert not any(step["dropped"] for step in made.manifest["steps"] if step["name"] in ("clean", "deidentify"))
