from __future__ import annotations

from pathlib import Path

import pytest

from metier.core.errors import ConfigError
from metier.core.foreign_keys import FOREIGN_KEYS
from metier.core.recipe import Recipe, describe, differences

TEXT = """\
version: 1
name: support
objective:
  task: classify
  targets: {accuracy: ">= 0.92"}
data:
  sources:
    - path: a.csv
      map: {label: category}
  steps:
    - clean
    - {kind: deduplicate, near: 0.9}
adapter: {kind: lora, r: 8}
method: classify
training:
  learning_rate: 1.0e-3
"""


def fails(text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(text, file="r.yaml", overrides=overrides)
    return caught.value


def test_a_kind_may_be_a_word_or_a_mapping() -> None:
    recipe = Recipe.parse(TEXT)
    assert (recipe.method.kind, recipe.method.options) == ("classify", {})
    assert (recipe.adapter.kind, recipe.adapter.options) == ("lora", {"r": 8})
    assert [s.kind for s in recipe.data.steps] == ["clean", "deduplicate"]
    assert recipe.data.steps[1].options == {"near": 0.9}


def test_places_are_lines_of_the_file() -> None:
    recipe = Recipe.parse(TEXT, file="r.yaml")
    assert recipe.place("data.sources.0.map.label") == "r.yaml:9"
    assert recipe.place("training.learning_rate") == "r.yaml:16"
    assert recipe.place("training.seed") == "r.yaml"


def test_an_unknown_key_has_its_line_and_the_nearest_name() -> None:
    error = fails(TEXT.replace("learning_rate", "learning_rat"))
    assert (error.code, error.place, error.fix) == ("E201", "r.yaml:16", "Did you mean `learning_rate`?")


def test_a_key_of_another_section_is_found_there() -> None:
    error = fails(TEXT + "  max_new_tokens: 3\n")
    assert "evaluation.max_new_tokens" in error.fix


@pytest.mark.parametrize("key", sorted(FOREIGN_KEYS))
def test_keys_of_other_tools_are_explained(key: str) -> None:
    error = fails(f"name: a\ntraining:\n  {key}: 1\n")
    tool, ours = FOREIGN_KEYS[key]
    assert (error.code, error.place) == ("E201", "r.yaml:3")
    assert tool in error.what
    assert ours in error.fix


def test_foreign_keys_are_explained_by_keys_that_exist() -> None:
    known = set(describe()) | {
        "adapter.r",
        "adapter.kind",
        "adapter.target_modules",
        "method.kind",
        "data.sources[].map",
    }
    for _, ours in FOREIGN_KEYS.values():
        assert ours.split()[0].rstrip(";:") in known, ours


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("  batch_size: 0", "training.batch_size"),
        ("  batch_size: many", "training.batch_size"),
        ("  learning_rate: fast", "training.learning_rate"),
        ("  micro_batch_tokens: -1", "training.micro_batch_tokens"),
        ("  packing: perhaps", "training.packing"),
    ],
)
def test_a_wrong_value_names_its_key_and_line(line: str, key: str) -> None:
    error = fails(f"name: a\ntraining:\n{line}\n")
    assert (error.code, error.place) == ("E202", "r.yaml:3")
    assert f"`{key}`" in error.what
    assert error.expected == describe()[key]["type"]


def test_a_wrong_value_inside_a_list_names_the_item() -> None:
    error = fails("name: a\ndata:\n  sources:\n    - path: x\n    - path: y\n      limit: 0\n")
    assert "`data.sources.1.limit`" in error.what
    assert error.place == "r.yaml:6"


def test_a_missing_name_says_so() -> None:
    assert "`name` is missing" in fails("version: 1\n").what


def test_a_target_must_be_a_condition() -> None:
    assert fails(TEXT.replace(">= 0.92", "about 0.9")).code == "E202"


@pytest.mark.parametrize("name", ["../up", "Upper", "", "a/b", "-x", "a" * 65])
def test_a_name_that_would_leave_the_folder_is_refused(name: str) -> None:
    assert fails(f"name: '{name}'\n").code == "E202"


