"""Bad input, as a user meets it: a coded error with its place and the next step, the right exit code, nothing lost.

Everything runs through the command line in this process; a process of its own where that is the point: another user
on a directory that is not theirs, and a disk that fills up while a run trains.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from metier.cli import app
from metier.core.project import Project, digest_file
from metier.core.run import Run
from metier.training import checkpoint
from tiny import chat_rows, labelled_rows, tokenizer, write_model

SIZE = {"num_train_epochs": 1, "max_length": 64, "batch_size": 8, "num_threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with a chat template."""
    return write_model(tmp_path_factory.mktemp("models") / "base")


@dataclass(frozen=True)
class Desk:
    """A project with one recipe, and what a command said in it."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipes" / "desk.yaml"

    def run(self, *argv: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(argv)
        return code, out.getvalue(), err.getvalue()

    def done(self, *argv: str) -> Any:
        """Run a command that must succeed and return its JSON."""
        code, out, err = self.run(*argv, "--json")
        assert code == 0, f"{argv}\n{out}\n{err}"
        return json.loads(out)

    def refused(self, *argv: str, code: str, place: str, then: str) -> dict[str, str]:
        """Run a command that must be refused: code, exit code, place, next step; and sources and runs as before."""
        assert place and then, "an empty text is found in every error"
        before = self.kept()
        status, out, err = self.run(*argv, "--json")
        assert status == int(code[1]), f"exit {status}\n{out}\n{err}"
        error: dict[str, str] = json.loads(out)["error"]
        assert error["code"] == code, err
        assert place in error["place"], err
        assert then in error["fix"], err
        assert err.strip().splitlines()[-1].strip().startswith("next:") and code in err, err
        assert "Traceback" not in err
        assert self.kept() == before
        return error

    def kept(self) -> dict[str, str]:
        """Digest of every file that is the user's: rows, recipes, bases."""
        made = ("runs", "datasets", "cache", "private", "audit.jsonl", ".audit.jsonl.lock")
        files = [p for p in self.root.rglob("*") if p.is_file() and p.relative_to(self.root).parts[0] not in made]
        return {str(p.relative_to(self.root)): digest_file(p) for p in files}

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the newest dataset version."""
        version = sorted((self.root / "datasets" / "desk").iterdir(), key=lambda p: p.stat().st_mtime)[-1]
        manifest = json.loads((version / "manifest.json").read_text())
        assert manifest["schema_version"] == 1
        return [json.loads(line) for file in sorted(version.glob("*.jsonl")) for line in file.open(encoding="utf-8")]

    def quarantined(self) -> list[dict[str, str]]:
        files = list((self.root / "private" / "quarantine" / "desk").glob("*.jsonl"))
        assert len(files) == 1
        assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
        return [json.loads(line) for line in files[0].open(encoding="utf-8")]

    def runs(self) -> list[Path]:
        return Project(self.root).run_dirs()


def desk(
    root: Path, base: Path, data: bytes, *, file: str = "rows.jsonl", method: str = "sft", test: bytes | None = None
) -> Desk:
    """Make a project; `data` are the bytes of its source."""
    Project.create(root, "desk")
    (root / "data" / file).write_bytes(data)
    sources = [{"path": f"data/{file}"}]
    if test is not None:
        (root / "data" / f"test-{file}").write_bytes(test)
        sources.append({"path": f"data/test-{file}", "split": "test"})
    recipe = {
        "version": 1,
        "name": "desk",
        "objective": {"task": "classify" if method == "classify" else "chat"},
        "data": {"sources": sources, "split": {"validation": 0.2, "test": 0.2}},
        "model": {"name_or_path": str(base)},
        "adapter": {"kind": "full"},
        "method": {"kind": method},
        "training": SIZE,
    }
    (root / "recipes" / "desk.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return Desk(root)


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(rows: list[dict[str, str]]) -> bytes:
    return ("text,label\n" + "".join(f'"{r["text"]}",{r["label"]}\n' for r in rows)).encode()


@pytest.fixture
def chat(tmp_path: Path, base: Path) -> Desk:
    return desk(tmp_path / "desk", base, lines(chat_rows(40)))


# ───────────────────────────────────────────────────────────────────────────── the recipe


def line_of(recipe: Path, key: str) -> int:
    return next(n for n, line in enumerate(recipe.read_text().splitlines(), 1) if line.strip().startswith(f"{key}:"))


@pytest.mark.parametrize("command", [["plan"], ["train"], ["data", "prepare"], ["data", "check"]])
def test_an_unknown_key_is_named_with_its_line_by_every_command(chat: Desk, command: list[str]) -> None:
    text = chat.recipe.read_text().replace("num_train_epochs:", "num_train_epoch:")
    chat.recipe.write_text(text)
    place = f"desk.yaml:{line_of(chat.recipe, 'num_train_epoch')}"
    error = chat.refused(*command, code="E201", place=place, then="Did you mean `num_train_epochs`?")
    assert "training.num_train_epoch" in error["what"]
    assert chat.runs() == []


def test_a_key_of_a_plug_in_is_checked_like_any_other(chat: Desk) -> None:
    place = f"desk.yaml:{line_of(chat.recipe, 'adapter')}"
    words = ["adapter.kind=lora", "adapter.lora_dropot=0.1"]
    chat.refused("train", *words, code="E211", place=place, then="lora_dropout")
    assert chat.runs() == []


def test_a_wrong_type_says_what_was_received_and_expected(chat: Desk) -> None:
    chat.recipe.write_text(chat.recipe.read_text().replace("batch_size: 8", "batch_size: many"))
    place = f"desk.yaml:{line_of(chat.recipe, 'batch_size')}"
    error = chat.refused("train", code="E202", place=place, then="Examples")
    assert "many" in error["received"]
    assert "int" in error["expected"]
    assert chat.runs() == []


def test_a_recipe_key_given_twice(chat: Desk) -> None:
    with chat.recipe.open("a") as file:
        file.write("name: another\n")
    last = len(chat.recipe.read_text().splitlines())
    chat.refused("plan", code="E205", place=f"desk.yaml:{last}", then="keep one")


def test_a_recipe_with_a_byte_order_mark_is_read(chat: Desk) -> None:
    chat.recipe.write_bytes(b"\xef\xbb\xbf" + chat.recipe.read_bytes())
    assert chat.done("data", "prepare")["rows"]["train"] > 0


def test_a_recipe_that_is_not_text(chat: Desk) -> None:
    chat.recipe.write_bytes(b"\xff\xfe" + "name: desk".encode("utf-16-le"))
    chat.refused("plan", code="E204", place="desk.yaml", then="save it as UTF-8")


# ───────────────────────────────────────────────────────────────────────────── files


def test_a_missing_source_names_the_nearest_one(chat: Desk) -> None:
    chat.refused("plan", "data.sources.0.path=data/row.jsonl", code="E300", place="row.jsonl", then="`rows.jsonl`")


def test_a_missing_recipe_and_a_missing_base(chat: Desk) -> None:
    chat.refused("plan", "recipes/other.yaml", code="E203", place="other.yaml", then="metier init")
    chat.refused("plan", "model.name_or_path=nowhere", code="E401", place="nowhere", then="model.name_or_path")


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path: Path, base: Path, data: bytes) -> None:
    empty = desk(tmp_path / "desk", base, data)
    empty.refused("data", "prepare", code="E301", place="rows.jsonl", then="export")
    assert not list((empty.root / "datasets").glob("*/*"))


def test_a_header_alone_is_no_recipe_either(tmp_path: Path, base: Path) -> None:
    alone = desk(tmp_path / "desk", base, b"text,label\n", file="rows.csv")
    alone.refused("data", "prepare", code="E301", place="rows.csv", then="export")
    alone.refused("init", "--data", "data/rows.csv", "--name", "other", code="E301", place="rows.csv", then="export")
    assert sorted(p.name for p in (alone.root / "recipes").iterdir()) == ["desk.yaml"]


def test_a_file_of_another_encoding_as_a_whole(tmp_path: Path, base: Path) -> None:
    data = table(labelled_rows(30)).decode().encode("utf-16")
    foreign = desk(tmp_path / "desk", base, data, file="rows.csv", method="classify")
    foreign.refused("data", "prepare", code="E307", place="rows.csv", then="iconv")


# ───────────────────────────────────────────────────────────────────────────── rows


BROKEN = [
    (3, b'{"messages": [{"role": "user", "content": "caf\xe9"}, {"role": "assistant", "content": "ok"}]}', "not-utf8"),
    (7, b'{"messages": [{"role": "user", "content": "n\x00l"}, {"role": "assistant", "content": "ok"}]}', "nul-byte"),
    (8, b'{"messages": [{"role": "user", "content": "\\u0000"}, {"role": "assistant", "content": "1"}]}', "nul-byte"),
    (12, b'{"messages": [{"role": "user", "content": "a"}], "messages": []}', "duplicate-key"),
    (19, b'{"messages": [{"role": "user", "content": "hello?"}]}', "no-assistant-message"),
    (20, b'{"messages": [{"role": "user", "content": "hel', "invalid-json"),
]


def broken() -> bytes:
    """Forty good rows behind a byte order mark, and the broken ones at their lines."""
    rows = lines(chat_rows(40)).splitlines()
    for number, line, _ in BROKEN:
        rows.insert(number - 1, line)
    return b"\xef\xbb\xbf" + b"\n".join(rows) + b"\n"


def test_bad_rows_go_to_quarantine_by_line_and_reason_and_good_ones_are_kept(tmp_path: Path, base: Path) -> None:
    here = desk(tmp_path / "desk", base, broken())
    made = here.done("data", "prepare", "data.max_quarantine=0.2")
    assert sum(made["rows"].values()) == 40
    found = [(r["place"], r["reason"]) for r in here.quarantined()]
    assert found == [(f"rows.jsonl:{number}", reason) for number, _, reason in BROKEN]
    wanted = {json.dumps(row["messages"]) for row in chat_rows(40)}
    kept = {json.dumps([{k: m[k] for k in ("role", "content")} for m in r["messages"]]) for r in here.rows()}
    assert kept == wanted
    planned = here.done("plan", "data.max_quarantine=0.2")
    assert planned["quarantined"] == len(BROKEN)
    assert planned["permission"] == ["✘ data/rows.jsonl (not stated: license, basis, purpose, personal data)"]


def test_too_many_bad_rows_stop_with_the_first_place_and_can_be_looked_into(tmp_path: Path, base: Path) -> None:
    here = desk(tmp_path / "desk", base, broken())
    error = here.refused("data", "prepare", code="E310", place="rows.jsonl:7", then="metier data check --show E310")
    assert "13.0% of 46 rows" in error["what"]
    assert "caf" not in json.dumps(error)
    assert len(here.quarantined()) == len(BROKEN)
    code, out, _ = here.run("data", "check", "--show", "E310", "--json")
    assert code == 3
    (found,) = json.loads(out)
    assert (found["code"], found["count"]) == ("E310", len(BROKEN))
    assert [place.split()[:2] for place in found["places"]] == [[f"rows.jsonl:{n}", reason] for n, _, reason in BROKEN]
    (file,) = (here.root / "private" / "quarantine" / "desk").iterdir()
    assert error["fix"].endswith(str(file.relative_to(here.root))) and file.name in found["fix"]
    _, text, _ = here.run("data", "check", "--show", "E310")
    assert sum("rows.jsonl:" in line for line in text.splitlines()) == len(BROKEN)
    assert "caf" not in text and "hello" not in text
    _, text, _ = here.run("data", "check")
    assert sum("rows.jsonl:" in line for line in text.splitlines()) == 5 and "--show E310" in text


def test_rows_in_quarantine_are_all_listed_where_the_others_were_enough(tmp_path: Path, base: Path) -> None:
    here = desk(tmp_path / "desk", base, broken())
    found = here.done("data", "check", "--show", "E310", "data.max_quarantine=0.2")
    listed = [place.split()[:2] for finding in found for place in finding["places"]]
    assert sorted(listed) == sorted([f"rows.jsonl:{n}", reason] for n, _, reason in BROKEN)
    assert sum(finding["count"] for finding in found) == len(BROKEN)
    shutil.rmtree(here.root / "private")
    again = here.done("data", "check", "--show", "E310", "data.max_quarantine=0.2")
    assert sum(finding["count"] for finding in again) == len(BROKEN)
    assert all(len(finding["places"]) == 1 for finding in again), "the manifest has the first of each reason"


@pytest.mark.parametrize(
    "command", [["plan"], ["train"], ["data", "check"], ["data", "preview"], ["data", "prepare"]], ids=" ".join
)
def test_no_row_is_copied_where_the_project_asks_for_a_permission_that_nobody_stated(
    chat: Desk, command: list[str]
) -> None:
    (chat.root / "metier.yaml").write_text("name: desk\ngates: {permission: required}\n")
    place = f"desk.yaml:{line_of(chat.recipe, '- path')}"
    chat.refused(*command, code="E601", place=place, then="permission:")
    assert not (chat.root / "datasets").exists() and chat.runs() == []


def test_a_misspelt_key_of_the_project_file_takes_no_gate_away(chat: Desk) -> None:
    (chat.root / "metier.yaml").write_text("name: desk\ngate: {permission: required}\n")
    chat.refused("plan", code="E201", place="metier.yaml:2", then="`gates`")


def test_what_has_no_figure_and_what_has_no_use_is_refused_at_the_start(chat: Desk, base: Path) -> None:
    chat.recipe.write_text(chat.recipe.read_text() + "evaluation:\n  metrics:\n  - rouge\n  - mae\n")
    last = len(chat.recipe.read_text().splitlines())
    error = chat.refused("train", code="E276", place=f"desk.yaml:{last}", then="method.kind")
    assert "`mae`" in error["what"] and "bleu" in error["expected"]
    changes = ["evaluation.metrics=auto", "model.revision=main"]
    error = chat.refused("plan", *changes, code="E277", place="desk.yaml", then="remove `model.revision`")
    assert str(base) in error["received"]
    assert chat.runs() == []


def test_a_csv_with_a_mark_and_a_latin_row(tmp_path: Path, base: Path) -> None:
    rows = labelled_rows(60)
    data = b"\xef\xbb\xbf" + table(rows[:30]) + b"caf\xe9 card,card\n" + table(rows[30:]).partition(b"\n")[2]
    here = desk(tmp_path / "desk", base, data, file="rows.csv", method="classify")
    assert sum(here.done("data", "prepare")["rows"].values()) == 60
    assert [(r["place"], r["reason"]) for r in here.quarantined()] == [("rows.csv:32", "not-utf8")]


def test_a_row_of_a_million_characters_is_kept_whole_and_its_cut_is_counted(tmp_path: Path, base: Path) -> None:
    long = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "abcd " * 200_000 + "e"}]}
    here = desk(tmp_path / "desk", base, lines([*chat_rows(40), long]))
    here.done("data", "prepare", "data.split.validation=0.1", "data.split.test=0")
    contents = [m["content"] for r in here.rows() for m in r["messages"]]
    assert max(map(len, contents)) == 1_000_001
    assert long["messages"][1]["content"] in contents
    planned = here.done("plan", "data.split.validation=0.05", "data.split.test=0")
    assert planned["tokens_max"] > 100_000
    assert planned["cut_rows"] >= 1


# ───────────────────────────────────────────────────────────────────────────── labels


def test_one_label_only(tmp_path: Path, base: Path) -> None:
    rows = [{**row, "label": "card"} for row in labelled_rows(30)]
    here = desk(tmp_path / "desk", base, table(rows), file="rows.csv", method="classify")
    error = here.refused("data", "prepare", code="E320", place="desk.yaml:", then="other labels")
    assert error["received"].startswith("1 label in ")


def test_what_a_worker_meets_is_told_with_the_users_own_file_and_line(tmp_path: Path, base: Path) -> None:
    rows = [{**row, "label": "card"} for row in labelled_rows(30)]
    here = desk(tmp_path / "desk", base, table(rows), file="rows.csv", method="classify")
    place = f"desk.yaml:{line_of(here.recipe, 'data')}"
    for _ in range(2):
        error = here.refused("train", "training.seed=1", code="E320", place=place, then="other labels")
        assert error["place"] == place
    here.refused("runs", "resume", "1", "training.save_steps=9", code="E320", place=place, then="other labels")


def test_a_label_that_only_the_test_file_has(tmp_path: Path, base: Path) -> None:
    odd = [*labelled_rows(6), {"text": "something else", "label": "loan"}, {"text": "and again", "label": "loan"}]
    here = desk(tmp_path / "desk", base, table(labelled_rows(48)), file="rows.csv", method="classify", test=table(odd))
    error = here.refused("data", "prepare", code="E321", place="desk.yaml:", then="train")
    assert error["received"] == "`loan` in 2 rows of test"


# ───────────────────────────────────────────────────────────────────────────── lengths and bases


def test_max_length_shorter_than_every_answer(tmp_path: Path, base: Path) -> None:
    rows = chat_rows(40)
    for row in rows:
        row["messages"][0]["content"] = "please " * 30 + row["messages"][0]["content"]
    here = desk(tmp_path / "desk", base, lines(rows))
    here.recipe.write_text(here.recipe.read_text().replace("max_length: 64", "max_length: 20"))
    place = f"desk.yaml:{line_of(here.recipe, 'max_length')}"
    error = here.refused("plan", code="E354", place=place, then="training.max_length=")
    assert "max_length=20" in error["received"]


def test_a_run_that_meets_it_fails_with_the_same_error(tmp_path: Path, base: Path) -> None:
    rows = chat_rows(40)
    for row in rows:
        row["messages"][0]["content"] = "please " * 30 + row["messages"][0]["content"]
    here = desk(tmp_path / "desk", base, lines(rows))
    here.refused("train", "training.max_length=20", code="E354", place="desk.yaml", then="training.max_length=")
    (folder,) = here.runs()
    status = Run(folder).status()
    assert (status["state"], status["reason"]) == ("failed", "E354")
    assert "Traceback" not in (folder / "log.txt").read_text()


def test_a_base_without_a_chat_template(chat: Desk, tmp_path: Path, base: Path) -> None:
    shutil.copytree(base, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    argv = ["plan", f"model.name_or_path={tmp_path / 'bare'}"]
    chat.refused(*argv, code="E240", place="desk.yaml", then="model.chat_template=plain")
    chat.recipe.write_text(chat.recipe.read_text().replace("  name_or_path:", "  chat_template: null\n  name_or_path:"))
    place = f"desk.yaml:{line_of(chat.recipe, 'chat_template')}"
    chat.refused(*argv, code="E240", place=place, then="model.chat_template=plain")
    assert chat.done(*argv, "model.chat_template=plain")["steps"] > 0


def test_a_tokenizer_larger_than_the_vocabulary(chat: Desk, tmp_path: Path) -> None:
    small = write_model(tmp_path / "small", vocab_size=64)
    error = chat.refused("plan", f"model.name_or_path={small}", code="E404", place="small", then="tokenizer")
    assert error["expected"] == "ids below 64"
    assert error["received"] == f"token id {max(tokenizer().get_vocab().values())}"


def test_a_vocabulary_larger_than_the_tokenizer_is_what_padded_models_have(chat: Desk, tmp_path: Path) -> None:
    large = write_model(tmp_path / "large", vocab_size=512)
    assert chat.done("plan", f"model.name_or_path={large}")["steps"] > 0


def test_a_pickled_base_is_refused_unread(chat: Desk, tmp_path: Path, base: Path) -> None:
    shutil.copytree(base, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    trap = tmp_path / "trap"
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(f"cposix\nsystem\n(S'touch {trap}'\ntR.".encode())
    argv = ["plan", f"model.name_or_path={tmp_path / 'pickled'}"]
    chat.refused(*argv, code="E402", place="pytorch_model.bin", then="save_pretrained")
    assert not trap.exists()


def test_a_base_with_code_beside_it_and_one_cut_off(chat: Desk, tmp_path: Path, base: Path) -> None:
    shutil.copytree(base, tmp_path / "code")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "code" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    chat.refused("plan", f"model.name_or_path={tmp_path / 'code'}", code="E403", place="config.json", then="model")
    shutil.copytree(base, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    chat.refused("plan", f"model.name_or_path={tmp_path / 'cut'}", code="E405", place="cut", then="copy")


# ───────────────────────────────────────────────────────────────────────────── a disk that says no


def without_the_powers_of_root(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that must obey the permission bits; to root nothing is read-only otherwise."""
    command = [sys.executable, "-m", "metier.cli", *argv, "--json"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everything, and there is no setpriv here: run the tests as another user")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", *command]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture
def locked(chat: Desk) -> Iterator[Desk]:
    """A project that its user may read only."""
    folders = [p for p in (chat.root, *chat.root.rglob("*")) if p.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    yield chat
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    "command", [["train"], ["data", "prepare"], ["init", "--name", "b", "--data", "data/rows.jsonl"]]
)
def test_a_project_that_cannot_be_written(locked: Desk, command: list[str]) -> None:
    before = locked.kept()
    done = without_the_powers_of_root(locked.root, *command)
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "E421"
    assert str(locked.root) in error["place"]
    assert "permissions" in error["fix"]
    assert "Traceback" not in done.stderr
    assert locked.kept() == before
    assert locked.runs() == []


def test_checkpoints_that_cannot_be_written_any_more(chat: Desk) -> None:
    argv = ["training.max_steps=4", "training.num_train_epochs=9", "training.save_steps=1"]
    assert chat.done("train", *argv)["state"] == "done"
    run = Run(chat.runs()[0])
    shutil.rmtree(checkpoint.listing(run.checkpoints_dir)[-1])  # as if it had been stopped one step before its end
    before = {p.name: checkpoint.problems(p) for p in checkpoint.listing(run.checkpoints_dir)}
    assert before and not any(before.values())
    run.update(state="stopped")
    run.checkpoints_dir.chmod(0o555)
    done = without_the_powers_of_root(chat.root, "runs", "resume", "1")
    run.checkpoints_dir.chmod(0o755)
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "E421"
    assert str(run.checkpoints_dir) in error["place"]
    assert {p.name: checkpoint.problems(p) for p in checkpoint.listing(run.checkpoints_dir)} == before


