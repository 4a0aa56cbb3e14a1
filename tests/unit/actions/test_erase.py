"""A person leaves a whole project; what proves it, and what it does to the runs that saw them."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from erasing import Person, interrupted, people, project_with, run_on
from metier.actions import erase as actions
from metier.actions.compose import compose, facts_of
from metier.actions.models import export, predict
from metier.actions.train import create, resume
from metier.core import audit, locks
from metier.core.errors import ConfigError, DataError, PermissionDenied
from metier.core.project import Project, digest_file, read_json, write_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.data import subjects
from metier.data.versions import Dataset
from metier.governance import erasure
from metier.training import checkpoint, loop
from tiny import write_model

PERSONS = people(24, seed=3)
ANNA, BERT = PERSONS[:2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run that read everything; each test has its own copy."""
    root = tmp_path_factory.mktemp("erase") / "desk"
    project, version, recipe = project_with(root, PERSONS, [ANNA, BERT])
    run = run_on(project, version, recipe)
    run.update(state="stopped", exports=[{"to": "models/desk", "form": "hf", "time": "2026-11-21T00:00:00.000Z"}])
    (root / "models" / "desk").mkdir(parents=True)
    child = Run.create(project.new_run_dir("classify", "child"), name="child", method="classify", model="models/desk")
    (child.dir / "recipe.resolved.yaml").write_text(recipe.to_yaml())
    (root / "audit.jsonl").unlink()  # its anchor is this folder's
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path / "desk")
    return Project(tmp_path / "desk")


def files_with(root: Path, person: Person) -> list[str]:
    """Which files say anything of a person: found without Metier's own search."""
    words = [person.key, person.name, *person.texts, *(t[:60] for t in person.texts), *(t[-60:] for t in person.texts)]
    found = []
    for file in (p for p in sorted(root.rglob("*")) if p.is_file()):
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        if any(word.lower().encode() in data.lower() for word in words):
            found.append(file.relative_to(root).as_posix())
    return found


def go(project: Project, person: Person) -> dict[str, Any]:
    return actions.erase(project, actions.prepare(project, person.key, [person.name]))


def run_of(project: Project) -> Run:
    return Run(project.run_dir("1"))


def test_nothing_of_the_person_is_left_and_the_others_are_there(project: Project) -> None:
    before = files_with(project.root, ANNA)
    assert len(before) > 12, before
    others = {person.key: files_with(project.root, person) for person in PERSONS[2:]}
    certificate = go(project, ANNA)
    assert files_with(project.root, ANNA) == []
    left = {person.key: files_with(project.root, person) for person in PERSONS[2:]}
    for key, files in others.items():
        assert len(left[key]) == len(files), key
    assert certificate["complete"] and certificate["scan"]["hits"] == 0 and certificate["scan"]["files"] > 20
    stores = {entry["store"] for entry in certificate["removed"]}
    assert stores >= {"sources", "versions", "private lists", "token caches", "trunk caches", "reports"}
    assert not (project.private_dir / "erasure").exists()
    assert audit.verify(project) == []


def test_what_an_interrupted_preparation_kept_of_them_goes(project: Project) -> None:
    folder = interrupted(project, Recipe.read(project.root / "recipes" / "desk.yaml"))
    assert any(name.startswith("private/prepare/desk/") for name in files_with(project.root, ANNA))
    certificate = go(project, ANNA)
    assert files_with(project.root, ANNA) == [] and certificate["complete"]
    assert "interrupted preparations" in {entry["store"] for entry in certificate["removed"]}
    assert not folder.exists()


def test_the_certificate_holds_nothing_of_the_person(project: Project) -> None:
    certificate = go(project, ANNA)
    (file,) = (project.root / "erasures").glob("*.json")
    assert {k: v for k, v in read_json(file).items() if k != "schema_version"} == certificate
    page = file.with_suffix(".md").read_text()
    assert "Result: complete" in page and "run 1 (desk)" in page and "models/desk" in page
    assert certificate["subject"] == audit.pseudonym(project, ANNA.key) != audit.pseudonym(project, BERT.key)
    assert certificate["who"] == audit.user()
    actions_done = [r["action"] for r in audit.records(project)]
    assert actions_done == ["erase.begin", "erase"]
    assert next(r for r in audit.records(project) if r["action"] == "erase")["fields"]["runs"] == [1, 2]


def test_a_dry_run_changes_no_byte(project: Project) -> None:
    before = {p: digest_file(p) for p in project.root.rglob("*") if p.is_file()}
    plan = actions.prepare(project, ANNA.key, [ANNA.name]).to_json()
    assert {p: digest_file(p) for p in project.root.rglob("*") if p.is_file()} == before
    assert [run["run"] for run in plan["runs"]] == [1, 2] and plan["versions"][0]["ref"] == "data:desk@v1"
    assert sum(entry["num"] for entry in plan["found"] if entry["store"] == "versions") == 4
    assert ANNA.key not in json.dumps(plan) and ANNA.name not in json.dumps(plan)


