"""Permission: what is stated is enforced, what is not is refused where the gate says so."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, PermissionDenied
from metier.core.project import Project, Settings
from metier.core.recipe import Recipe
from metier.data.dataset import build
from metier.governance.permission import check, gate, marks, permitted
from tiny import chat_rows

FULL = {"license": "CC-BY-4.0", "basis": "contract", "purpose": ["training"], "personal_data": False}


def recipe(permission: dict[str, object] | None, gates: str = "optional") -> Recipe:
    source = {"path": "a.csv"} | ({"permission": permission} if permission is not None else {})
    return Recipe.build({"name": "x", "data": {"sources": [source]}, "gates": {"permission": gates}})


def refused(permission: dict[str, object] | None, gates: str = "optional", **more: object) -> str:
    with pytest.raises(PermissionDenied) as error:
        check(recipe(permission, gates), Settings({}), today=date(2026, 11, 21), **more)  # type: ignore[arg-type]
    assert error.value.exit_code == 6
    return error.value.code


def test_a_complete_permission_passes_and_so_does_none_where_the_gate_is_optional() -> None:
    check(recipe(FULL, "required"), Settings({}))
    check(recipe(None), Settings({}))


@pytest.mark.parametrize("missing", ["license", "basis", "purpose", "personal_data"])
def test_required_refuses_each_missing_statement(missing: str) -> None:
    assert refused({k: v for k, v in FULL.items() if k != missing}, "required") == "E601"


def test_required_refuses_a_source_that_states_nothing_and_names_it() -> None:
    with pytest.raises(PermissionDenied, match=r"state its license, basis, purpose and personal_data"):
        check(recipe(None, "required"), Settings({}))


def test_what_is_stated_is_enforced_even_where_the_gate_is_optional() -> None:
    assert refused({**FULL, "purpose": ["evaluation"]}) == "E602"
    assert refused({**FULL, "consent_expires": "2026-11-20"}) == "E603"
    assert refused({**FULL, "consent_withdrawn": "2026-11-20"}) == "E606"
    assert refused({**FULL, "retention": "2026-11-20"}) == "E604"
    assert refused({**FULL, "basis": "consent"}) == "E605"
    assert refused(FULL, purpose="marketing") == "E602"


def test_the_last_day_counts() -> None:
    check(
        recipe({**FULL, "consent_expires": "2026-11-21", "retention": "2026-11-21"}),
        Settings({}),
        today=date(2026, 11, 21),
    )


def test_a_withdrawal_holds_from_its_own_day_on() -> None:
    assert refused({**FULL, "consent_withdrawn": "2026-11-21"}) == "E606"
    check(recipe({**FULL, "consent_withdrawn": "2026-11-22"}), Settings({}), today=date(2026, 11, 21))


def test_a_date_that_is_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError) as error:
        check(recipe({**FULL, "retention": "next year"}), Settings({}))
    assert error.value.code == "E267"


def test_a_recipe_can_only_tighten_the_projects_gates() -> None:
    loose, strict = recipe(None), recipe(None, "required")
    assert gate("permission", loose, Settings({})) == "optional"
    assert gate("permission", strict, Settings({"gates": {"permission": "optional"}})) == "required"
    assert gate("permission", loose, Settings({"gates": {"permission": "required"}})) == "required"
    with pytest.raises(PermissionDenied):
        check(loose, Settings({"gates": {"permission": "required"}}))


@pytest.mark.parametrize("gates", [{"parities": "required"}, {"parity": "perhaps"}])
def test_a_gate_that_does_not_exist_is_an_error(gates: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        gate("parity", recipe(None), Settings({"gates": gates}))
    assert (error.value.code, error.value.place) == ("E266", "metier.yaml")


def test_a_wrong_gate_is_named_with_its_line(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p", "p")
    project.file.write_text("name: p\ngates:\n  parity: required\n  permission: perhaps\n")
    with pytest.raises(ConfigError) as error:
        gate("parity", recipe(None), Project(project.root).settings)
    assert (error.value.code, error.value.place) == ("E266", "metier.yaml:4")


def test_a_test_source_may_be_for_evaluation_alone() -> None:
    source = {"path": "a.csv", "permission": {**FULL, "purpose": ["evaluation"]}}
    check(Recipe.build({"name": "x", "data": {"sources": [{**source, "split": "test"}]}}), Settings({}))
    with pytest.raises(PermissionDenied, match="E602"):
        check(Recipe.build({"name": "x", "data": {"sources": [{**source, "split": "train"}]}}), Settings({}))


# ───────────────────────────────────────────────────────────────────────────── a dataset version


def version(folder: Path, permission: dict[str, Any] | None, gates: str) -> tuple[Project, Recipe]:
    """A project with a version that was made while nothing was asked for, and a recipe that names it."""
    project = Project.create(folder, "p")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(40)))
    source = {"path": "a.jsonl"} | ({"permission": permission} if permission else {})
    build(Recipe.build({"name": "made", "data": {"sources": [source]}}), project)
    project.file.write_text(f"name: p\ngates: {{permission: {gates}}}\n")
    return Project(folder), Recipe.parse("name: x\ndata:\n  dataset: data:made@v1\n", file="r.yaml")


def test_a_version_is_judged_by_what_its_sources_stated(tmp_path: Path) -> None:
    project, recipe = version(tmp_path, None, "required")
    with pytest.raises(PermissionDenied, match=r"E601 Source `a\.jsonl`") as caught:
        permitted(recipe, project)
    assert caught.value.place == "r.yaml:3"
    assert marks(build(recipe, project).manifest["sources"]) == [
        "✘ a.jsonl (not stated: license, basis, purpose, personal data)"
    ]


@pytest.mark.parametrize(
    ("permission", "code"),
    [
        (FULL, ""),
        ({**FULL, "retention": "2020-01-01"}, "E604"),
        ({**FULL, "consent_withdrawn": "2020-01-01"}, "E606"),
        ({**FULL, "purpose": ["evaluation"]}, "E602"),
        ({**FULL, "license": None}, ""),
    ],
)
def test_what_a_version_states_is_enforced_without_a_gate_too(
    tmp_path: Path, permission: dict[str, Any], code: str
) -> None:
    project, recipe = version(tmp_path, permission, "optional")
    if not code:
        permitted(recipe, project)
        return
    with pytest.raises(PermissionDenied, match=code):
        permitted(recipe, project)


def test_the_marks_say_what_a_source_lacks_and_that_it_holds_personal_data(tmp_path: Path) -> None:
    project, recipe = version(tmp_path, {**FULL, "personal_data": True}, "required")
    permitted(recipe, project)
    assert marks(build(recipe, project).manifest["sources"]) == ["✔ a.jsonl (personal data)"]


# ───────────────────────────────────────────────────────────────────────────── what recipes say of a source now


def states(project: Project, permission: dict[str, Any] | str, path: str = "a.jsonl", name: str = "source") -> None:
    """Write a recipe into recipes/ that states this of a source."""
    stated = permission if isinstance(permission, str) else json.dumps(permission)
    text = f"name: {name}\ndata:\n  sources:\n    - path: {json.dumps(path)}\n      permission: {stated}\n"
    (project.root / "recipes" / f"{name}.yaml").write_text(text)


WITHDRAWN = {**FULL, "consent_withdrawn": "2020-01-01"}


@pytest.mark.parametrize("path", ["a.jsonl", "./a.jsonl", ".", "*.jsonl", "sub/../a.jsonl", "{root}/a.jsonl", "{root}"])
def test_a_withdrawal_in_the_recipe_that_states_the_source_blocks_every_version_of_it(
    tmp_path: Path, path: str
) -> None:
    project, recipe = version(tmp_path, FULL, "optional")
    permitted(recipe, project)
    states(project, WITHDRAWN, path.format(root=tmp_path))
    with pytest.raises(PermissionDenied, match="E606") as caught:
        permitted(recipe, project)
    assert caught.value.place == "recipes/source.yaml:5"


def test_a_withdrawal_elsewhere_blocks_another_recipe_too_and_not_another_source(tmp_path: Path) -> None:
    project, _ = version(tmp_path, FULL, "optional")
    mine = Recipe.build({"name": "x", "data": {"sources": [{"path": "a.jsonl", "permission": FULL}]}})
    states(project, WITHDRAWN, "b.jsonl")
    permitted(mine, project)
    states(project, WITHDRAWN, name="other")
    for again in (False, True):
        with pytest.raises(PermissionDenied, match="E606"):
            permitted(mine, project, again=again)


def test_a_day_without_quotes_and_a_wrong_key_hide_no_withdrawal(tmp_path: Path) -> None:
    project, recipe = version(tmp_path, FULL, "optional")
    states(project, "{consent_withdrawn: 2020-01-01, licence: CC-BY, personal_data: perhaps}")
    (project.root / "recipes" / "broken.yaml").write_text("name: [")
    with pytest.raises(PermissionDenied, match="E606"):
        permitted(recipe, project)
    (project.root / "recipes" / "broken.yaml").write_text("data: {sources: [{permission: {consent_withdrawn: ")
    with pytest.raises(ConfigError, match=r"E204 .*recipes/broken.yaml"):
        permitted(recipe, project)


def test_a_renewed_consent_counts_for_what_was_made_before(tmp_path: Path) -> None:
    project, recipe = version(tmp_path, {**FULL, "consent_expires": "2020-01-01"}, "optional")
    copy = Recipe.build({"name": "x", "data": {"sources": [{"path": "a.jsonl", "permission": WITHDRAWN}]}})
    for made in (recipe, copy):
        with pytest.raises(PermissionDenied):
            permitted(made, project, again=True)
    states(project, {**FULL, "consent_expires": "2999-01-01"})
    permitted(recipe, project)
    permitted(copy, project, again=True)
    with pytest.raises(PermissionDenied, match="E606"):
        permitted(copy, project)  # a recipe that is no copy means what it says


def test_the_gate_asks_what_is_stated_now(tmp_path: Path) -> None:
    project, recipe = version(tmp_path, None, "required")
    states(project, {"subject_key": "person"}, name="a")
    with pytest.raises(PermissionDenied, match="E601"):
        permitted(recipe, project)
    states(project, FULL, name="b")
    permitted(recipe, project)


def test_rows_that_may_be_learned_from_may_be_measured_on_and_not_the_other_way_round(tmp_path: Path) -> None:
    project, recipe = version(tmp_path, FULL, "optional")
    permitted(recipe, project, purpose="evaluation")
    states(project, {**FULL, "purpose": ["evaluation"]})
    permitted(recipe, project, purpose="evaluation")
    with pytest.raises(PermissionDenied, match="E602"):
        permitted(recipe, project)
    states(project, {**FULL, "purpose": ["research"]})
    with pytest.raises(PermissionDenied, match="E602"):
        permitted(recipe, project, purpose="evaluation")


def test_the_version_that_a_run_read_is_judged(tmp_path: Path) -> None:
    project, _ = version(tmp_path, FULL, "optional")
    rows = "".join(json.dumps(row) + "\n" for row in chat_rows(41))
    (tmp_path / "b.jsonl").write_text(rows)
    build(Recipe.build({"name": "made", "data": {"sources": [{"path": "b.jsonl"}]}}), project)
    states(project, WITHDRAWN, "b.jsonl")
    latest = Recipe.parse("name: x\ndata:\n  dataset: data:made\n", file="r.yaml")
    with pytest.raises(PermissionDenied, match="E606"):
        permitted(latest, project, again=True)
    permitted(latest, project, again=True, dataset="data:made@v1")
