"""Where the effect of a recipe key is looked for: a desk with rows and bases, and probes that look at a recipe there.

A probe takes a recipe through the product's own functions and returns what a user sees or what the result depends on:
the rows of the splits, the tokens, the weights after a few steps, the checkpoints, the report. It never returns what
the recipe says. Each look has a project of its own, since the rows of an earlier dataset version stay where they are.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from metier.actions import data, evaluate, execute, models, train
from metier.actions.compose import Parts, compose
from metier.core.errors import MetierError
from metier.core.project import Project, read_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.core.types import SPLITS, to_json
from metier.data.dataset import build
from metier.evaluation.records import read_predictions
from metier.evaluation.result import Report
from metier.governance import permission
from metier.metrics import Prediction, metric
from metier.training import loop
from tiny import SENTENCES, chat_rows, write_model

Probe = Callable[[Recipe, Project], Any]

PLAIN: dict[str, Any] = {
    "name": "desk",
    "objective": {"task": "classify"},
    "data": {"sources": [{"path": "data/letters.jsonl"}], "split": {"validation": 0.2, "test": 0.2}},
    "model": {"name_or_path": "base", "dtype": "float32", "device": "cpu"},
    "adapter": {"kind": "lora", "r": 4},
    "method": {"kind": "classify"},
    "training": {
        "max_length": 128,
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.0,
        "num_threads": 1,
    },
    "evaluation": {"baseline": False, "max_new_tokens": 4, "bootstrap_samples": 100},
}
"""The recipe whose keys are changed: a tiny classifier."""
WRITER: dict[str, Any] = {"objective.task": "chat", "method.kind": "sft", "data.sources.0.path": "data/chats.jsonl"}
"""Changes that make it a model that writes."""
COMMITS = ("1" * 40, "2" * 40)
TEMPLATE = (
    "{% for m in messages %}{{ m.role + '> ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant> {% endif %}"
)


class Desk:
    """A folder with bases and rows; each look at a recipe takes a new project beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[tuple[Probe, str], Any] = {}
        self._num_projects = 0
        for seed, name in enumerate(("base", "other", *(f"hub/models--org--small/snapshots/{c}" for c in COMMITS))):
            write_model(folder / name, seed)
        shutil.copytree(folder / "base", folder / "bare")
        (folder / "bare" / "chat_template.jinja").unlink()
        (folder / "data").mkdir()
        for name, rows in _rows().items():
            (folder / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "data" / "letters.jinja").write_text(TEMPLATE)

    def recipe(self, changes: Mapping[str, Any]) -> Recipe:
        """Return PLAIN with dotted keys changed, read as from a file."""
        # A copy: a key below a value that was given before it would be written into that value.
        return Recipe.parse(Recipe.build(PLAIN).with_values(copy.deepcopy(dict(changes))).to_yaml())

    def project(self) -> Project:
        """Return a new project; its metier.yaml asks for no gate, since a recipe can only tighten those."""
        self._num_projects += 1
        project = Project.create(self.folder / "projects" / str(self._num_projects), "desk")
        project.file.write_text("version: 1\nname: desk\n")
        shutil.copytree(self.folder / "data", project.root / "data", dirs_exist_ok=True)
        for base in ("base", "other", "bare"):
            (project.root / base).symlink_to(self.folder / base)
        return Project(project.root)

    def look(self, probe: Probe, changes: Mapping[str, Any], refused: Sequence[str] = ()) -> Any:
        """Return what a probe sees of PLAIN with changes; an error that is expected is seen as its code."""
        key = (probe, json.dumps(changes, sort_keys=True))
        if key not in self._seen:
            try:
                self._seen[key] = probe(self.recipe(changes), self.project())
            except MetierError as error:
                if error.code not in refused:
                    raise
                self._seen[key] = error.code
        return self._seen[key]


