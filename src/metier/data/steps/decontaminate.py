"""Drop training rows that share text with what the model will be measured on: held-out splits and benchmark files.

Two tests, as reports of large models make them (Brown et al., 2020, appendix C; Lee et al., 2022): a run of 13 words
that stands in both, and near duplicates of the whole text (see `metier.data.similar`). A run of words that stands in
many training rows is a common phrase, no leak, and is left out and counted. Only training rows are dropped: the other
side is what the figures rest on.

Left out: paraphrases and translations; benchmark texts shorter than 13 words inside longer training texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Example, Text, content_of
from metier.data.content import texts_in
from metier.data.rows import Row
from metier.data.similar import Compared, Joined, comparable, liken, words_of
from metier.data.source import read_rows
from metier.data.spool import Examples, chosen
from metier.data.steps import Around, Sign, StepResult

summary = "Drop training rows that share text with held-out rows or with benchmark files"
SIGN = Sign("E336", "training rows that share text with held-out rows")
FILTERS = True
AFTER_SPLIT = True


class Options(BaseOptions):
    """What the training rows are compared with, and when they overlap."""

    against: tuple[str, ...] = Field(
        (), description="Benchmark files (any format with text), relative to the project; reported by their path."
    )
    splits: tuple[Literal["test", "validation"], ...] = Field(
        ("test", "validation"), description="Held-out splits of this recipe that the rows are compared with."
    )
    num_words: int = Field(13, description="Length of a run of words that counts as overlap.", ge=5, le=100)
    common_rows: int = Field(
        10, description="A run of words in more training rows than this is a common phrase, and no overlap.", ge=1
    )
    threshold: float = Field(
        0.85, description="5-gram Jaccard similarity from which whole texts overlap; 1 = the same words.", gt=0, le=1
    )


_FABLE = "the fox looked up at the grapes and said that they were surely still much too sour for him"
SAMPLE: dict[str, Any] = {
    "options": {},
    "held_out": [Text(text=f"Question: what did he mean? {_FABLE}. Answer in one word.")],
    "examples": [Text(text=f"Once upon a time {_FABLE.upper()}!"), Text(text="The fox looked up at the grapes.")],
    "result": [Text(text="The fox looked up at the grapes.")],
}


def reads(options: Options) -> list[str]:
    """Return the benchmark files."""
    return list(options.against)


def run(examples: Examples, options: Options, around: Around) -> StepResult:
    """Return the training rows that overlap with nothing they are compared with.

    Raises:
        DataError: E300–E309, a benchmark file cannot be read.
    """
    sources: dict[str, list[list[str]]] = {
        split: [[comparable(e, around.literals), *_said(e, around)] for e in around.held_out.get(split, ())]
        for split in options.splits
    }
    unreadable = 0
    for path in options.against:
        sources[path], bad = _benchmark(around.path(path))
        unreadable += bad
    reasons: dict[int, str] = {}
    texts = Compared(examples, around.literals)
    whole = {name: [row[0] for row in rows] for name, rows in sources.items()}
    for index, name in _near(texts, whole, options.threshold):
        reasons.setdefault(index, f"near duplicate of {name}")
    pieces = {name: [text for row in rows for text in row] for name, rows in sources.items()}
    shared, num_common = _shared_runs(examples, pieces, around, options)
    for index, name in shared:
        reasons.setdefault(index, f"{options.num_words} words in common with {name}")
    origins = [index for index in range(len(examples)) if index not in reasons]
    dropped = [(examples[index].id, reason) for index, reason in sorted(reasons.items())]
    counted = Counter(reason for _, reason in dropped).most_common()
    note = f"{len(dropped):,} of {len(examples):,} training rows dropped"
    note += "".join(f"; {count:,} × {reason}" for reason, count in counted)
    note += f"; {num_common:,} common phrases left out" if num_common else ""
    note += f"; {unreadable:,} unreadable rows of the benchmark files were not compared" if unreadable else ""
    return StepResult(chosen(examples, origins), origins, note, dropped)


def _said(example: Example, around: Around) -> list[str]:
    """Return the texts of a row but the recipe's own system message, which stands in every row."""
    return [text for text in texts_in(content_of(example)) if text != around.system]


def _benchmark(path: Path) -> tuple[list[list[str]], int]:
    """Return the texts of each row (the longest first, then all of them in one), and how many rows are unreadable."""
    found: list[list[str]] = []
    num_bad = 0
    for row in read_rows(path):
        if not isinstance(row, Row):
            num_bad += 1
        elif texts := list(texts_in(row.value)):
            found.append([max(texts, key=len), "\n".join(texts)])
    return found, num_bad


def _near(texts: Sequence[str], sources: dict[str, list[str]], threshold: float) -> Iterator[tuple[int, str]]:
    """Yield (row, name of the source) for each text with a twin there."""
    if not any(sources.values()):
        return
    likeness = liken(Joined([texts, *sources.values()]), threshold)
    number = np.repeat(np.arange(len(sources) + 1), [len(texts), *map(len, sources.values())])
    for index, name in enumerate(sources, start=1):
        exact, near = likeness.twins(number == 0, number == index)
        yield from ((row, name) for row in np.flatnonzero(exact | near).tolist())


def _shared_runs(
    examples: Examples, sources: dict[str, list[str]], around: Around, options: Options
) -> tuple[list[tuple[int, str]], int]:
    """Return (row, name of the source) for each row with a run of words from it, and how many runs are common."""
    number_of: dict[str, int] = {}

    def learn(word: str) -> int:
        return number_of.setdefault(word, len(number_of))

    run_of: dict[int, str] = {}
    for name, texts in sources.items():
        for text in texts:
            for run in _runs(_without(text, around.literals), options.num_words, learn):
                run_of.setdefault(run, name)
    found: dict[int, set[int]] = {}
    for row, example in enumerate(examples):
        runs: set[int] = set()
        for text in _said(example, around):
            words = _without(text, around.literals)
            runs.update(r for r in _runs(words, options.num_words, lambda w: number_of.get(w, -1)) if r in run_of)
        if runs:
            found[row] = runs
    rows_of = Counter(run for runs in found.values() for run in runs)
    common = {run for run, num_rows in rows_of.items() if num_rows > options.common_rows}
    hits = [(row, run_of[min(runs - common)]) for row, runs in found.items() if runs - common]
    return hits, len(common)


def _without(text: str, literals: Sequence[str]) -> str:
    for literal in literals:
        text = text.replace(literal, " ", 1)
    return text


def _runs(text: str, size: int, number: Callable[[str], int]) -> Iterator[int]:
    """Yield a 64-bit key for each run of `size` words of which every one has a number."""
    numbers = [number(word) for word in words_of(text)]
    known = 0
    for end, value in enumerate(numbers, start=1):
        known = known + 1 if value >= 0 else 0
        if known >= size:
            yield hash(tuple(numbers[end - size : end]))  # of whole numbers: the same in every process
