"""The long proof that a run survives what may happen to its process and to its files (`make sweep`).

Every interrupted run must end in the weights, optimiser moments and chosen checkpoint of the unbroken one: the SHA-256
of the files is compared, so one bit is enough to fail. Times and places are drawn from a seeded generator.

    METIER_SWEEP_N=30       kills; the other counts follow from it
    METIER_SWEEP_SEED=0     what is drawn
    METIER_SWEEP_WRITE=1    write the figures to benchmarks/reliability.md
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metier.actions import train as actions
from metier.core.project import Project, digest_file
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.training import checkpoint
from tiny import chat_rows, write_model

pytestmark = pytest.mark.sweep

KILLS = int(os.environ.get("METIER_SWEEP_N", "30"))
SEED = int(os.environ.get("METIER_SWEEP_SEED", "0"))
PAGE = Path(__file__).parents[2] / "benchmarks" / "reliability.md"
STEPS = 40
PATIENCE_SECONDS = 300.0

CASES: dict[str, dict[str, Any]] = {
    "full": {"adapter": {"kind": "full"}, "packing": False},
    "lora": {"adapter": {"kind": "lora", "r": 4}, "packing": False},
    "packed": {"adapter": {"kind": "full"}, "packing": True},
    "dropout": {"adapter": {"kind": "lora", "r": 4, "lora_dropout": 0.2}, "packing": True},
}

Outcome = dict[str, str]
"""What must be equal: file of the last checkpoint → SHA-256, and the chosen checkpoint."""


# ───────────────────────────────────────────────────────────────────────────── the figures


@dataclass
class Ledger:
    """What was tried and how often it held; a promise that failed once fails the sweep, and its figure is written."""

    rows: list[tuple[str, int, int, str]] = field(default_factory=list)

    def note(self, promise: str, outcomes: list[bool], remark: str = "") -> None:
        self.rows.append((promise, sum(outcomes), len(outcomes), remark))
        assert outcomes, f"nothing was tried: {promise}"
        assert all(outcomes), f"{promise}: {sum(outcomes)} of {len(outcomes)}   {remark}"

    def page(self) -> str:
        lines = [
            "# Reliability",
            "",
            "Written by `METIER_SWEEP_WRITE=1 make sweep` (tests/sweep/test_kill.py). A run of a tiny random model "
            f"(two layers, width 32, {STEPS} steps) is interrupted or damaged and resumed until it is done; it holds "
            "when weights, optimiser moments and chosen checkpoint have the SHA-256 of the unbroken run. Where nothing "
            "failed, 3/n bounds the rate of failure with 95 % confidence.",
            "",
            provenance(),
            "",
            "| what happens | held | 95 % bound | |",
            "|---|---|---|---|",
        ]
        for promise, held, tried, remark in self.rows:
            bound = f"≤ {min(1.0, 3 / tried):.1%}" if tried and held == tried else "–"
            lines.append(f"| {promise} | {held}/{tried} | {bound} | {remark} |")
        return "\n".join(lines) + "\n"


def provenance() -> str:
    """Command, date, commit and machine, as every table of benchmarks/ has them."""
    path = PAGE.with_name("machine.py")
    spec = importlib.util.spec_from_file_location("machine", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.provenance(f"METIER_SWEEP_N={KILLS} METIER_SWEEP_SEED={SEED} METIER_SWEEP_WRITE=1 make sweep"))


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    yield made
    if os.environ.get("METIER_SWEEP_WRITE") == "1":
        PAGE.write_text(made.page(), encoding="utf-8")


# ───────────────────────────────────────────────────────────────────────────── runs


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("sweep") / "desk"
    made = Project.create(root, "desk")
    write_model(root / "base")
    (root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(60)))
    return made


def new_run(project: Project, case: str) -> Run:
    chosen = CASES[case]
    recipe = Recipe.build(
        {
            "name": "desk",
            "data": {"sources": [{"path": "data/rows.jsonl"}], "split": {"validation": 0.15, "test": 0.15}},
            "model": {"name_or_path": "base"},
            "adapter": chosen["adapter"],
            "training": {
                "max_steps": STEPS,
                "num_train_epochs": 100,
                "batch_size": 4,
                "max_length": 64,
                "packing": chosen["packing"],
                "micro_batch_tokens": 96,
                "learning_rate": 3e-3,
                "save_steps": 5,
                "early_stopping_patience": 0,
                "num_threads": 1,
                "seed": 7,
            },
            "evaluation": {"every_steps": 10, "max_new_tokens": 4, "max_examples": 4, "bootstrap_samples": 100},
        }
    )
    return actions.create(recipe, project)


def outcome(run: Run) -> Outcome:
    last = run.checkpoints_dir / f"step-{STEPS:06d}"
    assert checkpoint.problems(last) == []
    files = {p.name: digest_file(p) for p in sorted(last.glob("*.safetensors"))}
    assert "optimizer.safetensors" in files and len(files) >= 2
    return {**files, "best": json.dumps(json.loads((run.dir / "best.json").read_text()), sort_keys=True)}


def finish(run: Run) -> None:
    """Wait until nobody holds the run."""
    until(lambda: not run.held())


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < patience, "it did not happen in time"
        time.sleep(0.002)


def go_on(project: Project, run: Run) -> Run:
    """Resume a run that is not done, as `metier runs resume` does."""
    return actions.start(actions.resume(project, str(run.number)))


def complete(project: Project, run: Run) -> bool:
    """Resume until done; return whether it got there in one more start."""
    if run.status()["state"] != "done":
        go_on(project, run)
        finish(run)
    return bool(run.status()["state"] == "done")


@pytest.fixture(scope="module")
def unbroken(project: Project) -> Callable[[str], tuple[Outcome, float]]:
    """The unbroken run of a case and the seconds it took, made at the first call."""
    made: dict[str, tuple[Outcome, float]] = {}

    def of(case: str) -> tuple[Outcome, float]:
        if case not in made:
            began = time.monotonic()
            run = actions.start(new_run(project, case))
            finish(run)
            assert run.status()["state"] == "done", (run.dir / "log.txt").read_text()
            made[case] = outcome(run), time.monotonic() - began
        return made[case]

    return of


# ───────────────────────────────────────────────────────────────────────────── kill


def wait_for_a_moment(run: Run, draw: random.Random, seconds: float) -> None:
    """Wait for a drawn moment: one in four anywhere in the run's life, the others within its steps."""
    if draw.random() < 0.25:
        end = time.monotonic() + draw.uniform(0, seconds)
        until(lambda: time.monotonic() > end or not run.held())
        return
    seen = sum(1 for _ in run.events("step"))
    wanted = seen + draw.randint(1, 12)
    until(lambda: sum(1 for _ in run.events("step")) >= wanted or not run.held())
    time.sleep(draw.uniform(0, 0.06))


