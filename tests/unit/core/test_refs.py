from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.core import refs
from metier.core.errors import ConfigError
from metier.core.project import Project, write_json
from metier.core.refs import Ref, parse, run_and_checkpoint


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("data:support@v3", Ref("data", "support", "v3")),
        ("data:support", Ref("data", "support")),
        ("run:12@best", Ref("run", "12", "best")),
        ("run:last", Ref("run", "last")),
        ("run:0012-7f3a-sft-x@step-200", Ref("run", "0012-7f3a-sft-x", "step-200")),
        (f"run:0012-7f3a-classify-{'a' * 64}", Ref("run", f"0012-7f3a-classify-{'a' * 64}")),
    ],
)
def test_the_grammar(text: str, ref: Ref) -> None:
    assert parse(text) == ref
    assert str(ref) == text


def test_a_default_kind_makes_the_prefix_unneeded() -> None:
    assert parse("12@last", default="run") == Ref("run", "12", "last")
    assert parse("run:12", default="data") == Ref("run", "12")


@pytest.mark.parametrize(
    "text",
    ["", "12", "data:", "data:../up", "data:A", "data:a@", "run:x", "run:1@v2", "x:y", "model:bot@v2", "metier/nano"],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ConfigError, match="E251"):
        parse(text)


LONG = "0012-7f3a-classify-" + "a" * 64  # a recipe's name may be that long


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("12", ("12", "")),
        ("run:12@best", ("run:12", "best")),
        ("last@step-200", ("last", "step-200")),
        (LONG, (LONG, "")),
        (f"runs/{LONG}@last", (f"runs/{LONG}", "last")),
        ("/home/ann@work/runs/0001-aaaa-sft-x", ("/home/ann@work/runs/0001-aaaa-sft-x", "")),
        ("/home/ann@work/runs/0001-aaaa-sft-x@step-000200", ("/home/ann@work/runs/0001-aaaa-sft-x", "step-000200")),
    ],
)
def test_a_run_and_its_checkpoint(text: str, parts: tuple[str, str]) -> None:
    assert run_and_checkpoint(text) == parts


@pytest.mark.parametrize("text", ["12@", "12@v2", "12@step-x", "@best", "12@3"])
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(ConfigError, match="E251"):
        run_and_checkpoint(text)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_a_coded_error(text: str) -> None:
    try:
        ref = parse(text)
    except ConfigError as error:
        assert error.code == "E251"
    else:
        assert str(ref) == text


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path, "p")
    for version in ("v1-aa00", "v2-bb11", "v10-cc22"):
        write_json(project.datasets_dir / "support" / version / "manifest.json", {})
    (project.datasets_dir / "support" / "v11-dd33").mkdir()  # a writer died before the manifest
    return project


def test_the_latest_complete_version_is_the_default(project: Project) -> None:
    assert refs.dataset_dir(project, "data:support").name == "v10-cc22"
    assert refs.dataset_dir(project, "support@v2").name == "v2-bb11"


@pytest.mark.parametrize("ref", ["data:support@v11", "data:support@v3", "data:other", "run:1", "run:1@best"])
def test_no_such_dataset(project: Project, ref: str) -> None:
    with pytest.raises(ConfigError, match="E252"):
        refs.dataset_dir(project, ref)