STORES = [type(store).__name__ for store in actions.stores_of(Project.__new__(Project), [], "", "")]


@pytest.mark.parametrize("name", [*STORES, "scan", "write"])
@pytest.mark.parametrize("after", [False, True])
def test_an_erasure_that_is_killed_anywhere_is_finished_by_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    owner, attribute = (getattr(actions, name), "erase") if name in STORES else (erasure, name)
    real = getattr(owner, attribute)

    def killed(*args: Any, **words: Any) -> Any:
        if after:
            real(*args, **words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, attribute, killed)
        with pytest.raises(KeyboardInterrupt):
            go(project, ANNA)
    assert run_of(project).status()["erased"], "no run may look as if nothing had happened"
    prepared = actions.prepare(project, ANNA.key, [ANNA.name])
    assert prepared.to_json()["interrupted"]
    certificate = actions.erase(project, prepared)
    assert certificate["complete"] and files_with(project.root, ANNA) == []
    assert [run["run"] for run in certificate["runs"]] == [1, 2]
    assert len(run_of(project).status()["erased"]) == 1
    assert [v["ref"] for v in certificate["versions"]] == ["data:desk@v1"]
    assert audit.verify(project) == []


def test_runs_that_saw_the_rows_are_marked_and_say_so(project: Project) -> None:
    certificate = go(project, ANNA)
    assert [run["run"] for run in certificate["runs"]] == [1, 2], "the second began with the first one's model"
    assert certificate["models"] == [{"run": 1, "to": "models/desk", "form": "hf"}]
    run = run_of(project)
    (mark,) = run.status()["erased"]
    assert mark["certificate"] == certificate["certificate"] and sum(mark["rows"].values()) == 4
    for name in ("report.html", "report.md", "README.md", "evaluations/test-step-000002/report.md"):
        assert certificate["certificate"] in (run.dir / name).read_text(), name


def test_a_marked_run_neither_goes_on_nor_is_exported(project: Project) -> None:
    certificate = go(project, ANNA)
    with pytest.raises(PermissionDenied, match=r"E607.*\n.*erasure-") as refused:
        resume(project, "1")
    assert "--fork" in refused.value.fix
    rows = certificate["runs"][0]["rows"]
    assert rows.get("train") or rows.get("validation")
    with pytest.raises(PermissionDenied, match="E608"):
        export(project, "1", project.root / "out")
    assert resume(project, "1", fork=True).status()["state"] == "created"


def test_a_second_person_is_traced_through_the_first_ones_tombstone(project: Project) -> None:
    go(project, ANNA)
    certificate = go(project, BERT)
    assert [run["run"] for run in certificate["runs"]] == [1, 2]
    assert len(run_of(project).status()["erased"]) == 2
    assert files_with(project.root, ANNA) == [] == files_with(project.root, BERT)


def test_what_is_left_somewhere_fails_and_is_named_without_its_content(project: Project) -> None:
    note = project.root / "todo.md"
    note.write_text(f"call {ANNA.name}\n")
    with pytest.raises(DataError, match="E367") as refused:
        go(project, ANNA)
    assert (refused.value.exit_code, refused.value.place) == (3, "todo.md")
    assert ANNA.name not in str(refused.value)
    (file,) = (project.root / "erasures").glob("*.json")
    assert read_json(file)["scan"]["left_in"] == ["todo.md"] and not read_json(file)["complete"]
    assert note.read_text() == f"call {ANNA.name}\n"
    note.unlink()
    assert go(project, ANNA)["complete"]
    assert read_json(file)["complete"], "the same certificate, now complete"


def test_a_third_call_scans_again_and_an_unknown_key_is_an_error(project: Project) -> None:
    first = go(project, ANNA)
    again = actions.prepare(project, ANNA.key)
    assert again.to_json()["earlier"] == [first["certificate"]] and again.found == []
    assert actions.erase(project, again)["complete"]
    with pytest.raises(DataError, match="E369"):
        actions.prepare(project, "P-no-such-person")


def test_texts_that_say_too_little_are_refused(project: Project) -> None:
    for key, also in (("", []), (ANNA.key, ["Ann"]), (ANNA.key, ["5550199"])):
        with pytest.raises(ConfigError, match="E292"):
            actions.prepare(project, key, also)
    (project.root / "recipes" / "desk.yaml").unlink()
    shutil.rmtree(project.datasets_dir)
    shutil.rmtree(project.runs_dir)
    with pytest.raises(ConfigError, match="E292"):
        actions.prepare(project, "17")


