"""Two checkpoints that others trained: the greedy continuation equals the published one, every id."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metier.core.sections import ModelSection
from metier.models import base as bases
from metier.models.generate import generate

DATA = Path(os.environ.get("METIER_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize("name", ["babyllama", "stories260K"])
def test_the_greedy_continuation_is_the_published_one(name: str) -> None:
    folder = DATA / "weights" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} checkpoint: set METIER_DATA to the folder that holds weights/")
    expected = json.loads((folder / "expected_greedy.json").read_text())["ids"]
    base = bases.load(ModelSection(name_or_path=str(folder / "hf"), dtype="float32"), resolve=Path)
    start, rest = expected[:1], expected[1:]
    ragged = [start, expected[:40], expected[:7]]  # the same text, entered in the middle, in one batch
    found = generate(base.model, ragged, max_new_tokens=len(rest))
    for prompt, completion in zip(ragged, found, strict=True):
        assert [*prompt, *completion.token_ids][: len(expected)] == expected