def test_another_version_is_refused() -> None:
    assert fails("version: 2\nname: a\n").code == "E206"


def test_overrides_win_over_the_file_and_keep_its_types() -> None:
    recipe = Recipe.parse(
        TEXT,
        overrides=[
            "training.learning_rate=2e-4",
            "training.seed=3",
            "data.sources.0.path=b.csv",
            "training.packing=false",
        ],
    )
    assert recipe.training.seed == 3
    assert recipe.data.sources[0].path == "b.csv"
    assert recipe.training.packing is False
    assert recipe.training.learning_rate == 2e-4


def test_an_override_reaches_into_a_kind_written_as_a_word() -> None:
    recipe = Recipe.parse("name: a\nadapter: lora\n", overrides=["adapter.r=4"])
    assert (recipe.adapter.kind, recipe.adapter.options) == ("lora", {"r": 4})


def test_another_kind_forgets_the_old_kinds_options() -> None:
    recipe = Recipe.parse(TEXT, overrides=["adapter.kind=full"])
    assert (recipe.adapter.kind, recipe.adapter.options) == ("full", {})


@pytest.mark.parametrize("override", ["training.seed", "=3", ""])
def test_what_is_no_override_says_so(override: str) -> None:
    assert fails(TEXT, override).code == "E207"


@pytest.mark.parametrize("override", ["training.sed=3", "data.sources.7.path=x", "nmae=3"])
def test_an_override_of_an_unknown_key_is_an_error(override: str) -> None:
    assert fails(TEXT, override).code == "E201"


SHARED = """\
name: x
data:
  sources:
    - {path: a.csv, permission: &p {license: MIT, purpose: [training]}}
    - {path: b.csv, permission: *p}
"""


def test_an_override_changes_what_it_names_and_nothing_that_shares_an_anchor_with_it() -> None:
    changed = Recipe.parse(SHARED, overrides=["data.sources.0.permission.license=GPL-3.0-only"])
    listed = Recipe.parse(SHARED, overrides=["data.sources.1.permission.purpose.0=evaluation"])
    assert [s.permission and s.permission.license for s in changed.data.sources] == ["GPL-3.0-only", "MIT"]
    assert [s.permission and s.permission.purpose for s in listed.data.sources] == [("training",), ("evaluation",)]


def test_what_follows_the_name_of_a_mapping_is_one_key() -> None:
    text = "name: x\nobjective: {targets: {gain_over_base.accuracy: '>= 0.5'}}\ndata: {sources: [{path: a}]}\n"
    overrides = ["objective.targets.gain_over_base.accuracy=>= 0.02", "objective.targets.f1='> 0.3'"]
    recipe = Recipe.parse(text, file="r.yaml", overrides=[*overrides, "data.sources.0.map.text=body.en"])
    assert recipe.objective.targets == {"gain_over_base.accuracy": ">= 0.02", "f1": "> 0.3"}
    assert recipe.data.sources[0].map == {"text": "body.en"}
    assert recipe.place("objective.targets.gain_over_base.accuracy") == "r.yaml", "no longer as the file says"
    assert recipe.with_values({"objective.targets.gain_over_base.ece": "< 0"}).objective.targets.keys() == {
        "gain_over_base.accuracy",
        "f1",
        "gain_over_base.ece",
    }


@pytest.mark.parametrize(
    ("written", "user"),
    [
        ("{text}", "{text}"),
        ("Summarize: {text}", "Summarize: {text}"),
        ("{text} Topic:", "{text} Topic:"),
        ("[{text}] # 1", "[{text}] # 1"),
        ("Summarize:\n\n{text}", "Summarize:\n\n{text}"),
        ('"Summarize:\\n{text} "', "Summarize:\n{text} "),
        ("'{text}'", "{text}"),
        ("'{text}' in short", "'{text}' in short"),
        ("", None),
        ("null", None),
        ("# {text}", "# {text}"),
        ("'null'", "null"),
    ],
)
def test_where_a_key_is_text_an_override_is_taken_as_it_is(written: str, user: str | None) -> None:
    assert Recipe.parse("name: x", overrides=[f"data.prompt.user={written}"]).data.prompt.user == user


