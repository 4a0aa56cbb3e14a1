from __future__ import annotations

from pathlib import Path

import pytest

from metier.cli import locate
from metier.cli.show import typed
from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.run import Run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project.create(tmp_path / "p", "p")
    (project.root / "recipes" / "one.yaml").write_text("name: one\n")
    monkeypatch.chdir(project.root)
    return project


def test_the_only_recipe_needs_no_name(project: Project) -> None:
    found = locate.recipe(["training.seed=4"])
    assert (found.recipe.name, found.recipe.training.seed, found.text) == ("one", 4, "name: one\n")
    assert found.project.root == project.root


def test_of_several_one_must_be_named(project: Project) -> None:
    (project.root / "recipes" / "two.yaml").write_text("name: two\n")
    with pytest.raises(ConfigError) as caught:
        locate.recipe([])
    assert (caught.value.code, caught.value.expected) == ("E250", "one, two")
    for word in ("two", "recipes/two.yaml", str(project.root / "recipes" / "two.yaml")):
        assert locate.recipe([word]).recipe.name == "two"


def test_no_recipe_two_recipes_and_a_missing_one(project: Project) -> None:
    (project.root / "recipes" / "one.yaml").rename(project.root / "elsewhere.yaml")
    for words, code in (
        ([], "E250"),
        (["a.yaml", "b.yaml"], "E250"),
        (["recipes/gone.yaml"], "E203"),
        (["gone"], "E203"),
    ):
        with pytest.raises(ConfigError) as caught:
            locate.recipe(words)
        assert caught.value.code == code


def test_the_project_is_the_recipes_own(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate.recipe(["p/recipes/one.yaml"]).project.root == project.root
    (tmp_path / "loose.yaml").write_text("name: loose\n")
    with pytest.raises(ConfigError, match="E230"):
        locate.recipe(["loose.yaml"])
    monkeypatch.chdir(project.root)
    assert locate.recipe(["../loose.yaml"]).project.root == project.root


def test_a_run_by_its_directory_from_anywhere(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(project.new_run_dir("sft", "one"))
    monkeypatch.chdir(tmp_path)
    owner, found = locate.run(str(run.dir))
    assert (owner.root, found.number) == (project.root, 1)


def test_a_policy_is_known_by_the_directory_of_its_run(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(project.new_run_dir("classify", "x" * 64))
    number, home = locate.policy("1@step-20"), locate.policy("last")
    monkeypatch.chdir(tmp_path)
    by_path = locate.policy(f"p/runs/{run.dir.name}@step-20")
    for owner, found, _ in (number, home, by_path):
        assert (owner.root, found.dir) == (project.root, run.dir)
    assert number[2] == by_path[2] == f"{run.dir}@step-20"
    assert typed("metier report 1").startswith(f"cd {project.root} && "), "run 1 of that project is meant"
    assert home[2] == str(run.dir)
