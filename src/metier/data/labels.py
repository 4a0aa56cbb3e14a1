"""The labels of a dataset: their order, frozen in the manifest, and whether they can be learnt and measured at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metier.core.errors import DataError
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Example, Labelled, ProblemType, Split

MAX_LABEL_SHOWN = 40
"""A label of up to so many characters may stand in an error; a longer one is rather a text."""


def labels_of(example: Example) -> tuple[str, ...]:
    """Return the labels of a labelled example; none for a number and for other kinds."""
    if not isinstance(example, Labelled) or isinstance(example.target, float):
        return ()
    return (example.target,) if isinstance(example.target, str) else example.target


def judge_labels(splits: Mapping[Split, Sequence[Example]], recipe: Recipe) -> dict[str, Any]:
    """Return the manifest's `problem_type`, `labels` in their frozen order, and `label_counts` per split.

    Raises:
        DataError: E320, E321, E323.
    """
    forms: Counter[str] = Counter()
    counts: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    for split in SPLITS:
        for example in splits[split]:
            if isinstance(example, Labelled):
                forms[type(example.target).__name__] += 1
                counts[split].update(labels_of(example))
    if not forms:
        return {"problem_type": None, "labels": [], "label_counts": {}}
    problem_type = _problem_type(forms, recipe)
    if problem_type == "regression":
        return {"problem_type": problem_type, "labels": [], "label_counts": {}}
    labels = _ordered(counts["train"])
    if len(labels) < (2 if problem_type == "single_label" else 1):
        raise DataError(
            320,
            "All rows of train have the same label, so there is nothing to tell apart",
            place=recipe.place("data"),
            received=f"{len(labels)} label in {len(splits['train']):,} rows",
            expected="at least 2 labels",
            fix="add rows of the other labels, or check `map: {label: …}`",
        )
    for split in ("validation", "test"):
        if unknown := _ordered(Counter(counts[split].keys() - counts["train"].keys())):
            raise DataError(
                321,
                f"{len(unknown)} label{'s' if len(unknown) > 1 else ''} of {split} never occur in train",
                place=recipe.place("data"),
                received=", ".join(f"`{u}`" if len(u) <= MAX_LABEL_SHOWN else "a long label" for u in unknown[:5])
                + f" in {sum(counts[split][u] for u in unknown):,} rows of {split}",
                expected="every label of a held-out split also in train",
                fix="nothing can be learnt of what comes up later: smaller shares, or leave the labels out"
                if recipe.data.split.time_by
                else "add such rows to train, or remove them from the given split",
            )
    table = {label: {split: counts[split][label] for split in SPLITS} for label in labels}
    return {"problem_type": problem_type, "labels": labels, "label_counts": table}


def _problem_type(forms: Counter[str], recipe: Recipe) -> ProblemType:
    """Return what the targets are, by how many there are of each type: all numbers, lists, or single labels."""
    if len(forms) > 1:
        raise DataError(
            323,
            "The labels are of different types",
            place=recipe.place("data"),
            received=", ".join(f"{count:,} × {name}" for name, count in forms.most_common()),
            expected="all strings, all lists of strings, or all numbers with a decimal point",
            fix="state it: method: {kind: classify, problem_type: single_label}",
        )
    known: dict[str, ProblemType] = {"float": "regression", "tuple": "multi_label", "str": "single_label"}
    return known[next(iter(forms))]


def _ordered(labels: Counter[str]) -> list[str]:
    """Return labels sorted; by value when all of them are numbers, so that 10 follows 9."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return sorted(labels)
    return (
        sorted(labels, key=lambda label: (values[label], label))
        if all(map(math.isfinite, values.values()))
        else sorted(labels)
    )
