"""A small project with planted subjects, made without a model: rows, a version, quarantine, caches, runs, reports.

Import as `from erasing import …`.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

from metier.core.project import Project, write_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.core.types import SPLITS, Split
from metier.data import dataset, review, stages
from metier.data.dataset import build
from metier.data.encoded import Encoded
from metier.data.tokens import TokenTable
from metier.data.versions import Dataset

WORDS = (  # noqa: SIM905
    "amber anchor autumn badger barrel basket beacon blanket bottle branch bridge bucket butter candle canyon carpet "
    "castle cellar cherry circle clover copper corner cotton cradle dancer desert dinner dollar dragon engine falcon "
    "feather fiddle finger flower forest garden ginger hammer harbor hollow island jacket kettle ladder lantern lemon "
    "letter marble meadow mirror needle orange palace pencil pepper pillow planet pocket rabbit ribbon river saddle "
    "shadow silver spider spring summer table thunder timber tunnel valley velvet violin walnut window winter yellow"
).split()
LABELS = ("card", "pain", "rate")


@dataclass(frozen=True)
class Person:
    key: str
    name: str
    texts: tuple[str, ...]


def people(num: int, seed: int = 0, texts: int = 2) -> list[Person]:
    """Return persons whose texts are made of words in an order of their own."""
    rng = random.Random(seed)
    return [
        Person(
            f"P-{seed}-{i:05d}",
            f"Zora{i:04d} Quill{i:04d}ska",
            tuple(" ".join(rng.sample(WORDS, 14)) + "." for _ in range(texts)),
        )
        for i in range(num)
    ]


def rows_of(persons: list[Person], first: int = 0) -> list[dict[str, str]]:
    """Return a row per text; `first` is the number of the first one, by which it has its label."""
    return [
        {"person": p.key, "text": text, "label": LABELS[i % 3]}
        for i, (p, text) in enumerate(((p, text) for p in persons for text in p.texts), start=first)
    ]


def project_with(root: Path, persons: list[Person], also_in: list[Person]) -> tuple[Project, Dataset, Recipe]:
    """Return a project whose sources hold `persons`, and which has traces of `also_in` wherever they may be.

    A copy of a text of each of the latter stands without a key in notes.jsonl, their name in a text of somebody else
    and in a document, a bad row of theirs in quarantine.
    """
    project = Project.create(root, "desk")
    rows = rows_of(persons)
    with (root / "data" / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["person", "text", "label"])
        writer.writeheader()
        writer.writerows(rows)
        file.writelines(f"{p.key},only two columns\n" for p in also_in)
    rng = random.Random(99)
    notes = [{"text": p.texts[0].upper(), "label": "card"} for p in also_in]
    notes += [{"text": f"{' '.join(rng.sample(WORDS, 10))} said {p.name} today", "label": "pain"} for p in also_in]
    notes += [{"text": " ".join(rng.sample(WORDS, 12)), "label": LABELS[i % 3]} for i in range(30)]
    with gzip.open(root / "data" / "notes.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.writelines(json.dumps(row) + "\n" for row in notes)
    (root / "data" / "memo.txt").write_text("A memo.\n" + "".join(f"Ask {p.name} ({p.key}).\n" for p in also_in))
    stated = {"personal_data": True, "subject_key": "person"}
    recipe = {
        "name": "desk",
        "data": {
            "sources": [{"path": "data/rows.csv", "permission": stated}, {"path": "data/notes.jsonl.gz"}],
            "max_quarantine": 0.9,
        },
        "objective": {"task": "classify"},
        "method": {"kind": "classify"},
        "adapter": {"kind": "none"},
    }
    made = Recipe.build(recipe)
    (root / "recipes" / "desk.yaml").write_text(made.to_yaml())
    version = build(made, project)
    from metier.actions.data import prepare

    prepare(made, project)
    return project, version, made


def interrupted(project: Project, recipe: Recipe) -> Path:
    """Leave what a preparation of other options leaves that is killed when its rows are read; return its folder."""
    with mock.patch.object(dataset, "divide", side_effect=KeyboardInterrupt), contextlib.suppress(KeyboardInterrupt):
        build(recipe.with_values({"data.split.seed": 7}), project)
    (folder,) = (path for path in stages.folder(project, recipe.name).iterdir() if path.is_dir())
    return folder


def run_on(project: Project, version: Dataset, recipe: Recipe) -> Run:
    """Make a run that read a version, with what a finished one has of its rows: tokens, predictions, report, events."""
    run = Run.create(
        project.new_run_dir("classify", "desk"),
        name="desk",
        method="classify",
        adapter="none",
        model="metier/nano",
        dataset=version.ref,
        dataset_digest=version.digest,
    )
    (run.dir / "recipe.resolved.yaml").write_text(recipe.to_yaml())
    (run.dir / "recipe.yaml").write_text(recipe.to_yaml())
    for split in ("train", "validation"):
        examples = version.examples(cast(Split, split))
        encoded = [_encoded(e.id) for e in examples]
        folder = project.cache_dir / "tokens" / f"{run.number:04d}{split}"
        TokenTable.build(encoded, folder, "k")
        write_json(folder.with_suffix(".json"), {"report": {}, "notes": {}})
    trunk = project.cache_dir / "trunk" / f"{run.number:04d}"
    trunk.mkdir(parents=True)
    (trunk / "states.bin").write_bytes(b"0" * 64)
    every = [e for split in SPLITS for e in version.examples(split)]
    lines = [
        {"id": e.id, "place": e.place, "prompt": e.text, "reference": e.target, "output": "card", "meta": dict(e.meta)}  # type: ignore[union-attr]
        for e in every
    ]
    for folder in (run.predictions_dir, run.evaluations_dir / "test-step-000002" / "predictions"):
        folder.mkdir(parents=True)
        (folder / "test-run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    from metier.evaluation import card, report

    found = report_of(run, version, every)
    report.write(found, run.dir)
    card.write(found, run.dir)
    report.write(found, run.evaluations_dir / "test-step-000002")
    for example in every:
        run.event("note", code="tokens", text=f"cut: {example.text}")  # type: ignore[union-attr]
    run.log_file.write_text("".join(f"a library printed: {e.text}\n" for e in every))  # type: ignore[union-attr]
    (run.dir / "checkpoints").mkdir()
    run.update(state="done")
    rows = [{"place": e.place, "id": e.id, "label": "card", "text": e.text} for e in every]  # type: ignore[union-attr]
    review.write(review.folder(project, "desk") / f"{run.number}-label_issues.jsonl", rows)
    return run


def _encoded(example_id: str) -> Encoded:
    import numpy as np

    return Encoded(example_id, np.zeros(3, dtype=np.int32), np.ones(3, dtype=np.float32), 1, 0, "card")


def report_of(run: Run, version: Dataset, shown: list[Any]) -> Any:
    """A report that quotes rows."""
    from metier.evaluation.result import DataSummary, Examples, Report, Shown, SliceRow, System, TrainingSummary

    quotes = [
        Shown(id=e.id, place=e.place, prompt=e.text, reference=str(e.target), run="card", why="confident and wrong")
        for e in shown
    ]
    keys = sorted({str(e.meta["person"]) for e in shown if e.meta.get("person")})
    return Report(
        metier_version="0",
        created="2026-11-21T00:00:00.000Z",
        run=run.id,
        name="desk",
        task="classify",
        verdict="insufficient",
        sentence="Too few rows.",
        primary_metric="accuracy",
        systems=[System(name="run", label="Run", role="run", figures=[])],
        differences=[],
        slices=[
            SliceRow(column="person", value=k, n=2, metric="accuracy", figure=None, note="insufficient") for k in keys
        ],
        examples=Examples(worst=quotes[::3], changed=quotes[1::3], random=quotes[2::3]),
        data=DataSummary(dataset=version.ref, digest=version.digest, rows=dict(version.manifest["counts"])),
        training=TrainingSummary(
            method="classify",
            adapter="none",
            steps=2,
            epochs=1.0,
            examples=8,
            tokens=80,
            supervised_tokens=0,
            padding=0.0,
            seconds=1.0,
            tokens_per_second=80.0,
            peak_memory_bytes=1,
            trainable_parameters=1,
            total_parameters=2,
            best_step=2,
            stopped_early=False,
            overfitting="none",
        ),
    )