def _letters(n: int) -> list[dict[str, Any]]:
    """Texts of three to twelve words, no two alike; one word decides the label."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    draw = random.Random(0)
    return [
        {
            "text": " ".join([*draw.sample(words, 2 + i % 10), ("stolen", "exchange", "doctor")[i % 3]]),
            "label": ("card", "rate", "pain")[i % 3],
            "note": " ".join(draw.sample(words, 5)),
            "person": f"p{i % 9}",
            "team": "north" if i % 2 else "south",
            "day": f"2021-{1 + i * 7 % 12:02d}-{1 + i % 28:02d}",
        }
        for i in range(n)
    ]


def _rows() -> dict[str, list[dict[str, Any]]]:
    """The desk's files."""
    letters = _letters(48)
    chats = [{**row, "team": letters[i]["team"]} for i, row in enumerate(chat_rows(48))]
    more = [{"messages": [{**m, "content": m["content"] + " thanks"} for m in row["messages"]]} for row in chats[:20]]
    once = [str(row["note"]) for row in letters[:12]]
    repeated = [
        *once,
        *(text.upper() for text in once[:4]),
        *(f"{text}s" for text in once),
        *(f"{text} and {i}" for i, text in enumerate(once)),
    ]
    dirty = ["Cafe\u0301 on \ufb01re ", "two  blanks\n\n\n\nand\tlines \r\nend", "a bell\x07 and a \u200bblank"]
    phrase = "there stood a very old lighthouse whose keeper counted every ship that passed by night"
    other = "on a bench by the gate two retired gardeners argued about roses until the bell rang"
    long = [f"{row['text']} {row['note']}" for row in letters]
    leaky = [
        *(f"{one} {phrase} {two}" for one, two in zip(long[:6], long[42:], strict=True)),
        *(f"{one} {other} {two}" for one, two in zip(long[6:14], long[34:42], strict=True)),
        *(f"{text} seven swans swam silently past" for text in long[14:17]),
        *long[17:34],
    ]
    held = [f"A story: {phrase}.", "Did seven swans swim? No, seven swans swam silently past.", f"{long[20]} and so on"]
    fox = "the quick fox ran over the hill and the slow dog saw it go by"
    verbose = [
        "first line\nsecond\nthird\nsecond\nfirst line",
        " ".join(["one two three four five six"] * 2 + [f"w{i}" for i in range(12)]),
        "a=b;c=d;e=f;g=h;i=j;k=l;m=n",
        "Read our cookie policy. The shop is open. It closes late. It is large.",
        fox + " and then they both went home without",
        "Der Brief, den ich letzte Woche geschickt habe, kam leider nie bei Ihnen an.",
        "La carta que te mandé ayer todavía no ha llegado.",
        "the cat mag Katzen und dogs and also the sehr schöne Haus on the hill by der alten Brücke",
    ]
    terse = [
        *({"prompt": f"Question {i}?", "completion": "We will look into it."} for i in range(4)),
        *({"prompt": f"And {i}?", "completion": "Well, hm, let me see: as an AI I say " + str(i)} for i in range(3)),
        *({"prompt": f"What of {i}?", "completion": f"The answer is {i}."} for i in range(20)),
    ]
    pages = [f"<nav>Home {i}</nav><p>CafÃ© {text}</p>" for i, text in enumerate(once)]
    return {
        "letters.jsonl": letters,
        "many.jsonl": _letters(150),
        "numbers.jsonl": [{"text": row["text"], "label": str(i % 3)} for i, row in enumerate(letters)],
        "uneven.jsonl": [{**row, "label": "card" if i % 6 else "pain"} for i, row in enumerate(letters)],
        "bad.jsonl": [*letters[:27], *({"text": "no label", "label": None} for _ in range(3))],
        "chats.jsonl": chats,
        "more.jsonl": more,
        "repeated.jsonl": [{"text": text} for text in repeated],
        "leaky.jsonl": [{"text": text} for text in leaky],
        "held.jsonl": [{"text": text} for text in held],
        "exam.jsonl": [{"question": long[n], "answer": "yes"} for n in (18, 19, 28, 29)],
        "verbose.jsonl": [{"text": text} for text in (*verbose, *once)],
        "mislabelled.jsonl": [
            {**row, "label": "rate" if i % 6 == 0 else row["label"]} for i, row in enumerate(letters)
        ],
        "tongues.jsonl": [
            *({"text": f"{text} It is a good letter", "label": "a"} for text in once[:9]),
            *({"text": f"Der Brief ist wirklich sehr schön, Nummer {i}", "label": "a"} for i in range(5)),
            *({"text": f"Where is letter number {i} now?", "label": "b"} for i in range(3)),
        ],
        "terse.jsonl": terse,
        "pages.jsonl": [{"text": text} for text in pages],
        "people.jsonl": [
            {
                "text": f"Write to Kowalczyk{'abcdefghij'[i % 10]} in Texas, {i} times.",
                "age": 30 + i,
                "sex": "fm"[i % 2],
            }
            for i in range(20)
        ],
        "citizens.jsonl": [
            {"text": f"Letter {i} pays to the wallet 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2."} for i in range(20)
        ],
        "secrets.jsonl": [{"text": f"api_key=q9Zt7LwX2bVr{i:02d}, or token: aabb1122aabb{i:02d}"} for i in range(20)],
        "dirty.jsonl": [{"text": f"{text}{i}"} for i, text in enumerate(dirty * 5)],
    }


class _NoStop:
    """Nobody asks the run to stop."""

    signal: int | None = None
    deferred = False

    def now(self) -> None:
        raise AssertionError("nobody asked")


# ───────────────────────────────────────────────────────────────────────────── data