def test_a_text_that_looks_like_a_number_or_nothing_is_text() -> None:
    recipe = Recipe.parse("name: x", overrides=["name=2027", "model.revision=12e4567", "objective.description="])
    assert (recipe.name, recipe.model.revision, recipe.objective.description) == ("2027", "12e4567", "")


@pytest.mark.parametrize("day", ["2027-12-31", "'2027-12-31'", "2027-02-30"])
def test_a_day_is_text_in_the_file_and_in_an_override(day: str) -> None:
    text = f"name: x\ndata:\n  sources: [{{path: a, permission: {{retention: {day}}}}}]\n"
    for recipe in (
        Recipe.parse(text),
        Recipe.parse("name: x\ndata: {sources: [{path: a}]}", overrides=[f"data.sources.0.permission.retention={day}"]),
    ):
        permission = recipe.data.sources[0].permission
        assert permission is not None and permission.retention == day.strip("'")
        assert Recipe.parse(recipe.to_yaml()).to_data() == recipe.to_data()


def test_what_is_written_back_reads_the_same() -> None:
    recipe = Recipe.parse(TEXT)
    again = Recipe.parse(recipe.to_yaml())
    assert again.to_data() == recipe.to_data()
    assert differences(recipe, again) == []


def test_differences_know_semantic_from_execution_keys() -> None:
    old = Recipe.parse(TEXT)
    new = Recipe.parse(TEXT, overrides=["training.micro_batch_tokens=99", "training.seed=1", "adapter.r=4"])
    assert {c.key: c.semantic for c in differences(old, new)} == {
        "training.micro_batch_tokens": False,
        "training.seed": True,
        "adapter.r": True,
    }


def test_with_values_validates() -> None:
    recipe = Recipe.parse(TEXT)
    assert recipe.with_values({"training.seed": 9}).training.seed == 9
    with pytest.raises(ConfigError, match="E202"):
        recipe.with_values({"training.seed": -1})


def test_every_key_has_a_description_and_a_readable_type() -> None:
    for path, info in describe().items():
        assert info["description"].rstrip().endswith((".", ":", ")")), path
        assert "Annotated" not in info["type"], path
        assert info["type"] != "any", path


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\xff\xfe\x00", "E204"), (b"- a\n- b\n", "E204"), (b"a: [1\n", "E204"), (b"a: 1\na: 2\n", "E205")],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Recipe.read(path)
    assert caught.value.code == code


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "none.yaml", "E203"), (tmp_path, "E204")):
        with pytest.raises(ConfigError) as caught:
            Recipe.read(path)
        assert caught.value.code == code


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert Recipe.read(path).name == "support"


def test_a_copy_names_the_lines_of_the_file_it_was_written_from() -> None:
    written = Recipe.parse(TEXT, file="r.yaml", overrides=["training.learning_rate=2e-3"])
    copy = Recipe.parse(written.to_yaml(), file="resolved.yaml", origin=(written.file, written.lines))
    assert copy.place("data.sources.0.map.label") == "r.yaml:9"
    assert copy.place("training.learning_rate") == "r.yaml", "the command line said it"
    assert copy.place("training.seed") == "r.yaml"
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(written.to_yaml(), overrides=["adapter=1"], origin=(written.file, written.lines))
    assert caught.value.place == "r.yaml"


def test_an_overridden_section_has_no_lines_any_more() -> None:
    recipe = Recipe.parse(TEXT, file="r.yaml", overrides=["data.sources=[{path: b.csv}]"])
    assert recipe.place("data.sources.0.path") == "r.yaml"
    assert recipe.place("data.steps") == "r.yaml:10"


def test_an_unknown_key_is_named_whatever_stands_in_it() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.parse("name: a\ntraining:\n  learning-rate: 0.1\n")
    assert caught.value.what == "Unknown key `training.learning-rate`"
    assert "learning_rate" in caught.value.fix and caught.value.place.endswith(":3")
