"""Every recipe in the repository and in the package is one that this version reads and whose plug-ins exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metier.core.catalog import catalog
from metier.core.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "src" / "metier" / "actions" / "assets"
RECIPES = sorted([*REPOSITORY.glob("recipes/**/*.yaml"), *SHIPPED.glob("demo/recipe*.yaml")])
VARIABLES = {"METIER_DATA", "METIER_MINILM", "METIER_QWEN_SHAPE"}


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_the_recipes_are_found() -> None:
    assert len(RECIPES) >= 12


def test_it_reads_and_survives_being_written(path: Path) -> None:
    recipe = Recipe.read(path)
    assert Recipe.parse(recipe.to_yaml()).to_data() == recipe.to_data()


def test_its_plugins_take_their_options(path: Path) -> None:
    recipe = Recipe.read(path)
    for name, section in (("adapters", recipe.adapter), ("methods", recipe.method)):
        catalog(name).options(section.kind, section.options, place=recipe.place(name))
    for number, step in enumerate(recipe.data.steps):
        catalog("steps").options(step.kind, step.options, place=recipe.place(f"data.steps.{number}"))
    for source in recipe.data.sources:
        assert source.format in ("auto", *catalog("formats").names())
    metrics = () if recipe.evaluation.metrics == "auto" else recipe.evaluation.metrics
    wanted = [t.removeprefix("gain_over_base.").removeprefix("gain_over_floor.") for t in recipe.objective.targets]
    for metric in (*metrics, *wanted):
        assert metric.partition(":")[0] in catalog("metrics").names()


def test_its_name_is_its_file(path: Path) -> None:
    if path.parent.name == "recipes":
        assert Recipe.read(path).name == path.stem


def test_it_names_no_machine(path: Path) -> None:
    """Paths are relative or start with a variable that benchmarks/README.md explains."""
    recipe = Recipe.read(path)
    for written in [recipe.model.name_or_path, *(s.path for s in recipe.data.sources)]:
        assert not written.startswith(("/", "~"))
        assert set(re.findall(r"\$\{(\w+)\}", written)) <= VARIABLES


def test_its_sources_exist(path: Path, shared_data: Path) -> None:
    for source in Recipe.read(path).data.sources:
        if source.path.startswith("${METIER_DATA}/"):
            assert (shared_data / source.path.removeprefix("${METIER_DATA}/")).is_file()


def test_it_explains_itself(path: Path) -> None:
    """A recipe is documentation: it starts by saying what it is for."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 40
