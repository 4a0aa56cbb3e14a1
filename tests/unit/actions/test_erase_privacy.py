"""A person leaves what privacy made of their rows: surrogates, re-identified rows, the statement of the manifest."""

from __future__ import annotations

import json
import multiprocessing
import random
from pathlib import Path
from typing import Any

import pytest

from erasing import WORDS
from metier.actions import erase as actions
from metier.actions.data import prepare
from metier.actions.reidentify import destroy_vault, reidentify
from metier.core import audit
from metier.core.extras import installed
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.core.subject import Subject
from metier.core.types import SPLITS, Example
from metier.data.canaries import is_canary
from metier.data.erase_versions import VersionStore
from metier.data.privacy import vault
from metier.data.versions import Dataset

pytestmark = pytest.mark.skipif(installed("cryptography") is None, reason="cryptography is not installed")
NAMES = [f"{first} {last}" for first in ("Zbigniew", "Grażyna") for last in ("Kowalczyk", "Wojciechowski", "Zieliński")]
KEYS = [f"{number}" for number in range(31, 31 + 7 * 10, 7)]
ROWS_OF_EACH = 4


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Ten patients, whose keys are too short to be looked for in bytes, with surrogates for them; ten canaries."""
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))
    project = Project.create(tmp_path / "project", "test")
    monkeypatch.chdir(project.root)
    rng = random.Random(1)
    rows = [
        {"text": f"Dr. {NAMES[i % 6]} said: {' '.join(rng.sample(WORDS, 12))}.", "patient": key, "ward": f"w{i % 2}"}
        for i, key in enumerate(key for key in KEYS for _ in range(ROWS_OF_EACH))
    ]
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = Recipe.build(
        {
            "name": "notes",
            "data": {
                "sources": [{"path": "data/a.jsonl", "permission": {"personal_data": True, "subject_key": "patient"}}],
                "steps": [
                    {
                        "kind": "deidentify",
                        "strategy": "surrogate",
                        "columns": {"patient": "MRN", "ward": "keep"},
                        "quasi_identifiers": ["ward"],
                    }
                ],
                "canaries": {"num": 3, "repeats": [2]},
                "split": {"group_by": "patient"},
            },
        }
    )
    (project.root / "recipes" / "notes.yaml").write_text(made.to_yaml())
    prepare(made, project)
    return project


def examples(project: Project) -> list[Example]:
    version = Dataset.find(project, "data:notes@v1")
    return [e for split in SPLITS for e in version.examples(split)]


def rows_by_patient(project: Project) -> dict[str, int]:
    found: dict[str, int] = {}
    for example in (e for e in examples(project) if not is_canary(e)):
        found[example.meta["patient"]] = found.get(example.meta["patient"], 0) + 1
    return found


def go(project: Project, key: str, also: tuple[str, ...] = ()) -> dict[str, Any]:
    return actions.erase(project, actions.prepare(project, key, also))


def test_rows_under_a_surrogate_go_and_nobody_elses(project: Project) -> None:
    entries = vault.load(vault.file(project, "notes")).entries["MRN"]
    mine, others = entries[KEYS[3]][0], {entries[key][0] for key in KEYS if key != KEYS[3]}
    assert rows_by_patient(project) == dict.fromkeys({mine, *others}, ROWS_OF_EACH)
    certificate = go(project, KEYS[3])
    assert rows_by_patient(project) == dict.fromkeys(others, ROWS_OF_EACH)
    assert certificate["complete"] and sum(certificate["versions"][0]["rows"].values()) == ROWS_OF_EACH
    assert not any("surrogates" in note for note in certificate["not_scanned"])
    left = vault.load(vault.file(project, "notes")).entries["MRN"]
    assert set(left) == {*KEYS} - {KEYS[3]}
    assert audit.verify(project) == []


def test_a_source_row_whose_key_is_the_surrogate_of_the_person_stays(project: Project) -> None:
    alias = vault.load(vault.file(project, "notes")).entries["MRN"][KEYS[3]][0]
    later = {"text": "Somebody who came later and has this number in fact.", "patient": alias, "ward": "w0"}
    (project.root / "data" / "b.jsonl").write_text(json.dumps(later) + "\n")
    assert go(project, KEYS[3])["complete"]
    assert json.loads((project.root / "data" / "b.jsonl").read_text()) == later


def test_re_identified_rows_go_and_a_file_that_is_named_after_them(project: Project) -> None:
    done = reidentify("data:notes", project)
    assert done.file is not None
    first = examples(project)[0]
    answers = project.root / "Zbigniew-Answers.jsonl"
    answers.write_text(json.dumps({"raw": 5, "output": "Nothing personal at all."}) + "\n")
    named = reidentify(str(answers), project, vault_name="notes").file
    assert named is not None and first.id in done.file.read_text()
    answers.unlink()
    certificate = go(project, KEYS[0], ("Zbigniew-Answers",))
    assert certificate["complete"] and not named.exists()
    kept = [json.loads(line)["id"] for line in done.file.open()]
    assert kept == [e.id for e in examples(project)]
    assert done.file.stat().st_mode & 0o777 == 0o600


def test_re_identified_rows_have_the_keys_of_the_people_again(project: Project) -> None:
    done = reidentify("data:notes", project)
    assert done.file is not None
    keys = [json.loads(line)["meta"].get("patient") for line in done.file.open()]
    assert sorted(key for key in keys if key) == sorted(key for key in KEYS for _ in range(ROWS_OF_EACH))


def test_a_name_of_several_words_is_found_by_its_surrogates(project: Project) -> None:
    before = [e for e in examples(project) if not is_canary(e)]
    certificate = go(project, KEYS[0], (NAMES[1],))
    opened = vault.load(vault.file(project, "notes"))
    left = [e for e in examples(project) if not is_canary(e)]
    text = (project.root / "data" / "a.jsonl").read_text()
    assert certificate["complete"] and NAMES[1] not in text and "Kowalczyk" in text and "Wojciechowski" in text
    assert len(left) == len(text.splitlines()) < len(before) - ROWS_OF_EACH
    assert {"zbigniew", "wojciechowski"} <= set(opened.entries["WORD"]), "others are called so, too"


def test_the_canaries_stay_and_k_is_counted_again(project: Project) -> None:
    planted = [e for e in examples(project) if is_canary(e)]
    before = Dataset.find(project, "data:notes@v1").manifest
    assert len(planted) == 6 and before["privacy"]["quasi_identifiers"]["k"] == len(KEYS)  # patients on each ward
    go(project, KEYS[0])
    manifest = Dataset.find(project, "data:notes@v1").manifest
    assert [e for e in examples(project) if is_canary(e)] == planted
    assert manifest["canaries"] == before["canaries"]
    left = {"columns": ["ward"], "k": len(KEYS) - 1, "rows": 36, "rows_below_5": 0, "people": True}
    assert manifest["privacy"]["quasi_identifiers"] == left
    assert manifest["privacy"] | {"quasi_identifiers": 0} == before["privacy"] | {"quasi_identifiers": 0}


def test_without_the_vault_the_certificate_says_what_could_not_be_told(project: Project) -> None:
    destroy_vault("notes", project)
    certificate = go(project, KEYS[0])
    assert certificate["not_scanned"] == [
        "data:notes@v1: `patient` holds surrogates, and the vault that says whose is gone"
    ]
    (page,) = (project.root / "erasures").glob("*.md")
    assert "holds surrogates" in page.read_text()


def test_what_was_anonymized_is_not_when_one_of_two_answers_is_gone(project: Project) -> None:
    rows = [{"text": f"I {word} with this."} for word in ("agree", "disagree") for _ in range(5)]
    (project.root / "data" / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "sources": [{"path": "data/votes.jsonl"}],
        "steps": [{"kind": "deidentify"}],
        "split": {"validation": 0, "test": 0},
    }
    version = prepare(Recipe.build({"name": "votes", "data": values}), project)
    assert version.manifest["privacy"]["status"] == "anonymized"
    one = version.examples("train")[0]
    VersionStore(project, "erasure-1", "ann").erase(Subject("nobody-here", ids=frozenset({one.id})))
    said = Dataset.find(project, version.ref).manifest["privacy"]
    assert said["status"] == "de-identified" and not said["checks"]["inference"]["passed"]


# ───────────────────────────────────────────────────────────────────────────── versions that tell nobody apart


def second(project: Project, columns: dict[str, str], strategy: str = "tag") -> Dataset:
    """Prepare the same file by a recipe that says nothing of a subject."""
    step = {"kind": "deidentify", "strategy": strategy, "columns": columns}
    data = {"sources": [{"path": "data/a.jsonl"}], "steps": [step], "split": {"validation": 0, "test": 0}}
    return prepare(Recipe.build({"name": "second", "data": data}), project)


@pytest.mark.parametrize(
    ("action", "strategy"),
    [
        *((action, strategy) for action in ("MRN", "text", "tens", "drop", "zip3") for strategy in ("tag", "mask")),
        *((action, "surrogate") for action in ("text", "tens", "drop", "AGE")),
    ],
)
def test_rows_whose_column_tells_nobody_apart_are_found_by_their_texts(
    project: Project, action: str, strategy: str
) -> None:
    version = second(project, {"patient": action}, strategy)
    lines = (project.root / "data" / "a.jsonl").read_text().splitlines()
    told = {f"a.jsonl:{n}" for n, line in enumerate(lines, start=1) if json.loads(line)["patient"] == KEYS[2]}
    assert len(told & {e.place for e in version.examples("train")}) == ROWS_OF_EACH
    certificate = go(project, KEYS[2])
    left = Dataset.find(project, version.ref).examples("train")
    assert not told & {e.place for e in left}
    assert len(left) == version.count("train") - ROWS_OF_EACH
    (note,) = certificate["not_scanned"]
    assert note.startswith(f"{version.ref}: `patient` became `") and "compared as texts" in note


def test_a_kept_column_is_the_subjects_by_what_another_recipe_says_of_the_file(project: Project) -> None:
    version = second(project, {"patient": "keep"})
    certificate = go(project, KEYS[2])
    assert certificate["not_scanned"] == []
    left = Dataset.find(project, version.ref).examples("train")
    assert KEYS[2] not in {e.meta["patient"] for e in left} and len(left) == (len(KEYS) - 1) * ROWS_OF_EACH


def test_the_vault_forgets_them_where_the_source_is_gone(project: Project) -> None:
    """Another key than the vault knows stands for nobody; the surrogates of their own examples do."""
    lines = (project.root / "data" / "a.jsonl").read_text().splitlines()
    rare = {"text": "Dr. Xymenobald Quorthax said: a word.", "patient": KEYS[1], "ward": "w1"}
    (project.root / "data" / "a.jsonl").write_text("\n".join([*lines, json.dumps(rare)]) + "\n")
    prepare(Recipe.read(project.root / "recipes" / "notes.yaml"), project)
    assert {"xymenobald", "quorthax"} <= set(vault.load(vault.file(project, "notes")).entries["WORD"])
    (project.root / "data" / "a.jsonl").unlink()
    certificate = go(project, KEYS[1])
    entries = vault.load(vault.file(project, "notes")).entries
    assert not {"xymenobald", "quorthax"} & set(entries["WORD"]) and KEYS[1] not in entries["MRN"]
    assert {"zbigniew", "kowalczyk"} <= set(entries["WORD"]), "others are called so, too"
    assert set(entries["MRN"]) == {*KEYS} - {KEYS[1]}
    assert certificate["complete"] and "data/a.jsonl: not read (E300)" in certificate["not_scanned"]


def _draw(root: Path, words: list[str], between: Any) -> None:
    from metier.data.privacy.surrogates import surrogate

    with vault.opened(vault.file(Project(root), "notes")) as opened:
        surrogate(words[0], "PERSON", opened)
        between.wait(1)  # long enough for the other to begin
        surrogate(words[1], "PERSON", opened)


def test_two_preparations_lose_nothing_of_each_other(project: Project) -> None:
    context = multiprocessing.get_context("fork")
    never = context.Event()
    pairs = [["Aaaxim", "Bbbxim"], ["Cccxim", "Dddxim"]]
    workers = [context.Process(target=_draw, args=(project.root, words, never)) for words in pairs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    known = set(vault.load(vault.file(project, "notes")).entries["WORD"])
    assert {word.lower() for words in pairs for word in words} <= known


def test_a_key_that_a_table_writes_as_a_fraction_is_told_by_its_surrogate(project: Project) -> None:
    lines = [json.loads(line) for line in (project.root / "data" / "a.jsonl").open()]
    floats = [{**row, "patient": float(row["patient"])} for row in lines]
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in floats))
    version = prepare(Recipe.read(project.root / "recipes" / "notes.yaml"), project)
    certificate = go(project, KEYS[4])
    told = {v["ref"]: sum(v["rows"].values()) for v in certificate["versions"]}
    assert told == {"data:notes@v1": ROWS_OF_EACH, version.ref: ROWS_OF_EACH}


def test_answers_for_rows_whose_column_tells_nobody_apart_go_too(project: Project) -> None:
    version = second(project, {"patient": "MRN"})
    folder = project.new_run_dir("cpt", "second")
    run = Run.create(folder, name="second", dataset=version.ref, dataset_digest=version.digest)
    (folder / "predictions").mkdir()
    file = folder / "predictions" / "test-run.jsonl"
    answers = [
        {"id": e.id, "place": e.place, "prompt": "p", "output": "o", "meta": dict(e.meta)}
        for e in version.examples("train")
    ]
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    certificate = go(project, KEYS[2])
    left = {e.id for e in Dataset.find(project, version.ref).examples("train")}
    assert [json.loads(line) for line in file.open()] == [a for a in answers if a["id"] in left]
    assert [facts["run"] for facts in certificate["runs"]] == [run.number] and len(left) < len(answers)
