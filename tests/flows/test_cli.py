"""Whole verbs through the command line, as a new user would, on a tiny random model."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import metier as package
from metier.cli import app
from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.run import Run
from tiny import labelled_rows, write_model

TARGETS = ["objective.targets.accuracy=>= 0", "objective.targets.ece=< 0"]
"""One that every run meets and one that none can."""
FAST = ["model.name_or_path=base", "training.num_train_epochs=2", "training.max_length=64", "adapter.kind=full"]


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


def metier(folder: Path, *argv: str, code: int = 0) -> Done:
    """Run one command line in this process: torch is imported once for all of them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        returned = app.run(argv)
    assert returned == code, f"{' '.join(argv)}\n{out.getvalue()}\n{err.getvalue()}"
    return Done(out.getvalue(), err.getvalue())


def write_rows(path: Path, n: int) -> None:
    rows = labelled_rows(n)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project made by `metier init`, with a tiny base beside its rows."""
    folder = tmp_path_factory.mktemp("flow") / "desk"
    folder.mkdir()
    write_rows(folder / "rows.csv", 120)
    write_model(folder / "base")
    done = metier(folder, "init", "--data", "rows.csv", "--name", "desk", "--json")
    made = json.loads(done.stdout)
    assert (made["format"], made["task"]) == ("labelled", "classify")
    assert Path(made["recipe"]) == folder / "recipes" / "desk.yaml"
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Any]:
    """The first run, trained in the foreground."""
    done = metier(home, "train", *FAST, *TARGETS, "--json")
    value: dict[str, Any] = json.loads(done.stdout)
    assert "step " in done.stderr
    assert re.search(r"plan: \d+ steps +[\d,]+ tokens per epoch +about .+ +[\d.]+ .B of memory", done.stderr)
    assert "validation at step" in done.stderr
    assert "\x1b[" not in done.stderr
    return value


@pytest.fixture(scope="module")
def talking(home: Path) -> int:
    """A run that writes its answers, asked by a prompt, with a target that it meets."""
    words = ["method.kind=sft", "data.prompt.user={text} Topic:", "training.max_steps=4", "evaluation.max_new_tokens=4"]
    run: int = json.loads(metier(home, "train", *FAST, *words, TARGETS[0], "--json").stdout)["run"]
    return run


def test_data_is_shown_checked_and_prepared(home: Path) -> None:
    done = metier(home, "data", "preview", "--rows", "2", *FAST)
    assert "labelled" in done.stdout
    assert "rows.csv:2" in done.stdout
    assert "looking for duplicates" in done.stderr, "the first reading takes its time, and says so"
    prepared = json.loads(metier(home, "data", "prepare", *FAST, "--json").stdout)
    assert sum(prepared["rows"].values()) == 120
    again = json.loads(metier(home, "data", "prepare", *FAST, "--json").stdout)
    assert again["digest"] == prepared["digest"]
    assert metier(home, "data", "card", prepared["dataset"]).stdout.strip()
    assert metier(home, "data", "check", *FAST).stdout


def test_a_broken_file_exits_with_3_and_names_the_first_place(home: Path) -> None:
    (home / "broken.csv").write_text("text,label\n" + "x,\n" * 9 + "hello,a\n")
    done = metier(home, "plan", "data.sources.0.path=broken.csv", *FAST, code=3)
    assert "E310" in done.stderr
    assert "broken.csv:2" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_and_option_exit_with_2(home: Path) -> None:
    assert "Did you mean" in metier(home, "train", "training.learning_rat=1", code=2).stderr
    assert "E211" in metier(home, "train", *FAST, "adapter.kind=lora", "adapter.rnk=8", code=2).stderr


def test_the_plan_has_figures_and_starts_nothing(home: Path) -> None:
    runs = Project(home).run_dirs()
    done = metier(home, "plan", *FAST, "--measure", "--json")
    value = json.loads(done.stdout)
    assert "loading the base model" in done.stderr and "measured steps" in done.stderr
    shown = metier(home, "plan", *FAST, TARGETS[0])
    assert "loss on the label of each row" in shown.stdout
    following = shown.stderr.splitlines()[-1]
    assert shlex.split(following)[-len(FAST) - 2 :] == ["train", *FAST, TARGETS[0]], "as a shell reads it"
    assert value["steps"] > 0
    assert value["epochs"] == 2, "a smaller last batch is no longer epoch"
    assert value["memory_bytes"] > 0
    assert Project(home).run_dirs() == runs


def test_training_ends_with_a_verdict_and_its_files(home: Path, trained: dict[str, Any]) -> None:
    run = Run(Path(trained["dir"]))
    assert trained["state"] == "done"
    assert trained["sentence"]
    for name in (
        "report.html",
        "report.md",
        "report.json",
        "README.md",
        "recipe.yaml",
        "recipe.resolved.yaml",
        "best.json",
    ):
        assert (run.dir / name).is_file(), name
    assert metier(home, "report", str(run.number)).stdout.strip().endswith("report.html")
    listed = json.loads(metier(home, "runs", "ls", "--json").stdout)
    assert listed[0]["verdict"] == trained["verdict"]


def test_a_missed_target_is_exit_5_with_gate_alone(home: Path, trained: dict[str, Any]) -> None:
    run = str(trained["run"])
    done = metier(home, "evaluate", run, "--json")
    report = json.loads(done.stdout)
    assert {s["role"] for s in report["systems"]} >= {"run", "base", "floor"}
    assert {t["name"]: t["met"] for t in report["targets"]} == {"accuracy": True, "ece": False}
    assert report["verdict"] == trained["verdict"] == "insufficient"
    rows = report["data"]["rows"]["test"]
    assert f"{rows} held-out texts are fewer than the 100 that a verdict needs" in report["sentence"]
    assert "loading the base model" in done.stderr and "E501" not in done.stderr
    gated = metier(home, "evaluate", run, "--gate", "--json", code=5)
    assert json.loads(gated.stdout)["targets"] == report["targets"], "one document, the report"
    assert "E501 1 of 2 targets are missed: ece" in gated.stderr
    assert "expected: ece < 0" in gated.stderr


def test_met_targets_pass_the_gate(home: Path, talking: int) -> None:
    done = metier(home, "evaluate", str(talking), "--gate", "--json")
    assert [t["met"] for t in json.loads(done.stdout)["targets"]] == [True]


def test_new_texts_get_labels(home: Path, trained: dict[str, Any]) -> None:
    done = metier(home, "predict", str(trained["run"]), "my card was stolen", "the pain is new", "--json")
    answers = json.loads(done.stdout)
    assert [a["output"] in ("card", "rate", "pain") for a in answers] == [True, True]
    plain = metier(home, "predict", str(trained["run"]), "my card was stolen").stdout
    assert plain.strip() == answers[0]["output"]


def test_a_run_is_used_in_another_place_and_without_the_device_it_began_on(
    home: Path, trained: dict[str, Any], tmp_path: Path
) -> None:
    ask = ["predict", str(trained["run"]), "my card was stolen", "the pain is new", "--json"]
    answers = [a["output"] for a in json.loads(metier(home, *ask).stdout)]
    moved = shutil.copytree(home, tmp_path / "moved")
    run = Run(Project(moved).run_dir(str(trained["run"])))
    for file in run.checkpoints_dir.rglob("*"):
        assert file.is_dir() or str(home).encode() not in file.read_bytes(), file.name
    environment = json.loads((run.dir / "environment.json").read_text())
    environment["pinned"] |= {"device": "cuda", "dtype": "bfloat16", "threads": "64", "micro_batch_tokens": "16384"}
    environment["choices"]["device"] = "cuda because it is the fastest device PyTorch sees"
    (run.dir / "environment.json").write_text(json.dumps(environment))
    resolved = run.dir / "recipe.resolved.yaml"
    resolved.write_text(resolved.read_text().replace("device: auto", "device: cuda"))
    assert [a["output"] for a in json.loads(metier(moved, *ask).stdout)] == answers
    report = json.loads(metier(moved, "evaluate", str(trained["run"]), "--json").stdout)
    assert report["training"]["choices"]["device"].startswith("cuda because"), "how it was trained"
    assert report["training"]["chosen_by"] == "accuracy"


def test_a_task_head_does_not_talk(home: Path, trained: dict[str, Any]) -> None:
    assert "metier predict" in metier(home, "chat", str(trained["run"]), code=2).stderr


def test_a_run_with_a_prompt_is_asked_by_it_in_chat(home: Path, talking: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def chat(*options: str) -> tuple[list[dict[str, str]], str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("my card was stolen\nmy card was stolen\n\n"))
        done = metier(home, "chat", str(talking), "--vs", "base", "--json", *options)
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    said, talk = chat()
    assert [sorted(line) for line in said] == [["base", "input", "run"]] * 2
    assert said[0] == said[1], "each message is a question of its own"
    assert "each message starts anew" in talk and '"{text} Topic:"' in talk
    drawn, _ = chat("--temperature", "2", "--top-p", "0.99", "--seed", "3")
    assert drawn == chat("--temperature", "2", "--top-p", "0.99", "--seed", "3")[0]
    assert said[0] not in drawn and drawn[0] != drawn[1]


def test_sampling_options_without_use_are_refused(home: Path, trained: dict[str, Any], talking: int) -> None:
    for run in (trained["run"], talking):  # a head, and a writer whose labels are chosen by likelihood
        done = metier(home, "predict", str(run), "my card", "--temperature", "0.7", "--json", code=2)
        assert json.loads(done.stdout)["error"]["code"] == "E291"
    assert "E291" in metier(home, "chat", str(talking), "--seed", "3", code=2).stderr


def test_the_functions_of_the_package_find_the_project_as_the_command_line_does(
    home: Path, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder without a project, where no number of a run means anything."""
    answers = json.loads(metier(home, "predict", str(trained["run"]), "my card was stolen", "--json").stdout)
    monkeypatch.chdir(tmp_path)
    run = Run(Path(trained["dir"]))
    recipe = home / "recipes" / "desk.yaml"
    dataset = package.prepare(recipe, FAST)
    assert dataset.dir.is_relative_to(home)
    assert package.plan(str(recipe), FAST).steps > 0
    other = package.train(recipe, [*FAST, "training.max_steps=2"])
    assert other.dir.parent == home / "runs"
    assert (other.dir / "recipe.yaml").read_text() == recipe.read_text(), "as its user wrote it"
    for known in (run, trained["dir"], f"{trained['dir']}@best"):
        assert package.predict(known, ["my card was stolen"]) == answers
    assert package.compare(run, other).rows
    with pytest.raises(ConfigError, match="E263"):
        package.chat(run)
    with pytest.raises(ConfigError, match="E291"):
        package.predict(run, ["my card"], temperature=0.7)
    with pytest.raises(ConfigError, match="E230"):
        package.predict(str(trained["run"]), ["my card"])
    read = Recipe.read(recipe)
    with contextlib.chdir(home):
        assert package.prepare(read, FAST).digest == dataset.digest
        with pytest.raises(ConfigError, match="E201"):
            package.prepare(read, ["data.splt=1"])
    metier(home, "runs", "rm", str(other.number), "--yes")


