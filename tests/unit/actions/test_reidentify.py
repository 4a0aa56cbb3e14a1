"""`metier data reidentify` and `metier data vault destroy`: who may, what is written where, what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metier.actions.data import prepare
from metier.actions.reidentify import destroy_vault, reidentify
from metier.cli import data as face
from metier.core import audit
from metier.core.errors import ConfigError, DataError
from metier.core.extras import installed
from metier.core.project import Project
from metier.core.recipe import Recipe

pytestmark = pytest.mark.skipif(installed("cryptography") is None, reason="cryptography is not installed")
NAMES = ("Kowalczyk", "Wojciechowski", "Szczepański", "Zieliński")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("METIER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "state"))
    project = Project.create(tmp_path / "project", "test")
    monkeypatch.chdir(project.root)
    rows = [{"text": f"Dr. {NAMES[i % 4]} saw the patient on ward {i} today.", "ward": f"w{i}"} for i in range(40)]
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = [{"kind": "deidentify", "strategy": "surrogate"}]
    prepare(Recipe.build({"name": "notes", "data": {"sources": [{"path": "data/a.jsonl"}], "steps": steps}}), project)
    return project


def last_record(project: Project) -> dict[str, object]:
    found = list(audit.records(project))[-1]
    return {"action": found["action"], **found["fields"]}


def test_a_version_comes_back_below_private_for_its_owner_alone(project: Project) -> None:
    version = next(p for p in (project.root / "datasets" / "notes").iterdir() if p.is_dir())
    stored = "".join(p.read_text() for p in version.iterdir())
    assert not any(name in stored for name in NAMES)
    done = reidentify("data:notes", project)
    assert done.file == project.root / "private" / "reidentified" / "notes-v1.jsonl"
    assert done.file.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in done.file.read_text().splitlines()]
    assert len(rows) == done.num_rows == done.num_restored == 40
    assert all(row["text"] == f"Dr. {NAMES[int(row['meta']['ward'][1:]) % 4]} saw the patient on ward"
               f" {row['meta']['ward'][1:]} today." for row in rows)  # fmt: skip


def test_arguments_of_tools_and_columns_of_problems_come_back(project: Project) -> None:
    arguments = '{"who": "Kowalczyk", "note": "say \\"hi\\" to Szczepański", "mrn": 48213}'
    call = {"id": "c1", "type": "function", "function": {"name": "send", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Please write.", "name": "Zieliński"},
        {"role": "assistant", "tool_calls": [call]},
    ]
    problem = {"prompt": "How many are there on the ward?", "doctor": "Kowalczyk", "number": "48"}
    columns = {"doctor": "PERSON", "number": "MRN"}
    for name, row, options in (("calls", {"messages": messages}, {}), ("sums", problem, {"columns": columns})):
        (project.root / "data" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        data = {
            "sources": [{"path": f"data/{name}.jsonl", "split": "train"}],
            "steps": [{"kind": "deidentify", "strategy": "surrogate", **options}],
            "split": {"validation": 0.0},
        }
        version = prepare(Recipe.build({"name": name, "data": data}), project)
        stored = (version.dir / "train.jsonl").read_text()
        assert not any(found in stored for found in (*NAMES, "48213"))
        done = reidentify(f"data:{name}", project)
        assert done.file is not None
        (back,) = map(json.loads, done.file.read_text().splitlines())
        if name == "calls":
            asked, reply = back["messages"]
            (made,) = reply["tool_calls"]
            assert asked["name"] == "Zieliński" and made["arguments"] == json.loads(arguments)
            assert json.loads(made["arguments_text"]) == made["arguments"]
        else:
            assert back["item"] == back["meta"] == {"doctor": "Kowalczyk", "number": "48"}


def test_it_is_recorded_without_anything_personal(project: Project) -> None:
    reidentify("data:notes", project)
    record = last_record(project)
    assert record["action"] == "data.reidentify"
    assert (record["vault"], record["rows"], record["restored"]) == ("notes", 40, 40)
    assert record["written_to"] == "private/reidentified"
    assert not any(name in project.audit_file.read_text() for name in NAMES)
    assert audit.verify(project) == []


def test_without_the_key_it_is_refused_and_the_attempt_is_recorded(project: Project, tmp_path: Path) -> None:
    (tmp_path / "config" / "vault.key").unlink()
    with pytest.raises(DataError, match="E365"):
        reidentify("data:notes", project)
    assert last_record(project)["refused"] == "E365"
    assert not (project.root / "private" / "reidentified").exists()


def test_a_file_needs_the_name_of_a_vault_and_only_the_named_columns_change(project: Project) -> None:
    source = project.root / "answers.csv"
    first = json.loads((next((project.root / "datasets" / "notes").glob("v1-*")) / "train.jsonl").open().readline())
    name = first["text"].split()[1]
    source.write_text(f"who,what\n{name},{name} agreed\n")
    with pytest.raises(ConfigError, match="E282"):
        reidentify("answers.csv", project)
    with pytest.raises(DataError, match="E368"):
        reidentify("answers.csv", project, vault_name="../notes")
    with pytest.raises(ConfigError, match="E283"):
        reidentify("answers.csv", project, vault_name="notes", columns=["whom"])
    done = reidentify("answers.csv", project, vault_name="notes", columns=["who"])
    assert done.file is not None
    row = json.loads(done.file.read_text())
    assert row["who"] in NAMES
    assert row["what"] == f"{name} agreed"


def test_rows_are_shown_on_a_terminal_only(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CliRunner().invoke(face.app, ["reidentify", "data:notes", "--show"])
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.code == "E284"
    shown: list[dict[str, object]] = []
    done = reidentify("data:notes", project, show=shown.append)
    assert done.file is None
    assert len(shown) == 40
    assert last_record(project)["written_to"] == "terminal"
    assert not (project.root / "private" / "reidentified").exists()


def test_a_destroyed_vault_reverses_nothing(project: Project) -> None:
    file = project.root / "private" / "vaults" / "notes.vault"
    assert file.exists()
    done = CliRunner().invoke(face.app, ["vault", "destroy", "notes", "--yes", "--json"])
    assert json.loads(done.stdout) == {"destroyed": "notes", "versions": ["data:notes@v1"]}
    assert not file.exists()
    assert last_record(project)["action"] == "data.vault.destroy"
    with pytest.raises(DataError, match="E368"):
        reidentify("data:notes", project)
    with pytest.raises(DataError, match="E368"):
        destroy_vault("notes", project)
    assert "not here any more" in CliRunner().invoke(face.app, ["card", "data:notes"]).stderr
    assert audit.verify(project) == []


def test_destroying_asks_first(project: Project) -> None:
    assert CliRunner().invoke(face.app, ["vault", "destroy", "notes"], input="n\n").exit_code != 0
    assert (project.root / "private" / "vaults" / "notes.vault").exists()
