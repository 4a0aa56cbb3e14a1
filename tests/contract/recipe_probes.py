"""Where the effect of a recipe key is looked for: a desk with rows and bases, and probes that look at a recipe there.

A probe takes a recipe through the product's own functions and returns what a user sees or the result depends on: the
rows of the splits, the tokens, the weights after a few steps, the checkpoints, the report. It never returns what the
recipe says. Each look has a project of its own, since the rows of an earlier dataset version decide where rows go.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
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
from metier.training import checkpoint, loop
from tiny import SENTENCES, chat_rows, labelled_rows, tokenizer, write_model

Probe = Callable[[Recipe, Project], Any]
COMMITS = ("1" * 40, "2" * 40)
TEMPLATE = "{% for m in messages %}{{ m.role }}> {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant> {% endif %}"  # fmt: skip # noqa: E501
PLAIN: dict[str, Any] = {
    "name": "desk",
    "objective": {"task": "classify"},
    "data": {"sources": [{"path": "data/labels.jsonl"}], "split": {"validation": 0.2, "test": 0.2}},
    "model": {"name_or_path": "base", "dtype": "float32", "device": "cpu"},
    "adapter": {"kind": "lora", "r": 4},
    "method": {"kind": "classify"},
    "training": {
        "max_length": 64,
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.0,
        "num_threads": 1,
    },
    "evaluation": {"baseline": False, "max_new_tokens": 4, "bootstrap_samples": 100},
}
"""The recipe that the entries of a table change: a tiny classifier."""


class Desk:
    """A folder with bases and rows; every look at a recipe takes a project of its own beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[tuple[Probe, str], Any] = {}
        for seed, name in enumerate(("base", "other", *(f"hub/models--org--small/snapshots/{c}" for c in COMMITS))):
            write_model(folder / name, seed)
        (folder / "hub/models--org--small/refs").mkdir()
        (folder / "hub/models--org--small/refs/main").write_text(COMMITS[0])
        bare = shutil.copytree(folder / "base", folder / "bare")
        tokenizer_without = tokenizer().__copy__() if hasattr(tokenizer(), "__copy__") else tokenizer()
        del tokenizer_without
        (bare / "chat_template.jinja").unlink()
        for name, rows in _rows().items():
            _write(folder / "data" / name, rows)
        (folder / "data" / "letters.jinja").write_text(TEMPLATE)

    def recipe(self, changes: Mapping[str, Any]) -> Recipe:
        """Return PLAIN with dotted keys changed, read as from a file."""
        return Recipe.parse(Recipe.build(PLAIN).with_values(changes).to_yaml())

    def project(self) -> Project:
        """Return a new project; metier.yaml asks for nothing, since a recipe could only tighten it."""
        root = self.folder / "projects" / str(len(list((self.folder / "projects").glob("*"))))
        project = Project.create(root, "desk")
        project.file.write_text("version: 1\nname: desk\n")
        shutil.copytree(self.folder / "data", root / "data", dirs_exist_ok=True)
        for base in ("base", "other", "bare"):
            (root / base).symlink_to(self.folder / base)
        return Project(root)

    def look(self, probe: Probe, changes: Mapping[str, Any], refused: tuple[str, ...] = (), *, anew: bool = False) -> Any:
        """Return what a probe sees of PLAIN with changes; an error that is expected is seen as its code."""
        key = (probe, json.dumps(changes, sort_keys=True))
        if anew or key not in self._seen:
            try:
                self._seen[key] = probe(self.recipe(changes), self.project())
            except MetierError as error:
                if error.code not in refused:
                    raise
                self._seen[key] = error.code
        return self._seen[key]