def test_a_source_and_a_recipe_that_may_not_be_read(chat: Desk) -> None:
    for file, code, place in ((chat.root / "data" / "rows.jsonl", "E309", "rows.jsonl"), (chat.recipe, "E204", "desk")):
        file.chmod(0o200)
        done = without_the_powers_of_root(chat.root, "data", "prepare")
        assert done.returncode == int(code[1]), done.stderr
        error = json.loads(done.stdout)["error"]
        assert error["code"] == code
        assert place in error["place"]
        assert "permission" in error["fix"]
        file.chmod(0o644)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]).returncode:
        pytest.skip("a small disk can only be mounted by root with the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a worker may take an instant to go


def fill(disk: Path) -> None:
    """Leave not one byte."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_without_room_for_the_checkpoints_is_said_before_the_first_step(small_disk: Path, base: Path) -> None:
    here = desk(small_disk / "desk", base, lines(chat_rows(40)))
    argv = ["training.max_steps=30", "training.num_train_epochs=30", "training.save_steps=1"]
    many = "training.save_total_limit=50"
    here.refused("train", *argv, many, code="E423", place=str(here.root), then="training.save_total_limit=1")
    (folder,) = here.runs()
    run = Run(folder)
    assert (run.status()["state"], list(run.events("step"))) == ("failed", [])
    assert here.done("runs", "resume", "1", "training.save_total_limit=1")["state"] == "done"
    assert max(e["step"] for e in run.events("step")) == 30


def test_a_disk_on_which_nothing_is_left_at_all(small_disk: Path, base: Path) -> None:
    here = desk(small_disk / "desk", base, lines(chat_rows(40)))
    endless = ["training.max_steps=100000", "training.num_train_epochs=100000", "training.early_stopping_patience=0"]
    code, out, err = here.run("train", "training.save_steps=3", *endless, "--detach")
    assert code == 0, err
    run = Run(here.runs()[0])
    assert out.strip() == "1"
    for event in run.follow():
        if event and event["kind"] == "checkpoint":
            break
    fill(small_disk)
    for _ in run.follow():
        if not run.held():
            break
    status, last = run.status(), list(run.events("error"))[-1:]
    assert (status["state"], status["reason"]) == ("failed", "E420")
    assert last and last[0]["fix"]
    saved, notes = checkpoint.newest(run.checkpoints_dir)
    assert saved is not None, notes
    assert not any(checkpoint.problems(path) for path in checkpoint.listing(run.checkpoints_dir))
    assert not [path.name for path in run.checkpoints_dir.iterdir() if path.name.startswith(".")]
    (small_disk / "filler").unlink()
    offset, step = (run.dir / "events.jsonl").stat().st_size, int(saved.name.removeprefix("step-"))
    here.done("runs", "resume", "1", "--detach")
    for event in run.follow(offset=offset):
        if event and event["kind"] == "step":
            break
    here.done("runs", "stop", "1")
    for _ in run.follow():
        pass
    assert run.status()["state"] == "stopped"
    assert max(e["step"] for e in run.events("step")) > step


def test_every_verb_says_that_the_disk_is_full(small_disk: Path, base: Path) -> None:
    here = desk(small_disk / "desk", base, lines(chat_rows(40)))
    for command in (["data", "prepare"], ["plan"], ["train"], ["init", "--name", "b", "--data", "data/rows.jsonl"]):
        shutil.rmtree(here.root / "cache", ignore_errors=True)
        shutil.rmtree(here.root / "runs", ignore_errors=True)
        fill(small_disk)
        here.refused(*command, code="E420", place=str(here.root), then="free space")
        (small_disk / "filler").unlink()
    assert here.done("data", "prepare")["rows"]["train"] > 0