def accepted(recipe: Recipe, project: Project) -> str:
    """Whether the recipe could be read at all, and what it is checked for before anything slow passes."""
    train.check_recipe(recipe, project)
    return "accepted"


def rows(recipe: Recipe, project: Project) -> dict[str, list[str]]:
    """The content of each split's rows."""
    dataset = build(recipe, project)
    found = {split: [to_json(e) for e in dataset.iterate(split)] for split in SPLITS}
    return {
        split: sorted(json.dumps({k: v for k, v in row.items() if k not in ("id", "place")}) for row in examples)
        for split, examples in found.items()
    }


def alike(recipe: Recipe, project: Project) -> dict[str, Any]:
    """How many rows are alike in the columns that may point at a person."""
    found: dict[str, Any] = build(recipe, project).manifest["privacy"].get("quasi_identifiers", {})
    return found


def reviews(recipe: Recipe, project: Project) -> list[str]:
    """What the lists for a person hold, next to the rows' text."""
    build(recipe, project)
    return [file.read_text() for file in sorted((project.private_dir / "review").rglob("*.jsonl"))]


def rows_of_a_version(recipe: Recipe, project: Project) -> dict[str, list[str]]:
    """The rows of the version that data.dataset names; `data:chats` and `data:letters` are there."""
    for name, path in (("letters", "data/letters.jsonl"), ("chats", "data/chats.jsonl")):
        made = recipe.with_values({"name": name, "data.dataset": None, "data.sources": [{"path": path}]})
        build(made.with_values({"data.split": PLAIN["data"]["split"]}), project)
    return rows(recipe, project)


def statements(recipe: Recipe, project: Project) -> list[Any]:
    """What the plan and the data card tell of the sources' permission."""
    dataset = data.prepare(recipe, project)
    card = (dataset.dir / "card.md").read_text()
    licenses = [line for line in card.splitlines() if line.startswith(("license:", "| data/"))]
    return [permission.marks(dataset.manifest["sources"]), licenses]


def folders(recipe: Recipe, project: Project) -> list[str]:
    """Where the dataset and the run lie."""
    run = train.create(recipe, project)
    return [build(recipe, project).dir.relative_to(project.root).as_posix(), run.dir.name.split("-", 2)[2]]


# ───────────────────────────────────────────────────────────────────────────── parts and steps


def tokens(recipe: Recipe, project: Project) -> list[Any]:
    """The tokens of the training rows, and which of them have a loss."""
    return [[item.token_ids.tolist(), item.loss_mask.tolist()] for item in compose(recipe, project).train.items]


def trains(recipe: Recipe, project: Project) -> dict[str, list[int]]:
    """Name and shape of every weight that trains."""
    return {name: list(weight.shape) for name, weight in compose(recipe, project).policy.trained().items()}


def device(recipe: Recipe, project: Project) -> str:
    """Where the weights lie."""
    return str(next(compose(recipe, project).policy.base.model.parameters()).device.type)


def threads(recipe: Recipe, project: Project) -> int:
    """How many threads PyTorch takes."""
    compose(recipe, project)
    return torch.get_num_threads()


def _taken(recipe: Recipe, project: Project) -> tuple[Parts, list[loop.StepInfo]]:
    parts = compose(recipe, project)
    taken = loop.train(
        parts.policy,
        parts.method,
        lengths=parts.train.lengths,
        collate=parts.train.collate,
        plan=parts.plan,
        state=loop.start(parts.policy, parts.plan),
    )
    return parts, list(taken)


def weights(recipe: Recipe, project: Project) -> str:
    """A digest of the trained weights after the last step."""
    parts, _ = _taken(recipe, project)
    total = hashlib.sha256()
    for name, weight in sorted(parts.policy.trained().items()):
        total.update(name.encode() + weight.detach().numpy().tobytes())
    return total.hexdigest()


def learning_rates(recipe: Recipe, project: Project) -> list[float]:
    """The learning rate of each step."""
    return [info.learning_rate for info in _taken(recipe, project)[1]]


def examples(recipe: Recipe, project: Project) -> list[int]:
    """How many examples each step takes."""
    return [info.examples for info in _taken(recipe, project)[1]]


def passes(recipe: Recipe, project: Project) -> list[tuple[int, int]]:
    """How many passes each step consists of, and how many token positions they compute."""
    return [(info.micro_batches, info.slots) for info in _taken(recipe, project)[1]]


def losses(recipe: Recipe, project: Project) -> list[str]:
    """Which loss it is that falls."""
    return sorted(_taken(recipe, project)[1][0].terms)


# ───────────────────────────────────────────────────────────────────────────── a run


