"""The model card: front matter that Hugging Face reads, figures that are the report's, no path of this machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from metier.evaluation import card
from metier.evaluation.result import Report

Make = Callable[[str], Report]


def test_hugging_face_reads_the_front_matter(make_report: Make) -> None:
    read: Any = ModelCard(card.render(make_report("classification")), ignore_metadata_errors=False).data
    assert read.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert read.license == "apache-2.0"
    assert read.library_name == "peft"
    assert read.to_dict()["base_model_relation"] == "adapter"
    assert read.eval_results is not None
    first = read.eval_results[0]
    assert (first.task_type, first.metric_type, first.metric_value) == ("text-classification", "accuracy", 0.9318)
    assert (first.dataset_name, first.dataset_split) == ("data:support@v3", "test")


@pytest.mark.parametrize(
    ("form", "relation", "library"),
    [("run", "adapter", "peft"), ("peft", "adapter", "peft"), ("hf", "finetune", "transformers")],
)
def test_relation_follows_what_lies_beside_the_card(
    make_report: Make, form: card.Form, relation: str, library: str
) -> None:
    front = card.front_matter(make_report("summarisation"), form=form)
    assert (front["base_model_relation"], front["library_name"]) == (relation, library)


@pytest.mark.parametrize(
    ("license", "shown"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("GPL-3.0-only", "gpl-3.0"),
        (None, "unknown"),
        ("LicenseRef-Clinic", "other"),
        ("my own, 2026", "other"),
    ],
)
def test_license(make_report: Make, license: str | None, shown: str) -> None:
    report = make_report("classification")
    report = report.model_copy(update={"base_model": {"name": "a/b", "license": license}})
    front = card.front_matter(report)
    assert front["license"] == shown
    assert front.get("license_name") == (license if shown == "other" else None)


def test_paths_of_this_machine_stay_here(make_report: Make) -> None:
    report = make_report("classification")
    report = report.model_copy(
        update={
            "base_model": {"name": "/home/someone/secret/babyllama"},
            "data": report.data.model_copy(update={"sources": [{"path": "/home/someone/secret/train.csv"}]}),
        }
    )
    text = card.render(report)
    assert "secret" not in text
    assert card.front_matter(report)["base_model"] == "babyllama"
    assert "train.csv" in text


def test_hub_datasets_are_named(make_report: Make) -> None:
    report = make_report("classification")
    sources = [{"path": "hf:PolyAI/banking77"}, {"path": "x.csv"}]
    report = report.model_copy(update={"data": report.data.model_copy(update={"sources": sources})})
    assert card.front_matter(report)["datasets"] == ["PolyAI/banking77"]


def test_every_part_is_there(any_report: Report) -> None:
    text = card.render(any_report)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == [
        "Intended use", "How to use", "Evaluation", "Data", "Training and compute", "Limits", "Lineage",
    ]  # fmt: skip
    yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("form", ["run", "hf", "peft"])
@pytest.mark.parametrize("kind", ["classification", "summarisation", "pretraining", "hostile"])
def test_code_blocks_are_code(make_report: Make, form: card.Form, kind: str) -> None:
    text = card.render(make_report(kind), form=form)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(block)
    expected = {"hf": 1, "peft": 1, "run": 0}[form] if kind in ("summarisation", "pretraining") else None
    if expected is not None:
        assert text.count("```python") == expected
    assert "metier predict" in text


def test_a_bad_verdict_stands_at_the_top(make_report: Make, tmp_path: Path) -> None:
    path = card.write(make_report("summarisation"), tmp_path)
    text = path.read_text("utf-8")
    assert path.name == "README.md"
    assert text.index("Worse than the base") < text.index("## Intended use")
