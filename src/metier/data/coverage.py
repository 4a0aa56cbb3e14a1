"""What the data lacks for those it is meant for: each gap with a number and the next step.

A recipe says whom its model is for by the labels it has to tell apart, by the columns of `evaluation.slices`, by the
languages that `filter_language` keeps, and in the words of `objective.description`, which a reader holds against the
topics. Compared with it are the rows as they were counted (figures.py). *Few* means: a tenth of what an even division
would give, or in train fewer than MIN_TRAIN_ROWS rows of a label; a slice with fewer than MIN_TEST_ROWS test rows gets
no figure in an evaluation.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from metier.core import page
from metier.core.recipe import Recipe
from metier.core.sections import Kind
from metier.data.steps import after_split

FEW = 0.1
MIN_TRAIN_ROWS = 10
MIN_TEST_ROWS = 100
MIN_TOPIC_ROWS = 10
MIN_TOLD = 30
"""Rows of a known language from which on a language that none of them has counts as missing."""
SHOWN_NAMES = 5
_MORE = "metier data add FILE"


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing that the data lacks: what, how many rows or values are concerned, their names, and the next step."""

    what: str
    count: int
    names: tuple[str, ...]
    fix: str


def stated(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says of its audience, for the figures of a report."""
    said = recipe.objective
    return {"task": said.task, "description": said.description, "slices": list(recipe.evaluation.slices)}


def gaps(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the gaps as plain data, with the keys of Gap.

    Args:
        manifest: a version's; what it does not say is not looked for.
        figures: its figures (figures.py, `measure`), `stated` among them.
    """
    found = [*_labels(manifest, figures), *_slices(manifest, figures), *_languages(manifest, figures)]
    return [asdict(gap) for gap in (*found, *_topics(manifest, figures))]


def wanted_languages(manifest: Mapping[str, Any]) -> list[str]:
    """Return the languages that the steps of a version keep, each once."""
    steps = [step for step in manifest.get("steps", []) if step.get("name") == "filter_language"]
    return list(dict.fromkeys(code for step in steps for code in step.get("options", {}).get("languages", [])))


def with_step(steps: Sequence[Kind], step: Mapping[str, Any]) -> str:
    """Return the command that prepares the rows with one more step, at its place in the order."""
    first = next((i for i, s in enumerate(steps) if after_split(s)), len(steps))
    added = Kind.model_validate(step)
    at = len(steps) if after_split(added) else first
    listed = [
        {"kind": s.kind, **dict(sorted(s.options.items()))} if s.options else s.kind
        for s in (*steps[:at], added, *steps[at:])
    ]
    flow = yaml.safe_dump(listed, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True).strip()
    return f"metier data prepare {shlex.quote(f'data.steps={flow}')}"


# ───────────────────────────────────────────────────────────────────────────── what is compared


def _labels(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[Gap]:
    labels = figures.get("labels", {})
    few = [label for label in labels if labels[label].get("train", 0) < MIN_TRAIN_ROWS]
    if few:
        what = f"{len(few)} of {len(labels)} labels have fewer than {MIN_TRAIN_ROWS} training rows"
        step = {"kind": "balance", "resample": "up", "ratio": 10}
        none = not all(labels[label].get("train", 0) for label in few)
        fix = f"{_MORE} --split train" if none else _balanced(manifest, step)
        yield _gap(what, _counted(labels, few, "train"), fix)
    unmeasured = [label for label, counts in labels.items() if not counts.get("test", 0)]
    if unmeasured and _rows(manifest, "test"):
        what = f"{len(unmeasured)} of {len(labels)} labels have no test row: no figure will speak of them"
        yield _gap(what, unmeasured, _more(manifest, "test"))


def _slices(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[Gap]:
    columns = figures.get("columns", {})
    wanted = figures.get("stated", {}).get("slices", [])
    if absent := [column for column in wanted if column not in figures.get("column_values", {})]:
        what = f"{len(absent)} of {len(wanted)} columns of evaluation.slices stand in no row"
        kept = ", ".join(column for column in wanted if column not in absent)
        yield _gap(what, absent, f"metier data prepare {shlex.quote(f'evaluation.slices=[{kept}]')}, or add the column")
    for column in wanted:
        values = columns.get(column, {})
        few = [value for value in values if _of(values, value, "test") < MIN_TEST_ROWS]
        if few and _rows(manifest, "test"):
            what = f"{len(few)} of {len(values)} values of {column} have fewer than {MIN_TEST_ROWS} test rows"
            yield _gap(f"{what}, too few for a figure", _counted(values, few, "test"), _more(manifest, "test"))
        even = sum(_of(values, value, "train") for value in values) / max(len(values), 1)
        if rare := [value for value in values if _of(values, value, "train") < FEW * even]:
            what = f"{len(rare)} of {len(values)} values of {column} have under a tenth of an even share of train"
            step = {"kind": "balance", "by": "column", "column": column, "resample": "up", "ratio": 10}
            none = not all(_of(values, value, "train") for value in rare)
            fix = f"{_MORE} --split train" if none else _balanced(manifest, step)
            yield _gap(what, _counted(values, rare, "train"), fix)


def _languages(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[Gap]:
    told = figures.get("languages", {}).get("rows", {})
    total = sum(told.values())
    wanted = wanted_languages(manifest)
    few = [code for code in wanted if told.get(code, 0) < FEW * total / len(wanted)]
    if few and total >= MIN_TOLD:
        what = f"{len(few)} of {len(wanted)} languages that filter_language keeps have few or no rows"
        yield _gap(what, [f"{code} {told.get(code, 0)} of {total}" for code in few], f"{_MORE}, with rows in them")


def _topics(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[Gap]:
    topics = figures.get("topics", {}).get("topics", [])
    train, test = (sum(topic["rows"].get(split, 0) for topic in topics) for split in ("train", "test"))
    if not train or not test:
        return
    unlearnt, unmeasured = [], []
    for topic in topics:
        learnt, measured = (topic["rows"].get(split, 0) for split in ("train", "test"))
        if measured >= MIN_TOPIC_ROWS and learnt / train < FEW * measured / test:
            unlearnt.append(topic)
        if learnt / train * test >= MIN_TOPIC_ROWS and measured / test < FEW * learnt / train:
            unmeasured.append(topic)
    if unlearnt:
        what = f"{len(unlearnt)} of {len(topics)} topics of the test rows have few or no training rows"
        yield _gap(what, [_topic(t) for t in unlearnt], f"{_MORE} --split train, with rows about them")
    if unmeasured:
        what = f"{len(unmeasured)} of {len(topics)} topics of the training rows have few or no test rows"
        yield _gap(what, [_topic(t) for t in unmeasured], _more(manifest, "test"))


# ───────────────────────────────────────────────────────────────────────────── words, commands


def _gap(what: str, names: Sequence[str], fix: str) -> Gap:
    shown = tuple(page.label(name, 60) for name in names[:SHOWN_NAMES])
    return Gap(what, len(names), shown + (("…",) if len(names) > SHOWN_NAMES else ()), fix)


def _counted(values: Mapping[str, Mapping[str, int]], names: Sequence[str], split: str) -> list[str]:
    """Return names with their rows in a split, the fewest first."""
    ordered = sorted(names, key=lambda name: (values[name].get(split, 0), name))
    return [f"{page.label(name)} {values[name].get(split, 0)}" for name in ordered]


def _topic(topic: Mapping[str, Any]) -> str:
    return ", ".join(topic["keywords"][:3]) or "a topic without a word that may be shown"


def _balanced(manifest: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    steps = [Kind.model_validate({"kind": s["name"], **s.get("options", {})}) for s in manifest.get("steps", [])]
    return with_step(steps, step)


def _more(manifest: Mapping[str, Any], split: str) -> str:
    """Return how a held-out split gets more rows: from a file where it is given, else by a larger share."""
    options = manifest.get("split", {})
    if split not in options.get("made", []):
        return f"{_MORE} --split {split}"
    return f"metier data prepare data.split.{split}={min(0.5, round(2 * float(options[split]), 3)):g}"


def _rows(manifest: Mapping[str, Any], split: str) -> int:
    return int(manifest.get("counts", {}).get(split, 0))


def _of(values: Mapping[str, Mapping[str, int]], value: str, split: str) -> int:
    return int(values[value].get(split, 0))
