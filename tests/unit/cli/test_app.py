from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from metier import __version__
from metier.actions import evaluate, models
from metier.cli import app, doctor, watch
from metier.cli import evaluate as faces
from metier.cli.show import Show
from metier.core import audit
from metier.core.errors import Bug, GateError, MachineError
from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.evaluation.result import TargetResult

Out = Any


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project.create(tmp_path / "p", "p")
    monkeypatch.chdir(project.root)
    return project


def make_run(project: Project, state: str, **fields: Any) -> Run:
    run = Run.create(project.new_run_dir("sft", "support"), name="support", method="sft", adapter="lora", model="m")
    run.update(state=state, **fields)
    return run


def fresh(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metier.cli", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


# ───────────────────────────────────────────────────────────────────────────── help


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "pydantic", "yaml", "rich", "jinja2", "sklearn")
    code = (
        "import sys; from metier.cli.app import run; run(['--help'])\n"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Turn a general language model into a specialist" in done.stdout


def test_every_command_is_in_the_journey_and_has_help(capsys: Out) -> None:
    import typer

    root: Any = typer.main.get_command(app.app)
    assert set(root.commands) == set(app.JOURNEY)
    for name in app.JOURNEY:
        assert app.run([name, "--help"]) == 0
        for inner in getattr(root.commands[name], "commands", {}):
            assert app.run([name, inner, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_every_command_speaks_json() -> None:
    import typer

    def leaves(command: Any) -> list[Any]:
        inner = getattr(command, "commands", None)
        return [command] if inner is None else [leaf for one in inner.values() for leaf in leaves(one)]

    root: Any = typer.main.get_command(app.app)
    assert len(leaves(root)) > len(app.JOURNEY)
    for command in leaves(root):
        assert "--json" in [option for p in command.params for option in p.opts], command.name


def test_first_lines_of_help_are_not_cut(capsys: Out) -> None:
    app.run(["--help"])
    assert "..." not in capsys.readouterr().out.replace("COMMAND [ARGS]...", "")


def test_version(capsys: Out) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"metier {__version__}\n"


# ───────────────────────────────────────────────────────────────────────────── ends


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "train"),
        (["train", "--detahc"], "--detach"),
        (["runs", "rm"], "RUN"),
        (["evaluate", "1", "--split", "all"], "validation"),
        ([], "Usage"),
        (["data"], "Usage"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_was_meant(capsys: Out, argv: list[str], words: str) -> None:
    assert app.run(argv) == 2
    assert words in capsys.readouterr().err


def test_an_error_goes_to_stderr_and_as_json_to_stdout(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["runs", "ls", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "E230"
    assert err.startswith("E230 ")
    assert "Traceback" not in err
    assert app.run(["runs", "ls"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "code"), [(GateError(501, "x"), 5), (MachineError(420, "x"), 4), (KeyboardInterrupt(), 130)]
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fail(_: object = None) -> Project:
        raise error

    monkeypatch.setattr(Project, "find", fail)
    assert app.run(["runs", "ls"]) == code


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ZeroDivisionError(), Bug(101, "x")):

        def fail(_: object = None, error: Exception = error) -> Project:
            raise error

        monkeypatch.setattr(Project, "find", fail)
        with pytest.raises(type(error)):
            app.run(["runs", "ls"])


def test_a_reader_that_goes_away_is_no_bug(project: Project) -> None:
    run = make_run(project, "stopped")
    for step in range(3000):
        run.event("note", text=f"line {step}")
    done = subprocess.run(
        f"{sys.executable} -m metier.cli runs logs 1 | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


def test_no_color_where_nobody_looks(project: Project) -> None:
    make_run(project, "stopped")
    done = fresh("runs", "show", "7")
    assert done.returncode == 2
    assert "\x1b[" not in done.stdout + done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stdout_too", [False, True], ids=["stdout in a pipe", "both on a terminal"])
def test_what_goes_to_stdout_is_coloured_where_stdout_is_a_terminal(
    project: Project, monkeypatch: pytest.MonkeyPatch, stdout_too: bool
) -> None:
    run = make_run(project, "done")
    question = SimpleNamespace(columns=("text",), once=False)
    session = SimpleNamespace(question=question, cut_tokens=0, reply=lambda _: "fine", base_reply=lambda _: "no")
    monkeypatch.setattr(models, "chat", lambda *_, **__: session)
    system = SimpleNamespace(label="this run", figures=[])
    report = SimpleNamespace(sentence="Worth it.", warnings=["few rows"], systems=[system], targets=[])
    summary = SimpleNamespace(training=SimpleNamespace(best_step=1), data=SimpleNamespace(rows={}), split="test")
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: SimpleNamespace(**vars(report), **vars(summary)))
    monkeypatch.setattr(evaluate, "folder_of", lambda *_, **__: run.dir)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for argv in (
        ["catalog", "ls"],
        ["catalog", "show", "adapters", "lora"],
        ["chat", "1", "--vs", "base"],
        ["evaluate"],
    ):
        out, err = Terminal() if stdout_too else io.StringIO(), Terminal()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO("hello\n"))
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            assert app.run(argv) == 0, err.getvalue()
        assert out.getvalue() and ("\x1b[" in out.getvalue()) == stdout_too, argv


# ───────────────────────────────────────────────────────────────────────────── runs


def test_runs_ls_shows_state_step_and_verdict(project: Project, capsys: Out) -> None:
    done = make_run(project, "done")
    done.event("step", step=9, steps=9)
    done.event("done", verdict="worth_it", sentence="Better.")
    make_run(project, "stopped", reason="SIGINT")
    queued = make_run(project, "running", phase="queued")
    queued.hold()
    assert app.run(["runs", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["run"], r["state"], r["verdict"], r["step"]) for r in rows] == [
        (1, "done", "worth_it", "9/9"),
        (2, "stopped", "SIGINT", ""),
        (3, "failed", "worker-lost", ""),
    ] or rows[2]["state"] == "queued"
    assert app.run(["runs", "ls"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "run",
        "state",
        "method",
        "name",
        "created",
        "step",
        "verdict",
    ]


def test_an_empty_list_is_empty_on_stdout(project: Project, capsys: Out) -> None:
    assert app.run(["runs", "ls"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "metier train" in err


def test_runs_show_names_the_files(project: Project, capsys: Out) -> None:
    run = make_run(project, "done")
    for step in ("1000000", "000010", "999999"):
        (run.checkpoints_dir / f"step-{step}").mkdir(parents=True)
    (run.dir / "report.html").write_text("x")
    assert app.run(["runs", "show", "last"]) == 0
    out = capsys.readouterr().out
    assert "step-000010, step-999999, step-1000000" in out
    assert f"runs/{run.dir.name}/report.html" in out


def test_logs_are_plain_lines_and_the_workers_own_words(project: Project, capsys: Out) -> None:
    run = make_run(project, "failed", reason="E100")
    run.event("phase", name="train", text="")
    run.event("step", step=1, steps=9, loss=2.5)
    run.log_file.write_text("Traceback: it broke\n")
    assert app.run(["runs", "logs", "1"]) == 0
    out = capsys.readouterr().out
    assert "step 1/9   loss 2.5" in out
    assert "it broke" in out
    assert app.run(["runs", "logs", "1", "--worker"]) == 0
    assert capsys.readouterr().out == "Traceback: it broke\n"
    assert app.run(["runs", "logs", "1", "--json"]) == 0
    assert [e["kind"] for e in json.loads(capsys.readouterr().out)] == ["phase", "step"]
    assert app.run(["runs", "logs", "1", "-f", "--json"]) == 0
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["phase", "step"]
    assert app.run(["runs", "logs", "1", "--worker", "-f"]) == 2
    assert "--worker" in capsys.readouterr().err


def test_stopping_what_does_not_run(project: Project, capsys: Out) -> None:
    make_run(project, "stopped")
    assert app.run(["runs", "stop", "1"]) == 2
    assert capsys.readouterr().err.startswith("E253")


def printed(err: str, mark: str) -> list[str]:
    """The commands that stand behind a mark, as a reader would copy them."""
    return [line.partition(mark)[2] for line in err.splitlines() if mark in line]


def as_typed(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("inside", [False, True], ids=["no project around", "another project around"])
def test_commands_that_are_printed_for_a_project_elsewhere_run_as_printed(
    project: Project, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    run = make_run(project, "stopped", reason="SIGTERM", resume="metier runs resume 1")
    run.event("note", code="stopped", text="stopped on request; continue with: metier runs resume 1")
    here = tmp_path / "my desk"
    here.mkdir()
    if inside:
        make_run(Project.create(here, "other"), "done")
    monkeypatch.chdir(here)
    there = f"cd {project.root} && "
    assert app.run(["runs", "stop", str(run.dir)]) == 2
    (command,) = printed(capsys.readouterr().err, "next: ")
    assert command.startswith(there)
    assert "stopped" in as_typed(command, here).stdout, "run 1 of that project, not of the one around"
    assert app.run(["runs", "show", str(run.dir)]) == 0
    assert f"{there}" in printed(capsys.readouterr().out, "resume ")[0]
    assert app.run(["runs", "logs", str(run.dir)]) == 0
    assert printed(capsys.readouterr().out, "continue with: ")[0].startswith(there)
    with pytest.raises(typer.Exit):
        watch.outcome(run, Show())
    assert printed(capsys.readouterr().err, "Continue with:  ")[0].startswith(there)
    monkeypatch.chdir(run.dir)
    assert app.run(["runs", "stop", str(run.dir)]) == 2
    assert "cd " not in capsys.readouterr().err


def test_the_commands_after_init_are_quoted_and_name_the_folder(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["init", "my desk", "--name", "x"]) == 0
    assert printed(capsys.readouterr().err, "next  ")[0].endswith("init 'my desk' --data FILE")
    Path("my rows.csv").write_text("text,label\n" + "".join(f"text number {n},{n % 2}\n" for n in range(40)))
    assert app.run(["init", "my desk", "--data", "my rows.csv"]) == 0
    command = printed(capsys.readouterr().err, "next  ")[0]
    assert command.endswith("data preview 'my desk/recipes/my-rows.yaml'")
    assert as_typed(command, tmp_path).returncode == 0
    assert app.run(["init", "my desk", "--data", "my rows.csv"]) == 2
    (again,) = printed(capsys.readouterr().err, "next: ")
    assert as_typed(again, tmp_path).returncode == 0
    assert (tmp_path / "my desk" / "recipes" / "other.yaml").is_file()
    monkeypatch.chdir("my desk")
    assert app.run(["init", "--name", "x"]) == 0
    assert printed(capsys.readouterr().err, "next  ")[0].endswith("init --data FILE")
    for recipe in Path("recipes").glob("*.yaml"):
        recipe.unlink()
    monkeypatch.chdir("data")
    assert app.run(["plan"]) == 2
    assert printed(capsys.readouterr().err, "next: ")[0].endswith(f"init '{tmp_path}/my desk' --data FILE")
    settings = Path("theirs.yaml")
    settings.write_text("base_model: metier/nano\ndatasets: [{path: rows.jsonl, type: chat_template}]\n")
    (tmp_path / "my desk" / "recipes" / "theirs.yaml").touch()
    assert app.run(["init", "..", "--from", "axolotl", "theirs.yaml"]) == 2
    place = f"'{tmp_path}/my desk'"
    said = printed(capsys.readouterr().err, "next: ")[0]
    assert said.endswith(f"init {place} --from axolotl theirs.yaml --name OTHER")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--data", "nothere.csv"], 3),
        (["--data", "rows.csv", "--task", "sumarize"], 2),
        (["--from", "axolotl", "nothere.yaml"], 2),
        (["--from", "axolotl", "wrong.yaml"], 2),
    ],
)
def test_an_init_that_is_refused_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(9)))
    Path("wrong.yaml").write_text("learning_rate: -1\nbase_model: b\n")
    before = sorted(tmp_path.iterdir())
    assert app.run(["init", *argv]) == code
    assert app.run(["init", "desk", *argv]) == code
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("origin", [False, True], ids=["from rows", "from another tool"])
def test_the_model_of_init_is_found_from_the_working_directory_as_the_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(9)))
    Path("theirs").mkdir()
    Path("theirs", "s.yaml").write_text("base_model: its/own\ndatasets: [{path: rows.jsonl, type: alpaca}]\n")
    for folder in ("my base", "theirs/my base", "desk/models/base", "metier/nano"):
        Path(folder).mkdir(parents=True)
    rows = ["--from", "axolotl", "theirs/s.yaml"] if origin else ["--data", "rows.csv"]
    for number, (given, written) in enumerate(
        {
            "./my base": str(tmp_path / "my base"),
            "desk/models/base": "models/base",
            "models/base": "models/base",
            "org/name": "org/name",
            "metier/nano": "metier/nano",
        }.items()
    ):
        assert app.run(["init", "desk", *rows, "--name", f"r{number}", "--model", given]) == 0
        recipe = Recipe.read(Path("desk", "recipes", f"r{number}.yaml"))
        assert recipe.model.name_or_path == written


@pytest.mark.parametrize(
    "argv",
    [["runs", "rm", "1"], ["erase", "--subject", "P-1"], ["data", "vault", "destroy", "support"]],
    ids=["a run", "a person", "a vault"],
)
def test_where_nobody_can_answer_the_question_is_an_error_and_with_json_a_document(
    project: Project, capsys: Out, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    run = make_run(project, "done")
    (project.root / "rows.jsonl").write_text('{"text": "hello", "label": "a", "person": "P-1"}\n')
    source = "{path: rows.jsonl, permission: {subject_key: person}}"
    (project.root / "recipes" / "a.yaml").write_text(f"name: a\ndata: {{sources: [{source}]}}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert app.run([*argv, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "E258"
    assert "--yes" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert app.run(argv) == 130
    assert run.dir.is_dir()


def test_a_question_is_answered_with_yes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(project, "done")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert app.run(["runs", "rm", "1"]) == 0
    assert not run.dir.exists()


# ───────────────────────────────────────────────────────────────────────────── report, audit, catalog, card


def test_report_prints_the_path_alone_on_stdout(project: Project, capsys: Out) -> None:
    run = make_run(project, "done")
    assert app.run(["report", "1"]) == 2
    assert capsys.readouterr().err.startswith("E254")
    write_json(run.dir / "report.json", {"sentence": "Worth it."})
    (run.dir / "report.html").write_text("<p>")
    (run.dir / "report.md").write_text("# Worth it\n")
    assert app.run(["report", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == f"runs/{run.dir.name}/report.html\n"
    assert err == "Worth it.\n"
    assert app.run(["report", "--format", "md"]) == 0
    assert capsys.readouterr().out == "# Worth it\n"
    assert app.run(["report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentence"] == "Worth it."


def test_a_report_of_another_checkpoint_than_the_chosen_one_is_not_shown_as_the_runs(
    project: Project, capsys: Out
) -> None:
    run = make_run(project, "stopped")
    write_json(run.dir / "best.json", {"checkpoint": "step-000200", "step": 200})
    (run.dir / "report.html").write_text("<p>")
    write_json(run.dir / "report.json", {"sentence": "Worth it.", "training": {"best_step": 100}})
    assert app.run(["report", "1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("E254") and "step-000100" in err and "metier evaluate 1" in err and "Worth it" not in err
    assert app.run(["runs", "show", "1"]) == 0
    assert "report.html (of step-000100, which is not the chosen checkpoint any more)" in capsys.readouterr().out
    write_json(run.dir / "report.json", {"sentence": "Worth it.", "training": {"best_step": 200}})
    assert app.run(["report", "1"]) == 0


@pytest.mark.parametrize(("value", "shown"), [(0.919996, "0.919996"), (0.92, "0.92"), (0.87654, "0.8765"), (None, "–")])
def test_a_missed_target_is_not_rounded_to_what_was_asked_for(value: float | None, shown: str) -> None:
    assert faces._against(TargetResult(name="accuracy", condition=" >= 0.92", value=value, met=None)) == shown


def test_audit_verify_exits_with_6_on_tampering(project: Project, capsys: Out) -> None:
    for number in range(3):
        audit.append(project, "train", run=number)
    assert app.run(["audit", "verify"]) == 0
    assert capsys.readouterr().out == "whole: 3 records\n"
    assert app.run(["audit", "show", "-n", "1"]) == 0
    assert "run=2" in capsys.readouterr().out
    project.audit_file.write_text("".join(project.audit_file.read_text().splitlines(keepends=True)[:-1]))
    assert app.run(["audit", "verify"]) == 6
    out, err = capsys.readouterr()
    assert out.startswith("truncated")
    assert err.startswith("E650")
    assert app.run(["audit", "verify", "--json"]) == 6
    out, err = capsys.readouterr()
    assert json.loads(out)["whole"] is False, "one document, the result"
    assert err.startswith("E650")


def test_catalog_shows_options_with_their_limits(capsys: Out) -> None:
    assert app.run(["catalog", "ls", "adapters", "--json"]) == 0
    assert "lora" in json.loads(capsys.readouterr().out)["adapters"]
    assert app.run(["catalog", "show", "adapters", "lora"]) == 0
    assert re.search(r"^r +int ≥ 1", capsys.readouterr().out, re.MULTILINE)
    assert app.run(["catalog", "show", "adapters", "lroa"]) == 2
    assert "Did you mean `lora`?" in capsys.readouterr().err


def test_a_data_card_is_printed_as_it_is(project: Project, capsys: Out) -> None:
    folder = project.datasets_dir / "support" / "v1-aa11"
    write_json(folder / "manifest.json", {"name": "support"})
    assert app.run(["data", "card", "data:support"]) == 2
    assert capsys.readouterr().err.startswith("E257")
    (folder / "card.md").write_text("# support\n")
    assert app.run(["data", "card", "data:support"]) == 0
    assert capsys.readouterr().out == "# support\n"
    assert app.run(["data", "card", "data:supprot"]) == 2
    assert "data:support" in capsys.readouterr().err


def test_doctor_says_what_is_there(project: Project, capsys: Out) -> None:
    code = app.run(["doctor", "--json"])
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["torch"]["level"] == "ok"
    assert found["project"]["text"].startswith("p in ")
    assert code == (4 if any(f["level"] == "missing" for f in found.values()) else 0)


def test_doctor_looks_on_where_the_own_folders_cannot_be_made(
    project: Project, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_STATE_DIR", str(project.file))
    assert app.run(["doctor", "--json"]) == 4
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["own folders"]["level"] == found["compute slot"]["level"] == "missing"
    assert found["project"]["text"].startswith("p in ")


@pytest.mark.parametrize("argv", [["predict"], ["chat"], ["runs", "show"]])
def test_a_text_where_a_run_belongs(project: Project, capsys: Out, argv: list[str]) -> None:
    assert app.run([*argv, "Please move my appointment. " * 30]) == 2
    assert capsys.readouterr().err.startswith("E232 There is no run `Please move my")


def answered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the model is asked, with the places; it says each input again."""
    from metier.actions import models

    asked: list[tuple[str, Any]] = []

    def predict(_: Project, ref: str, inputs: list[Any], *, places: list[str], **more: Any) -> list[dict[str, Any]]:
        asked.extend(zip(places, inputs, strict=bool(places)))
        return [{"output": given if isinstance(given, str) else given["text"]} for given in inputs]

    monkeypatch.setattr(models, "predict", predict)
    return asked


def test_an_input_is_a_line_and_nothing_else_ends_it(
    project: Project, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(project, "done")
    asked = answered(monkeypatch)
    lines = ["a\x0cb", "", "c\u2028d \x85\x1ce", "   ", "f", ""]
    for ending in ("\n", "\r\n"):
        (project.root / "in.txt").write_bytes(ending.join(lines).encode())
        assert app.run(["predict", "1", "--file", "in.txt"]) == 0
        given = [("in.txt:1", lines[0]), ("in.txt:3", lines[2]), ("in.txt:5", "f")]
        assert asked == given, ending
        out = capsys.readouterr().out
        assert [bool(line) for line in out.split("\n")] == [True, False, True, False, True, False], "line by line"
        asked.clear()
    assert app.run(["predict", "1", "--file", "in.txt", "--json"]) == 0
    assert [a["line"] for a in json.loads(capsys.readouterr().out)] == [1, 3, 5]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nx\u2029y\n"))
    asked.clear()
    assert app.run(["predict", "1"]) == 0
    assert asked == [("stdin:2", "x\u2029y")] and capsys.readouterr().out.startswith("\n")
    asked.clear()
    assert app.run(["predict", "1", "a\nb", "c", "--json"]) == 0
    assert asked == [] and json.loads(capsys.readouterr().out) == [{"output": "a\nb"}, {"output": "c"}]


def test_rows_of_jsonl_are_named_by_their_line(project: Project, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(project, "done")
    asked = answered(monkeypatch)
    (project.root / "in.jsonl").write_text('{"text": "a\u2028b"}\n\n{"text": "c"}\n', encoding="utf-8")
    assert app.run(["predict", "1", "--file", "in.jsonl"]) == 0
    assert asked == [("in.jsonl:1", {"text": "a\u2028b"}), ("in.jsonl:3", {"text": "c"})]
    capsys.readouterr()
    (project.root / "in.jsonl").write_text('{"text": "a"}\n\n\n[]\n')
    assert app.run(["predict", "1", "--file", "in.jsonl"]) == 3
    assert capsys.readouterr().err.startswith("E381 The line is not a JSON object  in.jsonl:4")


def test_a_machine_that_is_not_ready_is_still_one_json_document(
    project: Project, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", float("inf"))
    assert app.run(["doctor", "--json"]) == 4
    out, err = capsys.readouterr()
    assert next(f for f in json.loads(out) if f["name"] == "disk")["level"] == "missing"
    assert err.startswith("E455 This machine is not ready: disk")
    assert app.run(["runs", "show", "9", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E232", "the next command line starts anew"
