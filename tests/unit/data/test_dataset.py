"""From a recipe to a dataset version: what it holds, what it refuses, and that it never changes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, DataError, MetierError
from metier.core.project import Project, digest_json
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Conversation, Labelled
from metier.data import versions
from metier.data.dataset import Dataset, build, inputs, quarantine_file
from metier.data.quarantine import listing

TOPICS = ("fee", "card", "rate", "limit", "refund")
PLACES = ("Bern", "Lima", "Oslo", "Cairo", "Quito", "Delhi", "Turin", "Accra", "Hanoi", "Minsk", "Perth", "Sofia")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project", "test")


def labelled(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "text": f"{PLACES[i % 12]} {PLACES[i // 12 % 12]} {i * 7919}: my {TOPICS[i % 5]} {PLACES[i // 7 % 12]}?",
            "label": TOPICS[i % 5],
            "client": f"c{i // 2}",
        }
        for i in range(start, start + n)
    ]


def write(project: Project, name: str, rows: list[Any]) -> str:
    (project.root / "data" / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return f"data/{name}"


def recipe(*sources: str | dict[str, Any], task: str = "classify", method: Any = "classify", **data: Any) -> Recipe:
    listed = [{"path": s} if isinstance(s, str) else s for s in sources]
    values = {"name": "support", "objective": {"task": task}, "data": {"sources": listed, **data}, "method": method}
    return Recipe.build(values, file="recipe.yaml")


def refused(made: Recipe, project: Project) -> MetierError:
    with pytest.raises(MetierError) as caught:
        build(made, project)
    return caught.value


# ───────────────────────────────────────────────────────────────────────────── what it holds


def test_a_version_holds_every_row_once_with_where_it_came_from(project: Project) -> None:
    path = write(project, "a.jsonl", labelled(200))
    seen: list[str] = []
    made = build(recipe(path), project, progress=lambda name, done, total: seen.append(name))
    assert made.ref == "data:support@v1" and made.dir.name == f"v1-{made.digest[:6]}"
    assert {s: made.count(s) for s in SPLITS} == {"train": 160, "validation": 20, "test": 20}
    examples = [e for s in SPLITS for e in made.examples(s)]
    assert sorted(e.place for e in examples) == sorted(f"a.jsonl:{i}" for i in range(1, 201))
    assert all(isinstance(e, Labelled) and e.meta["client"] for e in examples)
    assert made.labels == tuple(sorted(TOPICS))
    assert made.manifest["problem_type"] == "single_label"
    assert made.manifest["label_counts"]["fee"] == {"train": 32, "validation": 4, "test": 4}
    assert made.manifest["split_proof"]["groups_on_both_sides"] == 0
    source = made.manifest["sources"][0]
    assert (source["format"], source["rows"], source["quarantined"]) == ("labelled", 200, 0)
    assert "writing" in seen
    assert Dataset.latest(project, "support") is not None
    assert Dataset.find(project, "data:support@v1").digest == made.digest
    assert build(Recipe.build({"name": "x", "data": {"dataset": "data:support"}}), project).dir == made.dir


def test_the_same_inputs_find_the_same_version(project: Project) -> None:
    path = write(project, "a.jsonl", labelled(60))
    first = build(recipe(path), project)
    before = {p.name: p.stat().st_mtime_ns for p in first.dir.iterdir()}
    assert build(recipe(path), project).dir == first.dir
    assert {p.name: p.stat().st_mtime_ns for p in first.dir.iterdir()} == before
    assert build(recipe(path, split={"seed": 5}), project).version == "v2"
    assert build(recipe(path), project).version == "v1"
    # Other code, same data: the version is found by its content.
    assert versions.find_made(project, "support", "another digest") is None
    assert len(versions.version_dirs(project, "support")) == 2


def test_another_project_makes_the_same_bytes(project: Project, tmp_path: Path) -> None:
    other = Project.create(tmp_path / "other", "other")
    for place in (project, other):
        write(place, "a.jsonl", labelled(60))
    assert build(recipe("data/a.jsonl"), project).digest == build(recipe("data/a.jsonl"), other).digest


def test_an_altered_version_is_refused(project: Project) -> None:
    made = build(recipe(write(project, "a.jsonl", labelled(60))), project)
    file = made.dir / "test.jsonl"
    original = file.read_bytes()
    file.write_bytes(original.replace(b"fee", b"fie", 1))
    assert refused(recipe("data/a.jsonl"), project).code == "E340"
    file.write_bytes(original)
    manifest = json.loads((made.dir / "manifest.json").read_text())
    manifest["split_proof"]["leaks"]["exact"] = 7
    (made.dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as caught:
        Dataset.open(made.dir)
    assert (caught.value.code, caught.value.received) == ("E340", "manifest.json")
    with pytest.raises(DataError) as nothing:
        Dataset.open(project.root)
    assert nothing.value.code == "E341"


def test_a_writer_that_dies_leaves_nothing_half_made(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(project, "a.jsonl", labelled(60))

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(versions, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            build(recipe(path), project)
    assert Dataset.latest(project, "support") is None
    assert build(recipe(path), project).version == "v1"


# ───────────────────────────────────────────────────────────────────────────── splits


def test_given_splits_are_never_altered_and_their_leaks_are_counted(project: Project) -> None:
    train, test = labelled(100), labelled(30, start=500)
    test[3] = {**test[3], "text": train[7]["text"].upper() + "!!"}
    test[4] = {**test[4], "text": train[8]["text"].replace("?", " now?")}
    sources = [
        {"path": write(project, "train.jsonl", train), "split": "train"},
        {"path": write(project, "test.jsonl", test), "split": "test"},
    ]
    made = build(recipe(*sources, steps=[{"kind": "deduplicate", "match": "near"}]), project)
    assert [e.place for e in made.examples("test")] == [f"test.jsonl:{i}" for i in range(1, 31)]
    proof = made.manifest["split_proof"]
    assert proof["leaks"] == {"exact": 1, "near": 1}
    assert set(proof["leaking_ids"]) == {made.examples("test")[i].id for i in (3, 4)}
    assert made.manifest["split"]["made"] == ["validation"]
    assert made.manifest["split"]["held_out_of_given_train"] is True
    assert made.count("train") + made.count("validation") == 100
    whole = build(recipe(*sources, split={"validation": 0}), project)
    assert (whole.count("train"), whole.count("validation")) == (100, 0)
    assert whole.manifest["split"]["made"] == []


def test_what_is_alike_to_a_row_of_given_train_is_never_held_out(project: Project) -> None:
    given = labelled(40)
    auto = [{**row, "day": 2000 + i} for i, row in enumerate(labelled(120, start=500))]
    for i in range(30):  # twins, near twins and rows of the same client, late in time
        auto[119 - i] |= [
            {"text": given[i]["text"].upper()},
            {"text": given[i]["text"].replace("?", " now?")},
            {"client": given[i]["client"]},
        ][i % 3]
    sources = [
        {"path": write(project, "train.jsonl", [{**row, "day": 1990} for row in given]), "split": "train"},
        write(project, "a.jsonl", auto),
    ]
    for division in ({"group_by": "client"}, {"group_by": "client", "time_by": "day"}):
        made = build(recipe(*sources, split=division), project)
        proof = made.manifest["split_proof"]
        assert made.count("validation") >= 8 and made.count("test") >= 8
        assert proof["groups_on_both_sides"] == proof["keys_on_both_sides"] == 0
        assert proof["leaks"] == proof["validation_leaks"] == {"exact": 0, "near": 0}
        trained = {e.place for e in made.examples("train")}
        assert {f"a.jsonl:{120 - i}" for i in range(30)} | {f"train.jsonl:{i}" for i in range(1, 41)} <= trained
        assert not made.manifest["quarantine"]["rows"]


def test_a_row_of_an_earlier_test_split_goes_to_train_when_its_twin_is_given_there(project: Project) -> None:
    path = write(project, "a.jsonl", labelled(100))
    before = build(recipe(path), project)
    twin = before.examples("test")[0]
    assert isinstance(twin, Labelled)
    given = {"path": write(project, "t.jsonl", [{"text": twin.text, "label": twin.target}]), "split": "train"}
    after = build(recipe(path, given), project)
    assert twin.place in {e.place for e in after.examples("train")}
    assert {e.id for e in before.examples("test")[1:]} <= {e.id for e in after.examples("test")}
    assert after.manifest["split_proof"]["leaks"] == {"exact": 0, "near": 0}


def test_auto_rows_fill_only_the_splits_nobody_gives(project: Project) -> None:
    auto, test = write(project, "a.jsonl", labelled(100)), write(project, "t.jsonl", labelled(20, start=300))
    made = build(recipe(auto, {"path": test, "split": "test"}), project)
    assert {s: made.count(s) for s in SPLITS} == {"train": 90, "validation": 10, "test": 20}


def test_rows_stay_where_they_were_when_rows_are_added(project: Project) -> None:
    before = build(recipe(write(project, "a.jsonl", labelled(100))), project)
    after = build(recipe(write(project, "a.jsonl", labelled(200))), project)
    for split in SPLITS:
        assert {e.id for e in before.examples(split)} <= {e.id for e in after.examples(split)}
    assert {s: after.count(s) for s in SPLITS} == {"train": 160, "validation": 20, "test": 20}
    assert after.manifest["parents"] == [f"{before.ref} {before.digest}"]
    fresh = build(recipe("data/a.jsonl", split={"seed": 1}), project)
    assert fresh.manifest["parents"] == []


@pytest.mark.parametrize("other", [{"test": 0.3}, {"validation": 0.3}])
def test_another_share_divides_the_same_rows_anew(project: Project, other: dict[str, float]) -> None:
    path = write(project, "a.jsonl", labelled(200))
    first = build(recipe(path), project)
    second = build(recipe(path, split=other), project)
    (split,) = other
    assert second.count(split) == pytest.approx(60, abs=5)  # type: ignore[arg-type]
    assert second.count(split) > first.count(split)  # type: ignore[arg-type]
    assert second.manifest["parents"] == []


def test_a_new_row_that_bridges_two_splits_goes_to_quarantine(project: Project) -> None:
    rows = labelled(100)
    before = build(recipe(write(project, "a.jsonl", rows), split={"group_by": "client"}), project)
    side = {e.meta["client"]: s for s in SPLITS for e in before.examples(s)}
    trained, tested = (next(c for c, s in side.items() if s == split) for split in ("train", "test"))
    texts = {r["client"]: r["text"] for r in rows}
    bridge = {"text": texts[trained], "label": "fee", "client": tested}
    after = build(recipe(write(project, "a.jsonl", [*rows, bridge]), split={"group_by": "client"}), project)
    assert after.manifest["quarantine"]["reasons"]["bridges-splits"]["count"] == 1
    assert after.manifest["quarantine"]["reasons"]["bridges-splits"]["first"] == "a.jsonl:101"
    assert sum(after.count(s) for s in SPLITS) == 100
    assert after.manifest["split_proof"]["groups_on_both_sides"] == 0


def test_group_key_and_slices_stay_in_meta_whatever_the_format_reads(project: Project) -> None:
    path = write(project, "a.jsonl", labelled(60))
    made = build(
        recipe({"path": path, "map": {"text": "client", "label": "label"}}, split={"group_by": "client"}), project
    )
    assert made.examples("train")[0].meta["client"].startswith("c")
    wrong = refused(recipe(path, split={"group_by": "patient"}), project)
    assert wrong.code == "E248" and "client" in wrong.expected
    source = {"path": path, "permission": {"license": "MIT", "purpose": ["training"], "subject_key": "patient"}}
    wrong = refused(recipe(source), project)
    assert wrong.code == "E248" and wrong.what.startswith("data.sources.0.permission.subject_key names")


# ───────────────────────────────────────────────────────────────────────────── bad rows


def test_bad_rows_are_kept_apart_and_good_ones_stay(project: Project) -> None:
    rows: list[Any] = labelled(100)
    rows[9] = {"text": "secret name", "label": None}
    rows[19] = {"label": "fee"}
    made = build(recipe(write(project, "a.jsonl", rows)), project)
    facts = made.manifest["quarantine"]
    assert facts["rows"] == 2 and facts["share"] == 0.02
    assert facts["reasons"]["no-label"] == {
        "count": 1,
        "first": "a.jsonl:10",
        "field": "label",
        "what": "there is no label",
    }
    file = project.root / facts["file"]
    assert json.loads(json.loads(file.read_text().splitlines()[0])["raw"]) == rows[9]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(project.private_dir.stat().st_mode) == 0o700
    assert "secret" not in (made.dir / "manifest.json").read_text()


def test_text_in_a_binary_column_is_read_and_bytes_that_are_no_text_cost_a_row(project: Project) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = labelled(60)
    columns: dict[str, list[Any]] = {
        "text": [f"café {r['text']}".encode() for r in rows],
        "label": [r["label"].encode() for r in rows],
        "picture": [b"\xff\xd8\xff"] * 60,
    }
    columns["text"][7] = "ein Café".encode("latin-1")
    pyarrow.parquet.write_table(pyarrow.table(columns), project.root / "data" / "a.parquet")
    made = build(recipe("data/a.parquet"), project)
    (entry,) = made.manifest["quarantine"]["reasons"].items()
    assert entry == (
        "not-utf8",
        {"count": 1, "first": "a.parquet:8", "field": "text", "what": "the column holds bytes that are no UTF-8 text"},
    )
    first = made.examples("train")[0]
    assert isinstance(first, Labelled)
    assert first.text.startswith("café ") and first.target in TOPICS and first.meta["picture"] == {"bytes": 3}
    error = refused(recipe("data/a.parquet", prompt={"user": "{text} {picture}"}), project)
    assert error.code == "E310" and "not-utf8" in error.received
    columns["text"] = [b"\xff\xd8\xff"] * 60
    pyarrow.parquet.write_table(pyarrow.table(columns), project.root / "data" / "b.parquet")
    assert refused(recipe("data/b.parquet"), project).received == "not-utf8 60"


def test_too_many_bad_rows_stop_the_preparation_and_can_be_looked_at(project: Project) -> None:
    chat = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    rows = [chat] * 90 + [{"messages": chat["messages"][:1]}] * 10
    made = recipe(write(project, "a.jsonl", rows), task="chat", method="sft")
    error = refused(made, project)
    assert (error.code, error.place) == ("E310", "a.jsonl:91")
    assert "10.0% of 100 rows" in error.what and "no-assistant-message" in error.what and "9 like it" in error.what
    files = list((project.private_dir / "quarantine" / "support").glob("*.jsonl"))
    assert len(files) == 1 and len(files[0].read_text().splitlines()) == 10
    assert error.fix.startswith("metier data check --show E310 ")
    assert error.fix.endswith(f" private/quarantine/support/{files[0].name}")
    assert quarantine_file(made, project, digest_json(inputs(made, project))) == files[0]
    assert listing(files[0]) == [
        ("no-assistant-message", f"a.jsonl:{n} no-assistant-message messages") for n in range(91, 101)
    ]
    files[0].unlink()
    assert listing(files[0]) == []
    assert build(recipe("data/a.jsonl", task="chat", method="sft", max_quarantine=0.1), project).count("train") > 0


def test_a_file_of_another_encoding_is_counted_row_by_row(project: Project) -> None:
    lines = ["text,label", *(f"caf\u00e9 {r['text']},{r['label']}" for r in labelled(40))]
    (project.root / "data" / "a.csv").write_bytes("\n".join(lines).encode("latin-1"))
    error = refused(recipe("data/a.csv"), project)
    assert error.code == "E310" and error.received == "not-utf8 40" and error.place == "a.csv:2"


# ───────────────────────────────────────────────────────────────────────────── labels


def test_one_label_and_labels_only_in_test(project: Project) -> None:
    one = write(project, "one.jsonl", [{**r, "label": "fee"} for r in labelled(40)])
    assert refused(recipe(one), project).code == "E320"
    train = {"path": write(project, "train.jsonl", labelled(40)), "split": "train"}
    extra = [*labelled(5, start=90), {"text": "new", "label": "loan"}, {"text": "newer", "label": "x" * 41}]
    test = {"path": write(project, "test.jsonl", extra), "split": "test"}
    error = refused(recipe(train, test), project)
    assert error.code == "E321" and "2 labels of test" in error.what
    assert "`loan`" in error.received and "xxx" not in error.received and "2 rows of test" in error.received


def test_numbers_as_labels_sort_by_value(project: Project) -> None:
    rows = [{**r, "label": i % 12} for i, r in enumerate(labelled(240))]
    made = build(recipe(write(project, "a.jsonl", rows)), project)
    assert made.labels == tuple(str(i) for i in range(12))


def test_regression_and_several_labels(project: Project) -> None:
    scores = write(project, "s.jsonl", [{**r, "label": i + 0.5} for i, r in enumerate(labelled(40))])
    made = build(recipe(scores), project)
    assert (made.manifest["problem_type"], made.labels) == ("regression", ())
    table = "text,label\n" + "".join(f'"{r["text"]}",{i}\n' for i, r in enumerate(labelled(40)))
    (project.root / "data" / "s.csv").write_text(table)
    stated = build(recipe("data/s.csv", method={"kind": "classify", "problem_type": "regression"}), project)
    assert stated.manifest["problem_type"] == "regression"
    assert isinstance(stated.examples("train")[0].target, float)  # type: ignore[union-attr]
    several = [{**r, "label": ["fee", r["label"]] if i % 3 else []} for i, r in enumerate(labelled(41)) if i % 5]
    many = build(recipe(write(project, "m.jsonl", several)), project)
    assert many.manifest["problem_type"] == "multi_label"
    assert () in {e.target for e in many.examples("train")}  # type: ignore[union-attr]
    mixed = write(project, "x.jsonl", [*labelled(20), {"text": "t", "label": 1.5}])
    assert refused(recipe(mixed), project).code == "E323"


# ───────────────────────────────────────────────────────────────────────────── prompt, steps, refusals


def test_the_prompt_is_filled_from_the_row(project: Project) -> None:
    rows = [{"dialogue": f"D{i}", "note": f"N{i}", "section": "HPI"} for i in range(40)]
    source = {"path": write(project, "a.jsonl", rows), "map": {"prompt": "dialogue", "completion": "note"}}
    prompt = {"system": "Be exact.", "user": "{{Summarize}} {section}:\n{dialogue}"}
    made = build(recipe(source, task="summarize", method="sft", prompt=prompt), project)
    example = next(e for e in made.examples("train") if e.place == "a.jsonl:1")
    assert isinstance(example, Conversation)
    assert [m.text for m in example.messages] == ["Be exact.", "{Summarize} HPI:\nD0", "N0"]
    assert example.meta == {"section": "HPI"}
    assert made.manifest["prompt"] == prompt
    missing = refused(recipe(source, task="summarize", method="sft", prompt={"user": "{chapter}"}), project)
    assert missing.code == "E310" and "no-prompt-column" in missing.what


def test_labelled_rows_become_conversations_under_generative_tasks_only(project: Project) -> None:
    path = write(project, "a.jsonl", [{**r, "label": 43.0} for r in labelled(40)])
    made = build(recipe(path, task="generate", method="sft", prompt={"user": "Answer: {text}"}), project)
    example = made.examples("train")[0]
    assert isinstance(example, Conversation) and example.messages[-1].text == "43"
    assert example.messages[0].text.startswith("Answer: ")
    kept = build(
        recipe(write(project, "b.jsonl", labelled(40)), method="sft", prompt={"user": "{text} {labels}"}), project
    )
    assert isinstance(kept.examples("train")[0], Labelled)


@pytest.mark.parametrize("told", ["note", "completion"])
def test_a_prompt_cannot_tell_the_answer(project: Project, told: str) -> None:
    pairs = write(project, "a.jsonl", [{"dialogue": f"D{i}", "note": f"N{i}"} for i in range(20)])
    source = {"path": pairs, "map": {"prompt": "dialogue", "completion": "note"}}
    error = refused(recipe(source, task="summarize", method="sft", prompt={"user": f"{{{told}}}"}), project)
    assert error.code == "E310" and "no-prompt-column" in error.what
    rows = write(project, "b.jsonl", labelled(20))
    for task in ("classify", "generate"):
        error = refused(recipe(rows, task=task, method="sft", prompt={"user": "{text} {label}"}), project)
        assert "no-prompt-column" in error.what


def test_a_prompt_without_use_is_an_error(project: Project) -> None:
    chat = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    path = write(project, "a.jsonl", [chat] * 20)
    assert refused(recipe(path, task="chat", method="sft", prompt={"user": "{text}"}), project).code == "E245"
    made = build(recipe(path, task="chat", method="sft", prompt={"system": "S"}), project)
    assert made.examples("train")[0].messages[0].text == "S"  # type: ignore[union-attr]


def test_steps_are_counted_by_pool(project: Project) -> None:
    rows = labelled(60)
    path = write(project, "a.jsonl", [*rows, *rows[:5], {"text": " padded text  ", "label": "fee"}])
    made = build(recipe(path, steps=["clean", {"kind": "deduplicate"}]), project)
    clean, deduplicate = made.manifest["steps"]
    assert (clean["rows_in"], clean["rows_out"], clean["note"]) == (66, 66, "1 of 66 rows changed")
    assert (deduplicate["rows_out"], deduplicate["dropped"]) == (61, {"exact duplicate": 5})
    assert "padded text" in {e.text for s in SPLITS for e in made.examples(s)}  # type: ignore[union-attr]
    nothing = refused(recipe(path, steps=[{"kind": "filter_length", "min_characters": 10_000}]), project)
    assert nothing.code == "E305"
    assert refused(recipe(path, steps=["deduplikate"]), project).code == "E210"
    unread = refused(recipe(path, steps=[{"kind": "clean", "unicod": "NFC"}]), project)
    assert unread.code == "E211" and unread.fix == "Did you mean `unicode`?"


def test_what_a_recipe_may_not_say(project: Project) -> None:
    path = write(project, "a.jsonl", labelled(40))
    assert refused(recipe(), project).code == "E246"
    both = Recipe.build({"name": "x", "data": {"dataset": "data:x", "sources": [{"path": path}]}})
    assert refused(both, project).code == "E246"
    column = refused(recipe({"path": path, "map": {"text": "txt", "label": "label"}}), project)
    assert column.code == "E312" and column.fix == "Did you mean `text`?"
    assert refused(recipe({"path": path, "format": "labeled"}), project).code == "E210"
    assert refused(recipe({"path": path, "split": "test"}), project).code == "E322"
    with pytest.raises(ConfigError) as unknown:
        Dataset.find(project, "data:support@v9")
    assert unknown.value.code == "E252"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("steps: [clean]", "data.steps"),
        ("max_quarantine: 0.5", "data.max_quarantine"),
        ("split: {stratify: false}", "data.split.stratify"),
        ("split: {validation: 0.1, seed: 3}", "data.split.seed"),
    ],
)
def test_a_version_that_is_made_is_not_prepared_again(project: Project, data: str, key: str) -> None:
    build(recipe(write(project, "a.jsonl", labelled(40))), project)
    text = "name: x\ndata:\n  dataset: data:support\n  {}\n"
    with pytest.raises(ConfigError, match=f"E244 `{key}`") as caught:
        build(Recipe.parse(text.format(data), file="r.yaml"), project)
    assert caught.value.place == "r.yaml:4" and f"remove `{key}`" in caught.value.fix
    resolved = Recipe.parse(text.format("split: {seed: 0}"), file="r.yaml").to_yaml()
    assert build(Recipe.parse(resolved), project).name == "support", "what is at its default was not asked for"


def test_a_full_version_folder_that_cannot_be_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(project, "a.jsonl", labelled(40))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metier.core.project.os.fsync", full)
    assert refused(recipe(path), project).code == "E420"
    monkeypatch.undo()
    assert build(recipe(path), project).version == "v1"


def test_a_given_split_stays_as_it_is_when_the_rows_are_prepared_again(project: Project) -> None:
    given = labelled(20, start=500)
    twins = [dict(row) for row in given[:4]]
    held = {"path": write(project, "test.jsonl", given), "split": "test"}
    first = build(recipe(write(project, "a.jsonl", [*labelled(100), *twins]), held), project)
    again = build(recipe(write(project, "a.jsonl", [*labelled(120), *twins]), held), project)
    grouped = build(recipe("data/a.jsonl", held, split={"group_by": "client"}), project)
    write(project, "a.jsonl", [*labelled(121), *twins])
    for made in (first, again, grouped, build(recipe("data/a.jsonl", held, split={"group_by": "client"}), project)):
        assert sorted(e.place for e in made.examples("test")) == sorted(f"test.jsonl:{i}" for i in range(1, 21))
        assert made.manifest["split_proof"]["leaks"]["exact"] == 4
    assert [made.version for made in (first, again, grouped)] == ["v1", "v2", "v3"]


def test_a_split_that_was_made_and_is_given_now_takes_no_row_of_the_earlier_one(project: Project) -> None:
    path = write(project, "a.jsonl", labelled(100))
    assert build(recipe(path), project).count("test") == 10
    held = {"path": write(project, "test.jsonl", labelled(20, start=500)), "split": "test"}
    made = build(recipe(path, held), project)
    assert {e.place.partition(":")[0] for e in made.examples("test")} == {"test.jsonl"} and made.count("test") == 20