def test_an_interrupted_run_resumes_and_a_changed_semantic_key_is_refused(home: Path, trained: dict[str, Any]) -> None:
    before = len(Project(home).run_dirs())
    process = subprocess.Popen(
        [sys.executable, "-m", "metier.cli", "train", *FAST, "training.num_train_epochs=400"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run = _after_a_few_steps(home, runs=before + 1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"metier runs resume {run.number}" in err
    assert run.status()["state"] == "stopped"
    assert list(run.checkpoints_dir.glob("step-*"))
    assert "E238" in metier(home, "runs", "resume", str(run.number), "training.seed=9", code=2).stderr
    detached = metier(home, "runs", "resume", str(run.number), "training.micro_batch_tokens=512", "--detach")
    assert detached.stdout == f"{run.number}\n"
    _after_a_few_steps(home, runs=before + 1, beyond=max(e["step"] for e in run.events("step")))
    metier(home, "runs", "stop", str(run.number))
    _until(lambda: run.status()["state"] == "stopped")
    metier(home, "runs", "rm", str(run.number), "--yes")
    assert not run.dir.exists()


def test_a_run_that_is_not_there(home: Path) -> None:
    assert metier(home, "runs", "show", "99", code=2).stderr.startswith("E232")


def _after_a_few_steps(home: Path, *, runs: int, beyond: int = 0) -> Run:
    """The newest run, once there are so many and it has trained a few steps."""

    def newest() -> Run | None:
        folders = Project(home).run_dirs()
        if len(folders) < runs:
            return None
        run = Run(folders[-1])
        return run if any(e["step"] > beyond + 3 for e in run.events("step")) else None

    _until(newest)
    found = newest()
    assert found is not None
    return found


def _until(condition: Any, seconds: float = 120.0) -> None:
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience, "it did not happen in time"
        time.sleep(0.05)
