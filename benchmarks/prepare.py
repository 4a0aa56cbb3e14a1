"""Measure `metier data prepare` on a million short rows and write benchmarks/prepare.md.

    python benchmarks/prepare.py [--rows 1000000] [--out -] [--keep FOLDER]

The rows are our own: a seeded generator of questions to a bank. Each preparation is a process of its own, measured by
the operating system (wall time, processor time of all threads, peak of resident memory), at two sizes, so that memory
per row is the slope between them. The smaller one is also killed while it looks for duplicates, and prepared again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml
from machine import publish, table

from metier.core.project import Project

ROWS, SECONDS, BYTES_PER_ROW = 1_000_000, 600, 600
SHARE_EXACT, SHARE_NEAR, SHARE_BROKEN, SHARE_CONTROLS, SHARE_NOT_UTF8 = 0.05, 0.10, 0.01, 0.01, 0.002
REPORT = "writing the data report"
KNOWN_ROWS = 20_000
"""How many earlier rows a duplicate is made of."""
STEPS: list[dict[str, Any]] = [
    {"kind": "clean", "repair_encoding": True},
    {"kind": "deduplicate", "match": "near"},
]

VERBS = (
    "I want to", "how can I", "is it possible to", "please help me to", "why can I not", "where do I go to",
    "do I have to pay to", "can somebody", "I have tried twice to", "since yesterday I cannot", "my wife wants to",
    "when will I be able to", "what do you need from me to", "the app does not let me", "I was told to",
)  # fmt: skip
OBJECTS = {
    "card": ("block my stolen card", "activate the new card", "order a second card", "raise my card limit",
             "change the card's PIN", "unfreeze my debit card", "replace a damaged card", "link my card to the phone"),
    "transfer": ("cancel a transfer", "send money abroad", "find a missing transfer", "set up a standing order",
                 "repeat last month's transfer", "confirm the recipient's name", "speed up a pending transfer",
                 "get a receipt for my transfer"),
    "account": ("open a joint account", "close my old account", "change my address", "add a power of attorney",
                "download a statement", "update my passport data", "move my account to another branch",
                "reset the password"),
    "cash": ("withdraw cash in another currency", "deposit coins", "report a machine that kept my money",
             "find the nearest cash machine", "order foreign notes", "exchange old notes", "get cash without a card",
             "dispute a withdrawal"),
    "loan": ("repay my loan early", "ask for a smaller rate", "see the remaining debt", "apply for a mortgage",
             "add a guarantor", "postpone an instalment", "understand the interest", "sign the loan contract online"),
}  # fmt: skip
DETAILS = (
    "of {amount} {currency} from {day} {month}", "because I travel to {city} on {day} {month}",
    "after the payment at {shop} failed", "with the reference {number}", "before the end of {month}",
    "and the branch in {city} is closed", "for my daughter who studies in {city}",
    "since {shop} charged me {amount} {currency} twice", "that I opened in {city} {years} years ago",
    "although I paid {amount} {currency} to {shop}", "under the contract {number}", "while I am in {city}",
    "as your colleague in {city} promised on {day} {month}", "because the code for {number} never arrived",
    "now that {shop} sent back {amount} {currency}", "even if it costs {amount} {currency}",
    "so that the rent for {month} is paid", "and the hotline hung up after {years} minutes",
    "with the phone number that ends in {years}{day}", "at the café near {shop} in {city}",
)  # fmt: skip
OPENINGS = ("", "", "", "Hello, ", "Good morning, ", "Hi there, ", "Sorry to bother you: ", "Urgent! ", "Dear team, ")
CLOSINGS = ("?", "?", ".", " please.", ", thank you", ". It is urgent.", ". Can you call me back?", "…")
CITIES = ("Bern", "Lima", "Oslo", "Cairo", "Quito", "Delhi", "Turin", "Accra", "Hanoi", "Minsk", "Perth", "Zürich",
          "Málaga", "Kraków", "Leeds", "Osaka", "Tampa", "Porto", "Lyon", "Graz")  # fmt: skip
SHOPS = ("the bakery", "Kiosk 24", "the garage", "Blue Café", "the pharmacy", "Nova Books", "the hotel", "Sport Müller",
         "an online shop", "the bus company", "the florist", "Casa Niño")  # fmt: skip
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "November", "December")
CURRENCIES = ("euros", "francs", "dollars", "pounds", "zloty", "soles")


def questions(num: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield rows: some are earlier ones written in another way (exact) or with a word more or a slip (near)."""
    rng = random.Random(seed)
    known: list[tuple[str, str]] = []
    for _ in range(num):
        drawn = rng.random()
        if known and drawn < SHARE_EXACT:
            text, label = rng.choice(known)
            text = rng.choice((text.upper(), f" {text}", text.replace(" ", "  ", 2), f"{text}!"))
        elif known and drawn < SHARE_EXACT + SHARE_NEAR:
            text, label = rng.choice(known)
            at = rng.randrange(len(text) // 2, len(text))
            text = rng.choice((f"{text} thanks", f"so {text}", text[:at] + rng.choice("aeionrt") + text[at + 1 :]))
        else:
            label = rng.choice(list(OBJECTS))
            detail = rng.choice(DETAILS).format(
                amount=rng.randrange(5, 4000), currency=rng.choice(CURRENCIES), day=rng.randrange(1, 29),
                month=rng.choice(MONTHS), city=rng.choice(CITIES), shop=rng.choice(SHOPS),
                number=rng.randrange(10**6, 10**7), years=rng.randrange(2, 40),
            )  # fmt: skip
            asked = f"{rng.choice(VERBS)} {rng.choice(OBJECTS[label])} {detail}"
            text = f"{rng.choice(OPENINGS)}{asked}{rng.choice(CLOSINGS)}"
            if len(known) < KNOWN_ROWS:
                known.append((text, label))
            else:
                known[rng.randrange(KNOWN_ROWS)] = (text, label)
        if rng.random() < SHARE_BROKEN:
            text = f"{text} – naïve".encode().decode("latin-1")
        if rng.random() < SHARE_CONTROLS:
            text = f"\ufeff{text}\x07 \r\n"
        yield {"text": text, "label": label, "region": rng.choice(("north", "south", "east"))}


def project_with(folder: Path, num: int) -> tuple[Project, float]:
    """Return a project with so many rows, and the mean length of a text in characters."""
    project = Project.create(folder, "bank")
    rng, total = random.Random(1), 0
    with (folder / "data" / "questions.jsonl").open("wb") as file:
        for row in questions(num):
            total += len(row["text"])
            line = json.dumps(row, ensure_ascii=False).encode()
            file.write((line.replace(b" ", b"\xa0", 1) if rng.random() < SHARE_NOT_UTF8 else line) + b"\n")
    recipe = {
        "version": 1,
        "name": "bank",
        "objective": {"task": "classify"},
        "data": {
            "sources": [{"path": "data/questions.jsonl"}],
            "steps": STEPS,
            "split": {"validation": 0.1, "test": 0.1},
        },
        "method": {"kind": "classify"},
    }
    (folder / "recipes" / "bank.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return project, total / num


@dataclass
class Measured:
    """One process: what it took, what it said and when."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    before_report_bytes: int
    result: dict[str, Any]
    phases: dict[str, float] = field(default_factory=dict)


def prepared(project: Project, kill_at: str = "") -> Measured:
    """Run the command; with `kill_at`, until it says so."""
    command = [sys.executable, "-m", "metier.cli", "data", "prepare", "--json"]
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None and process.stderr is not None
    said: list[tuple[float, str]] = []
    before_report = 0

    def listen(lines: IO[str]) -> None:
        nonlocal before_report
        for line in lines:
            said.append((time.monotonic(), line.rstrip()))
            if line.startswith(REPORT):
                before_report = _peak_so_far(process.pid)
            if kill_at and line.startswith(kill_at):
                process.send_signal(signal.SIGKILL)

    listener = threading.Thread(target=listen, args=(process.stderr,))
    listener.start()
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    ended = time.monotonic()
    listener.join()
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code  # waited for here, not by the class
    if code != (-signal.SIGKILL if kill_at else 0):
        raise SystemExit(f"exit code {code}\n" + "\n".join(line for _, line in said))
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    phases: dict[str, float] = {}
    marks = [(began, "start")] + [(at, _phase(line)) for at, line in said if line]
    for (at, name), (until, _) in zip(marks, [*marks[1:], (ended, "")], strict=True):
        phases[name] = phases.get(name, 0.0) + until - at
    value = {} if kill_at else json.loads(out)
    return Measured(ended - began, usage.ru_utime + usage.ru_stime, peak, before_report, value, phases)


def _peak_so_far(pid: int) -> int:
    """Return the peak of a running process's resident memory in bytes, 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _phase(line: str) -> str:
    """Return what a line of progress says without its count."""
    if line.startswith(("next", " ")):
        return "the end"
    head, _, last = line.rpartition(" ")
    return head if "/" in last and last.replace("/", "").replace(",", "").isdigit() else line


def _line(one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """Return slope and intercept of the line through two points."""
    slope = (other[1] - one[1]) / (other[0] - one[0])
    return slope, one[1] - slope * one[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--out", default=str(Path(__file__).with_name("prepare.md")))
    parser.add_argument("--keep", type=Path, help="folder for the projects; by default a temporary one, removed")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="metier-prepare-"))
    few = max(1, options.rows // 10)
    try:
        small, _ = project_with(folder / "small", few)
        first = prepared(small)
        shutil.rmtree(small.datasets_dir)
        prepared(small, kill_at="looking for duplicates")
        again = prepared(small)
        large, mean = project_with(folder / "large", options.rows)
        whole = prepared(large)
        size = (large.root / "data" / "questions.jsonl").stat().st_size
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if again.result["digest"] != first.result["digest"]:
        raise SystemExit("the continued preparation made another version")
    slope, constant = _line((few, first.before_report_bytes), (options.rows, whole.before_report_bytes))
    all_slope, all_constant = _line((few, first.peak_bytes), (options.rows, whole.peak_bytes))
    rows = whole.result["rows"]
    figures = [
        [
            f"{num:,}",
            *(f"{value:.0f}" for value in (m.seconds, m.cpu_seconds, m.before_report_bytes / 1e6, m.peak_bytes / 1e6)),
        ]
        for num, m in ((few, first), (options.rows, whole))
    ]
    shown = [(name, seconds) for name, seconds in whole.phases.items() if seconds >= 1]
    publish(
        options.out,
        "Preparing a million rows",
        f"`metier data prepare` from a JSON Lines file to a version with its data report: {options.rows:,} rows of our"
        f" own generator ({mean:.0f} characters a text on average, {size / 1e6:.0f} MB; {SHARE_EXACT:.0%} exact and"
        f" {SHARE_NEAR:.0%} near duplicates of an earlier row, {SHARE_BROKEN:.0%} in a wrong encoding,"
        f" {SHARE_CONTROLS:.0%} with control characters, {SHARE_NOT_UTF8:.1%} not UTF-8). Steps: `clean` with repaired"
        " encodings, `deduplicate` near; split 0.1/0.1.",
        table(["rows", "wall time, s", "processor time, s", "peak before the report, MB", "peak, MB"], figures),
        f"Memory up to the data report: {slope:.0f} bytes a row (the slope between the two sizes; bound"
        f" {BYTES_PER_ROW}) and a constant of {constant / 1e6:.0f} MB. With the report, whose libraries and language"
        f" models take more than the rows do: {all_slope:.0f} bytes a row and {all_constant / 1e6:.0f} MB."
        f" Bound on the time: {SECONDS} s.",
        f"Rows in the version: train {rows['train']:,}, validation {rows['validation']:,}, test {rows['test']:,};"
        f" {whole.result['quarantined']:,} in quarantine. "
        + " ".join(f"`{step['name']}`: {step['note']}." for step in whole.result["steps"]),
        table(["what it says it does", "seconds"], [[name, f"{seconds:.0f}"] for name, seconds in shown]),
        f"Killed (SIGKILL) while it looked for duplicates and prepared again, {few:,} rows: {again.seconds:.0f} s"
        f" instead of {first.seconds:.0f} s, the same digest.",
        command="python benchmarks/prepare.py" + f" --rows {options.rows}" * (options.rows != ROWS),
        extra=[f"Circumstances: niceness {os.nice(0)}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}"],
    )


if __name__ == "__main__":
    main()