def test_a_run_that_is_going_on_has_to_end_first(project: Project) -> None:
    run = run_of(project)
    run.hold()
    try:
        with pytest.raises(ConfigError, match="E234"):
            go(project, ANNA)
    finally:
        run.release()
    assert files_with(project.root, ANNA), "nothing was touched"


def test_a_source_outside_is_listed_and_left(project: Project, tmp_path: Path) -> None:
    far = tmp_path / "far.jsonl"
    far.write_text(json.dumps({"person": ANNA.key, "text": "far away"}) + "\n")
    recipe = project.root / "recipes" / "far.yaml"
    recipe.write_text(f"name: far\ndata:\n  sources:\n    - path: {far}\n      permission: {{subject_key: person}}\n")
    (project.root / "recipes" / "broken.yaml").write_text("nam: x\n")
    certificate = go(project, ANNA)
    assert certificate["outside"] == [str(far)] and ANNA.key in far.read_text()
    assert any("broken.yaml" in text for text in certificate["not_scanned"])


def test_a_short_key_leaves_by_its_column(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p", "p")
    rows = [{"nr": i % 4, "text": f"{PERSONS[i].texts[0]} at {i}:17"} for i in range(16)]
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = "name: p\ndata:\n  sources:\n    - {path: data/rows.jsonl, permission: {subject_key: nr}}\n"
    (project.root / "recipes" / "p.yaml").write_text(recipe)
    write_json(project.root / "list.json", {"nr": "2", "steps": 2})
    with pytest.raises(DataError, match=r"E367"):
        actions.erase(project, actions.prepare(project, "2"))
    (project.root / "list.json").unlink()
    assert actions.erase(project, actions.prepare(project, "2"))["complete"]
    left = [json.loads(line) for line in (project.root / "data" / "rows.jsonl").open()]
    assert [row["nr"] for row in left] == [i % 4 for i in range(16) if i % 4 != 2]


def test_a_run_on_numbers_still_answers_when_an_erasure_moved_their_mean(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p", "p")
    write_model(project.root / "base")
    texts = {p.key: f"{p.texts[0]} at {i}:17" for i, p in enumerate(PERSONS)}
    rows = [{"key": key, "text": text, "label": 9.5 * (i == 0) + i % 5} for i, (key, text) in enumerate(texts.items())]
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.build(
        {
            "name": "p",
            "objective": {"task": "classify"},
            "method": {"kind": "classify", "problem_type": "regression"},
            "model": {"name_or_path": "base"},
            "adapter": {"kind": "lora"},
            "data": {
                "sources": [{"path": "data/rows.jsonl", "permission": {"subject_key": "key"}}],
                "split": {"validation": 0.2, "test": 0.2},
            },
        }
    )
    (project.root / "recipes" / "p.yaml").write_text(recipe.to_yaml())
    run = create(recipe, project)
    parts = compose(recipe, project)
    run.update(state="done", dataset=parts.dataset.ref, dataset_digest=parts.dataset.digest)
    write_json(run.dir / "environment.json", {"pinned": parts.pinned})
    saved = checkpoint.save(
        run.checkpoints_dir, parts.policy, loop.start(parts.policy, parts.plan), digests=parts.digests, figures={}
    )
    before = [answer["output"] for answer in predict(project, "1", ["a row"])]
    leaves = next(e for e in parts.dataset.examples("train") if e.target != 2)  # type: ignore[union-attr]
    actions.erase(project, actions.prepare(project, str(leaves.meta["key"])))
    assert facts_of(Dataset.find(project, parts.dataset.ref)).target_mean != parts.method.facts.target_mean
    assert [answer["output"] for answer in predict(project, "1", ["a row"])] == before
    assert facts_of(Dataset.find(project, parts.dataset.ref), saved) == parts.method.facts


# ───────────────────────────────────────────────────────────────────────────── what changes meanwhile


def test_rows_that_came_after_the_look_are_found_too(project: Project) -> None:
    prepared = actions.prepare(project, ANNA.key, [ANNA.name])
    late = project.root / "data" / "late.jsonl"
    late.write_text(json.dumps({"person": ANNA.key, "text": "came late"}) + "\n")
    assert actions.erase(project, prepared)["complete"]
    assert late.read_text() == ""


def test_nothing_is_erased_beside_a_preparation_or_another_erasure(project: Project) -> None:
    prepared = actions.prepare(project, ANNA.key, [ANNA.name])
    for lock in (locks.together(project, "metier data prepare"), locks.alone(project, "metier erase")):
        with lock, pytest.raises(ConfigError, match="E293") as refused:
            actions.erase(project, prepared)
        assert refused.value.received.startswith("metier ")
    assert files_with(project.root, ANNA), "nothing was touched"
    assert actions.erase(project, prepared)["complete"]


def _prepares(root: Path, started: Any, held: Any) -> None:
    """Read the sources, wait, then write a version: what a preparation beside an erasure would do."""
    from metier.data import dataset

    real = dataset.collect

    def collect(*args: Any) -> Any:
        found = real(*args)
        started.set()
        held.wait(20)
        return found

    dataset.collect = collect  # type: ignore[assignment]
    project = Project(root)
    recipe = Recipe.read(root / "recipes" / "desk.yaml")
    dataset.build(recipe.with_values({"name": "second"}), project)


def test_a_preparation_that_read_the_sources_writes_nothing_behind_an_erasure(project: Project) -> None:
    context = multiprocessing.get_context("fork")
    started, held = context.Event(), context.Event()
    worker = context.Process(target=_prepares, args=(project.root, started, held))
    worker.start()
    try:
        assert started.wait(60)
        with pytest.raises(ConfigError, match="E293"):
            go(project, ANNA)
        held.set()
        worker.join(60)
        assert "datasets/second" in "".join(files_with(project.root, ANNA)), "it was there to be found"
        assert go(project, ANNA)["complete"]
    finally:
        held.set()
        worker.join(60)
    assert files_with(project.root, ANNA) == []


# ───────────────────────────────────────────────────────────────────────────── what is gone already


def test_a_stale_recipe_and_a_bare_text_end_no_erasure(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLD_DISK", raising=False)
    text = "name: old\ndata:\n  sources:\n    - path: ${OLD_DISK}/rows.jsonl\n      permission: {subject_key: person}\n"
    (project.root / "recipes" / "old.yaml").write_text(text)
    (project.root / "data" / "bare.json").write_text(json.dumps(f"a word of {ANNA.name}"))
    certificate = go(project, ANNA)
    assert certificate["complete"] and "${OLD_DISK}/rows.jsonl: not read (E231)" in certificate["not_scanned"]
    assert (project.root / "data" / "bare.json").read_text() == "[]\n"


def test_a_run_of_a_version_that_is_gone_is_named_and_its_caches_go(project: Project) -> None:
    shutil.rmtree(project.datasets_dir)
    assert list((project.cache_dir / "tokens").glob("0001*")) and list((project.cache_dir / "trunk").iterdir())
    certificate = go(project, ANNA)
    assert "run 1: data:desk@v1 is gone; whether the run saw the rows is not known" in certificate["not_scanned"]
    assert certificate["runs"] == []
    assert not list((project.cache_dir / "tokens").iterdir()) and not list((project.cache_dir / "trunk").iterdir())
    assert files_with(project.root, ANNA) == []


def test_a_run_that_began_with_a_model_that_is_deleted_is_listed(project: Project) -> None:
    shutil.rmtree(project.root / "models")
    assert [run["run"] for run in go(project, ANNA)["runs"]] == [1, 2]


def test_what_the_scan_cannot_open_stands_in_the_certificate(project: Project) -> None:
    (project.root / "notes.7z").write_bytes(b"7z\xbc\xaf\x27\x1c....")
    (project.root / "data" / "sheet.pdf").write_bytes(b"%PDF-1.7 nothing")
    certificate = go(project, ANNA)
    assert "notes.7z: a 7-Zip archive" in certificate["not_scanned"]
    (page,) = (project.root / "erasures").glob("*.md")
    assert "- notes.7z: a 7-Zip archive" in page.read_text()


@pytest.mark.parametrize("changed", [False, True])
def test_the_person_is_looked_for_again_only_where_the_project_changed(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    looks: list[Any] = []
    real = subjects.gather
    monkeypatch.setattr(subjects, "gather", lambda *args, **words: looks.append(args) or real(*args, **words))
    prepared = actions.prepare(project, ANNA.key, [ANNA.name])
    if changed:
        (project.root / "notes.txt").write_text("nothing of interest")
    actions.erase(project, prepared)
    assert len(looks) == 1 + changed


def test_a_run_that_somebody_deleted_and_that_was_exported_is_named(project: Project) -> None:
    for name in ("0007-aaaa", "0008-bbbb", run_of(project).id):
        audit.append(project, "export", run=name, form="hf", parity=True)
    audit.append(project, "run.remove", run="0008-bbbb", dataset=None)
    notes = [note for note in go(project, ANNA)["not_scanned"] if note.startswith("run ")]
    assert notes == ["run 0007-aaaa: its folder is gone, and a model was exported from it"]