def _trained(recipe: Recipe, project: Project) -> tuple[Run, Parts]:
    run = train.create(recipe, project)
    parts = compose(recipe, project)
    run.update(dataset=parts.dataset.ref)
    execute._write_environment(run, parts)
    execute._train(run, parts, _NoStop(), pinned={}, seconds=0.0)
    return run, parts


def evaluations(recipe: Recipe, project: Project) -> list[int]:
    """The steps after which the run was validated."""
    return [int(event["step"]) for event in _trained(recipe, project)[0].events("evaluation")]


def checkpoints(recipe: Recipe, project: Project) -> list[str]:
    """The checkpoints on disk when the run is over."""
    return sorted(path.name for path in _trained(recipe, project)[0].checkpoints_dir.iterdir())


def temperature(recipe: Recipe, project: Project) -> float | None:
    """The temperature beside the chosen checkpoint."""
    found: float | None = read_json(_trained(recipe, project)[0].dir / "best.json").get("temperature")
    return found


def kept_states(recipe: Recipe, project: Project) -> int:
    """How many splits have their frozen states on disk."""
    _trained(recipe, project)
    return len(list((project.cache_dir / "trunk").glob("*/manifest.json")))


def compiled(recipe: Recipe, project: Project) -> bool:
    """Whether the policy's passes run through compiled blocks."""
    return _trained(recipe, project)[1].policy.compiled is not None


def exported(recipe: Recipe, project: Project) -> list[str]:
    """What an export writes where no fresh process can be started to certify it."""
    run, _ = _trained(recipe, project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        models.export(project, str(run.number), project.root / "exported")
    return sorted(path.name for path in (project.root / "exported").iterdir())


# ───────────────────────────────────────────────────────────────────────────── its report


_REPORTED: dict[str, tuple[Run, Report]] = {}


def _reported(recipe: Recipe, project: Project) -> tuple[Run, Report]:
    """Return the run of a recipe and its report, made once for all probes."""
    key = recipe.to_yaml()
    if key not in _REPORTED:
        run, parts = _trained(recipe, project)
        _REPORTED[key] = run, evaluate.evaluate_parts(parts, run)
    return _REPORTED[key]


def figures(recipe: Recipe, project: Project) -> list[str]:
    """The metrics of the report, the one that decides first."""
    report = _reported(recipe, project)[1]
    return [report.primary_metric, *(figure.metric for figure in report.systems[0].figures)]


def num_scored(recipe: Recipe, project: Project) -> dict[str, int]:
    """On how many rows each figure rests."""
    return {figure.metric: figure.n for figure in _reported(recipe, project)[1].systems[0].figures}


def intervals(recipe: Recipe, project: Project) -> list[Any]:
    """The bounds of each figure."""
    return [[figure.metric, figure.low, figure.high] for figure in _reported(recipe, project)[1].systems[0].figures]


def systems(recipe: Recipe, project: Project) -> list[str]:
    """What the run was compared with."""
    return [system.name for system in _reported(recipe, project)[1].systems]


def slices(recipe: Recipe, project: Project) -> list[tuple[str, str]]:
    """The columns and values by which the deciding figure is broken down."""
    return [(row.column, row.value) for row in _reported(recipe, project)[1].slices]


def targets_met(recipe: Recipe, project: Project) -> list[bool | None]:
    """Whether each target of the objective was met."""
    return [target.met for target in _reported(recipe, project)[1].targets]


def answers(recipe: Recipe, project: Project) -> list[str]:
    """What the run wrote to each test row."""
    run, _ = _reported(recipe, project)
    return [p.raw for p in read_predictions(run.predictions_dir / "test-run.jsonl")]


def prose(recipe: Recipe, project: Project) -> dict[str, list[str]]:
    """The lines of the run's report and card that speak of envelopes."""
    run, _ = _reported(recipe, project)
    pages = {name: (run.dir / name).read_text() for name in ("report.html", "report.md", "README.md")}
    return {name: [line for line in page.splitlines() if "envelopes" in line] for name, page in pages.items()}


def _said(reference: str, output: str, confidence: float) -> Prediction:
    return Prediction(id=f"{reference}{confidence}", reference=reference, output=output, confidence=confidence)


ANSWERS = [
    *(_said("card", output, sure) for output, sure in (("card", 0.9), ("Card", 0.8), ("pain", 0.55), ("card", 0.65))),
    *(_said("pain", output, sure) for output, sure in (("pain", 0.7), ("card", 0.95))),
    _said("the cat sat on the mat and slept", "slept on the mat the cat sat", 0.3),
    _said("{}", "[1]", 0.2),
]
"""Answers on which every option of a metric makes a difference."""


def figure_of_answers(recipe: Recipe, project: Project) -> float | None:
    """The figure of the recipe's first metric over ANSWERS."""
    return metric(recipe.evaluation.metrics[0]).value(ANSWERS)
