"""What a version may be called: the statement of the manifest, its checks, and k."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.core.extras import installed
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Example, Labelled, Text, identify
from metier.data import report
from metier.data.dataset import build
from metier.data.privacy.anonymity import Classes, statement


def answers(columns: dict[str, Any] | None = None, times: int = 5) -> list[Example]:
    """Two answers, each given `times` times: nobody stands out."""
    meta = columns or {}
    return [
        Labelled(text="I agree, [PERSON].", target=label, meta=meta) for label in ("yes", "no") for _ in range(times)
    ]


def test_k_is_the_smallest_class_and_small_classes_are_counted() -> None:
    assert Classes.of("aaaaaabbc") == Classes(k=1, num_rows=9, num_small=3)
    assert Classes.of([]) == Classes(0, 0, 0)
    assert Classes.of("aaaaaabbc").to_text() == "k = 1, 3 of 9 rows (33.3 %) in classes below 5"


def test_without_a_step_nothing_is_claimed() -> None:
    assert statement(answers(), profiles=[], vault=None)["status"] == "not de-identified"


def test_a_vault_makes_it_pseudonymized_whatever_the_rows_are() -> None:
    said = statement(answers(), profiles=["gdpr"], vault="private/vaults/a.vault")
    assert said["status"] == "pseudonymized"
    assert "private/vaults/a.vault" in said["why"]
    assert "checks" not in said


def test_anonymized_needs_all_three_checks() -> None:
    said = statement(answers(), profiles=["gdpr"], vault=None)
    assert said["status"] == "anonymized"
    assert [check["passed"] for check in said["checks"].values()] == [True, True, True]


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        ([*answers(), Text(text="One of a kind.")], "singling_out"),
        (answers(times=4), "singling_out"),
        (answers({"client": "c1"}), "linkability"),
        ([row for row in answers() if row.target == "yes"], "inference"),  # type: ignore[union-attr]
    ],
)
def test_one_failed_check_is_enough_against_it(rows: list[Example], failed: str) -> None:
    said = statement(rows, profiles=["gdpr"], vault=None, linking=["client"])
    assert said["status"] == "de-identified"
    assert [name for name, check in said["checks"].items() if not check["passed"]] == [failed]
    assert said["checks"][failed]["what"] in said["why"]


def test_quasi_identifiers_are_the_classes_of_k_and_of_inference() -> None:
    rows = [*answers({"age": "40-49"}), *answers({"age": "50-59"}, times=3)]
    said = statement(rows, profiles=["gdpr"], vault=None, quasi_identifiers=["age"])
    assert said["quasi_identifiers"] == {"columns": ["age"], "k": 6, "rows": 16, "rows_below_5": 0}
    rows = [row for row in rows if row.meta["age"] == "40-49" or row.target == "no"]  # type: ignore[union-attr]
    said = statement(rows, profiles=["gdpr"], vault=None, quasi_identifiers=["age"])
    assert said["quasi_identifiers"]["k"] == 3
    assert not said["checks"]["inference"]["passed"]


def test_a_row_that_balance_repeats_hides_nobody() -> None:
    one = identify(Labelled(text="I agree.", target="yes", place="a.csv:2", meta={"age": 90}))
    other = identify(Labelled(text="I agree.", target="yes", place="a.csv:3", meta={"age": 90}))
    said = statement([one] * 9 + [other], profiles=["gdpr"], vault=None, quasi_identifiers=["age"])
    assert said["quasi_identifiers"] == {"columns": ["age"], "k": 2, "rows": 2, "rows_below_5": 2}
    assert said["checks"]["singling_out"]["passed"] is False


def test_no_value_of_a_column_or_text_is_in_the_statement() -> None:
    rows = [*answers({"age": "hidden-47"}), Text(text="hidden text", meta={"age": "hidden-48"})]
    said = json.dumps(statement(rows, profiles=["gdpr"], vault=None, quasi_identifiers=["age"], linking=["age"]))
    assert "hidden" not in said


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([], "not de-identified"),
        ([{"kind": "deidentify", "profile": "hipaa-safe-harbor"}], "de-identified"),
        pytest.param(
            [{"kind": "deidentify", "strategy": "surrogate"}],
            "pseudonymized",
            marks=pytest.mark.skipif(installed("cryptography") is None, reason="cryptography is not installed"),
        ),
    ],
)
def test_manifest_card_and_report_say_it(
    steps: list[dict[str, Any]], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    project = Project.create(tmp_path / "project", "test")
    lines = (json.dumps({"text": f"Please call Kowalczyk, number {i} of the list."}) for i in range(40))
    (project.root / "data" / "a.jsonl").write_text("\n".join(lines))
    source = {"path": "data/a.jsonl", "permission": {"personal_data": True}}
    made = build(Recipe.build({"name": "notes", "data": {"sources": [source], "steps": steps}}), project)
    said = made.manifest["privacy"]
    assert said["status"] == status
    assert (said.get("vault") == "private/vaults/notes.vault") == (status == "pseudonymized")
    card, page = report.card(made.manifest, {}), report.render(made.manifest, {})
    assert f"- status: {status}" in card
    assert f">{status}<" in page
    assert ("no step de-identifies them" in card) == (not steps)
