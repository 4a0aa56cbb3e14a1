from __future__ import annotations

import json
from pathlib import Path

import pytest

from metier.actions import train
from metier.actions.recipes import add_source, first_recipe, kept
from metier.core.errors import ConfigError, DataError
from metier.core.project import Project
from metier.core.recipe import Recipe

RECIPE = """\
# what stands here stays
name: a
data:
  sources:
    - path: a.csv   # the first
      map: {text: body}
      # about the first

  # about the steps
  steps: [clean]
method: {kind: classify}
objective: {task: classify}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path, "p")
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"hello {i},{'xy'[i % 2]}\n" for i in range(9)))
    (tmp_path / "b.csv").write_text("text,label\nhello,x\n")
    return project


def recipe(project: Project, text: str) -> Path:
    path = project.root / "recipes" / "r.yaml"
    path.write_text(text)
    return path


def test_a_first_recipe_follows_from_the_rows(project: Project) -> None:
    first = first_recipe(project.root, project.root / "a.csv", name="My Bot!")
    read = Recipe.read(first.path)
    assert (first.path.name, read.name) == ("my-bot.yaml", "my-bot")
    assert (first.format, read.objective.task, read.method.kind) == ("labelled", "classify", "classify")
    assert read.data.sources[0].path == "a.csv"
    assert first.reason in first.path.read_text()


@pytest.mark.parametrize(
    ("row", "task", "method"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "chat", "sft"),
        ({"prompt": "a", "completion": "b"}, "chat", "sft"),
        ({"text": "a long text"}, "continue", "cpt"),
    ],
)
def test_each_shape_has_its_method(project: Project, row: dict[str, object], task: str, method: str) -> None:
    path = project.root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(5)))
    read = Recipe.read(first_recipe(project.root, path).path)
    assert (read.objective.task, read.method.kind) == (task, method)


def test_a_stated_task_wins_and_a_second_recipe_of_that_name_is_refused(project: Project) -> None:
    first = first_recipe(project.root, project.root / "a.csv", task="extract")
    assert Recipe.read(first.path).objective.task == "extract"
    with pytest.raises(ConfigError, match="E264"):
        first_recipe(project.root, project.root / "a.csv")


def test_an_odd_path_is_quoted(project: Project) -> None:
    odd = project.root / "data: it's #1.csv"
    odd.write_bytes((project.root / "a.csv").read_bytes())
    assert Recipe.read(first_recipe(project.root, odd).path).data.sources[0].path == odd.name


def test_a_source_is_added_and_every_comment_stays(project: Project) -> None:
    path = recipe(project, RECIPE)
    line = add_source(path, {"path": "b.csv", "split": "test", "permission": {"license": "MIT"}}, project)
    text = path.read_text()
    assert text.splitlines()[line - 1] == "    - path: b.csv"
    assert all(kept in text.splitlines() for kept in RECIPE.splitlines())
    read = Recipe.parse(text)
    assert [s.path for s in read.data.sources] == ["a.csv", "b.csv"]
    assert (
        read.data.sources[1].split,
        read.data.sources[1].permission and read.data.sources[1].permission.license,
    ) == (
        "test",
        "MIT",
    )


@pytest.mark.parametrize(
    "text",
    [
        "name: a\ndata:\n    sources:\n    - path: a.csv\n      limit: 3\nmethod: sft\n",
        "name: a\ndata:\n  sources:\n    - path: a.csv\n      map:\n        text: body\n",
        "name: a\ndata:\n  sources:\n    - {path: a.csv}",
    ],
)
def test_a_source_finds_its_place_in_any_block_layout(project: Project, text: str) -> None:
    path = recipe(project, text)
    before = [s.path for s in Recipe.parse(text).data.sources]
    add_source(path, {"path": "b.csv"}, project)
    assert [s.path for s in Recipe.read(path).data.sources] == [*before, "b.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "name: a\n",
        "name: a\ndata:\n  max_quarantine: 0.1\n",
        "name: a\ndata: {sources: [{path: a.csv}]}\n",
        "name: a\ndata:\n  sources: [{path: a.csv}]\n",
    ],
)
def test_where_there_is_no_place_the_file_is_untouched(project: Project, text: str) -> None:
    path = recipe(project, text)
    with pytest.raises(ConfigError, match="E265"):
        add_source(path, {"path": "b.csv"}, project)
    assert path.read_text() == text


def test_a_missing_file_and_a_wrong_key_change_nothing(project: Project) -> None:
    path = recipe(project, RECIPE)
    with pytest.raises(DataError, match="E300"):
        add_source(path, {"path": "gone.csv"}, project)
    with pytest.raises(ConfigError, match="E202"):
        add_source(path, {"path": "b.csv", "split": "dev"}, project)
    assert path.read_text() == RECIPE


# ───────────────────────────────────────────────────────────────────────────── the recipe of a run


def test_a_run_knows_the_lines_of_the_users_file_through_resumes(project: Project) -> None:
    path = recipe(project, RECIPE)
    written = Recipe.read(path, ["training.seed=3", "data.sources.0.path=b.csv"])
    run = train.create(written, project, path.read_text())
    path.write_text("# another file by now\n" * 5 + RECIPE)
    for _ in range(2):
        found = kept(run.dir)
        assert found.place("data.sources.0.map") == "r.yaml:6"
        assert found.place("data.sources.0.path") == found.place("training.seed") == "r.yaml"
        assert found.to_data() == written.to_data()
        train.resume(project, "1")
    resumed = kept(train.resume(project, "1", ["training.save_steps=7", "training.num_threads=1"]).dir)
    assert (resumed.training.save_steps, resumed.place("method")) == (7, "r.yaml:11")
    assert (run.dir / "recipe.yaml").read_text() == RECIPE
    with pytest.raises(ConfigError, match="E201") as caught:
        train.resume(project, "1", ["training.sed=1"])
    assert caught.value.place == "r.yaml:3" or caught.value.place == "r.yaml"


def test_a_run_without_a_file_is_told_with_its_own(project: Project) -> None:
    values = {"name": "a", "data": {"sources": [{"path": "a.csv"}]}, "objective": {"task": "classify"}}
    made = Recipe.build({**values, "method": {"kind": "classify"}})
    run = train.create(made, project)
    for _ in range(2):
        place = kept(run.dir).place("data.sources.0.path")
        file, _, line = place.partition(":")
        assert file == f"{run.dir.name}/recipe.yaml"
        assert "a.csv" in (project.runs_dir / file).read_text().splitlines()[int(line) - 1]
        train.resume(project, "1", ["training.save_steps=7"])


def test_a_run_of_an_older_metier_is_told_with_the_copy_of_the_users_file(project: Project) -> None:
    path = recipe(project, RECIPE)
    run = train.create(Recipe.read(path), project, path.read_text())
    (run.dir / "recipe.lines.json").unlink()
    assert kept(run.dir).place("data.sources.0.map") == f"{run.dir.name}/recipe.yaml:6"


def test_a_fork_names_the_users_file(project: Project) -> None:
    path = recipe(project, RECIPE)
    train.create(Recipe.read(path), project, path.read_text())
    forked = train.resume(project, "1", ["training.seed=9"], fork=True)
    assert kept(forked.dir).place("data.sources.0.map") == "r.yaml:6"


def test_labelled_rows_under_a_task_that_writes_make_a_recipe_that_can_be_trained(project: Project) -> None:
    first = first_recipe(project.root, project.root / "a.csv", name="x", task="extract")
    read = Recipe.read(first.path)
    assert (read.objective.task, read.method.kind) == ("extract", "sft")
    train.check_kinds(read)


def test_a_misspelt_task_leaves_no_recipe_behind(project: Project) -> None:
    with pytest.raises(ConfigError, match="E202"):
        first_recipe(project.root, project.root / "a.csv", name="x", task="sumarize")
    assert first_recipe(project.root, project.root / "a.csv", name="x", task="summarize").path.is_file()