def where(run: Run) -> str:
    """What the run did when it was interrupted: its last phase, and in training its last event."""
    last = [e for e in run.events() if e["kind"] in ("phase", "step", "evaluation", "checkpoint")][-1:]
    if not last:
        return "start"
    return str(last[0]["name"]) if last[0]["kind"] == "phase" else f"after a {last[0]['kind']}"


def kill(run: Run) -> bool:
    """SIGKILL the worker; return whether there was one."""
    pid = run.pid()
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finish(run)
    return bool(run.status()["state"] != "done")


def test_killed_at_any_point_it_ends_in_the_same_bits(
    project: Project, unbroken: Callable[[str], tuple[Outcome, float]], ledger: Ledger
) -> None:
    draw = random.Random(SEED)
    kills: Counter[str] = Counter()
    places: Counter[str] = Counter()
    held: dict[str, list[bool]] = {case: [] for case in CASES}
    turn = 0
    while sum(kills.values()) < KILLS:
        case = list(CASES)[turn % len(CASES)]
        turn += 1
        expected, seconds = unbroken(case)
        run = actions.start(new_run(project, case))
        given = 0
        for _ in range(min(max(1, min(3, KILLS // 8)), KILLS - sum(kills.values()))):
            wait_for_a_moment(run, draw, seconds)
            if not kill(run):
                finish(run)
                break
            given += 1
            kills[case] += 1
            places[where(run)] += 1
            good, notes = checkpoint.newest(run.checkpoints_dir)
            # A kill leaves no checkpoint behind that does not verify: rename comes last.
            assert notes == [], notes
            assert good is not None or not any(e["kind"] == "checkpoint" for e in run.events())
            go_on(project, run)
        finish(run)
        held[case] += [complete(project, run) and outcome(run) == expected] * given
        shutil.rmtree(run.dir)
    spread = ", ".join(f"{n} {place}" for place, n in places.most_common())
    for case, outcomes in held.items():
        if outcomes:
            ledger.note(f"SIGKILL at a random point, {case}", outcomes)
    ledger.note("SIGKILL at a random point, all", [o for outcomes in held.values() for o in outcomes], spread)


# ───────────────────────────────────────────────────────────────────────────── ask to stop

MOMENTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "queue": lambda e: e["kind"] == "phase" and e["name"] == "queue",
    "prepare": lambda e: e["kind"] == "phase" and e["name"] == "prepare",
    "first step": lambda e: e["kind"] == "phase" and e["name"] == "train",
    "validation": lambda e: e["kind"] == "evaluation",
    "save": lambda e: e["kind"] == "checkpoint",
    "evaluate": lambda e: e["kind"] == "phase" and e["name"] == "evaluate",
}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_in_any_phase_it_saves_and_can_go_on(
    project: Project, unbroken: Callable[[str], tuple[Outcome, float]], ledger: Ledger, how: signal.Signals
) -> None:
    expected, _ = unbroken("full")
    held, late = [], []
    for name, moment in MOMENTS.items():
        run = actions.start(new_run(project, "full"))
        until(lambda run=run, moment=moment: any(map(moment, run.events())) or not run.held())  # type: ignore[misc]
        pid = run.pid()
        if pid is not None:
            os.kill(pid, how)
        finish(run)
        status = run.status()
        if status["state"] == "done":
            late.append(name)
        else:
            stopped = (status["state"], status["reason"]) == ("stopped", how.name)
            saved, notes = checkpoint.newest(run.checkpoints_dir)
            last = max((e["step"] for e in run.events("step")), default=0)
            kept = saved is None if not last else saved is not None and saved.name == f"step-{last:06d}"
            names_resume = status.get("resume") == f"metier runs resume {run.number}"
            held.append(stopped and kept and not notes and names_resume)
            held[-1] = held[-1] and complete(project, run) and outcome(run) == expected
        shutil.rmtree(run.dir)
    remark = ", ".join(MOMENTS) + (f"; done before it came: {', '.join(late)}" if late else "")
    ledger.note(f"{how.name} in each phase: saved, stopped, resumed", held, remark)


def test_a_request_that_comes_twice_saves_once_and_nothing_is_lost(
    project: Project, unbroken: Callable[[str], tuple[Outcome, float]], ledger: Ledger
) -> None:
    expected, _ = unbroken("full")
    draw = random.Random(SEED + 1)
    held = []
    for _ in range(max(2, KILLS // 10)):
        run = actions.start(new_run(project, "full"))
        wanted = draw.randint(2, STEPS // 2)
        until(lambda run=run, wanted=wanted: sum(1 for _ in run.events("step")) >= wanted or not run.held())  # type: ignore[misc]
        pid = run.pid()
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        finish(run)
        held.append(run.status()["state"] == "stopped" and complete(project, run) and outcome(run) == expected)
        shutil.rmtree(run.dir)
    ledger.note("SIGTERM and at once a second signal", held)


# ───────────────────────────────────────────────────────────────────────────── damage


def flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def zero(path: Path, draw: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [flip, truncate, zero])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(
    project: Project,
    unbroken: Callable[[str], tuple[Outcome, float]],
    ledger: Ledger,
    damage: Callable[[Path, random.Random], None],
) -> None:
    expected, _ = unbroken("full")
    draw = random.Random(f"{SEED} {damage.__name__}")
    stopped = actions.start(new_run(project, "full"))
    until(lambda: sum(1 for _ in stopped.events("checkpoint")) >= 4 or not stopped.held())
    os.kill(stopped.pid() or 0, signal.SIGTERM)
    finish(stopped)
    newest = checkpoint.listing(stopped.checkpoints_dir)[-1].name
    held = []
    files = sorted(p.name for p in (stopped.checkpoints_dir / newest).iterdir())
    for number, file in enumerate(draw.sample(files, min(len(files), max(1, KILLS // 6)))):
        copy = Run(stopped.dir.with_name(f"{9000 + number}-{stopped.dir.name.partition('-')[2]}"))
        shutil.copytree(stopped.dir, copy.dir)
        damage(copy.checkpoints_dir / newest / file, draw)
        done = complete(project, copy)
        told = any(newest in str(e.get("text")) and "not used" in str(e.get("text")) for e in copy.events("note"))
        # A flipped bit in COMPLETE.json's own time stamp vouches for the same files: that one may go unnoticed.
        harmless = file == "COMPLETE.json" and not told
        held.append(done and (told or harmless) and outcome(copy) == expected)
        shutil.rmtree(copy.dir)
    shutil.rmtree(stopped.dir)
    verb = {"flip": "one bit flipped in", "truncate": "cut off:", "zero": "zeroed:"}[damage.__name__]
    ledger.note(f"{verb} a file of the newest checkpoint", held)


# ───────────────────────────────────────────────────────────────────────────── two at once


def test_two_starts_of_one_run_exactly_one_runs(
    project: Project, unbroken: Callable[[str], tuple[Outcome, float]], ledger: Ledger
) -> None:
    expected, _ = unbroken("full")
    draw = random.Random(SEED + 3)
    held = []
    for _ in range(max(2, KILLS // 10)):
        run = new_run(project, "full")
        command = [sys.executable, "-m", "metier.actions.worker", str(run.dir)]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.choice([0.0, draw.uniform(0, 1.0)]))
        second = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        codes = sorted([first.wait(PATIENCE_SECONDS), second.wait(PATIENCE_SECONDS)])
        finish(run)
        starts = sum(1 for e in run.events("phase") if e["name"] == "prepare")
        held.append(codes == [0, 2] and starts == 1 and run.status()["state"] == "done" and outcome(run) == expected)
        shutil.rmtree(run.dir)
    ledger.note("two starts of one run: exactly one runs", held)
