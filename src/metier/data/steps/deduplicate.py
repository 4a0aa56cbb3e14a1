"""Drop repeated rows: exact or near duplicates; the first of each group stays.

Near duplicates are found by MinHash (see `metier.data.similar`; Lee et al., 2022, show that they hurt). Rows with the
same text and different labels are all kept and counted: which label is right is not for a step to decide. Two replies
to one prompt are no duplicates either. Left out: repeated passages inside long documents.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.project import digest_json
from metier.core.types import Example, Labelled, Preference, Rated, content_of
from metier.data.digests import Digests
from metier.data.similar import Compared, liken
from metier.data.spool import Examples, chosen
from metier.data.steps import Sign, StepResult

summary = "Drop repeated rows: exact (case, spacing and punctuation aside) or near duplicates"
SIGN = Sign("E335", "training rows that repeat another one", {"match": "near"})
FILTERS = True


class Options(BaseOptions):
    """What counts as the same."""

    match: Literal["exact", "near"] = Field(
        "exact", description="`exact`: the same words; `near`: 5-gram Jaccard similarity of at least `threshold`."
    )
    threshold: float = Field(0.85, description="Similarity from which two texts are near duplicates.", gt=0, lt=1)


SAMPLE: dict[str, Any] = {
    "options": {},
    "examples": [
        Labelled(text="Where is my card?", target="card"),
        Labelled(text="where is  my card", target="card"),
        Labelled(text="Where is my card?", target="cash"),
    ],
    "result": [
        Labelled(text="Where is my card?", target="card"),
        Labelled(text="Where is my card?", target="cash"),
    ],
}


def run(examples: Examples, options: Options) -> StepResult:
    """Return the examples without repetitions."""
    threshold = options.threshold if options.match == "near" else 1.0
    groups_N = liken(Compared(examples), threshold).groups()
    answers = Digests()
    for example in examples:
        answers.add(_answer(example).encode("utf-8", "surrogatepass"))
    answer_N, _ = answers.numbered()
    # Rows of a group with the same answer have one code; the first of them stays.
    codes, first = np.unique(groups_N * len(examples) + answer_N, return_index=True)
    origins = np.sort(first).tolist()
    gone_N = np.ones(len(examples), dtype=bool)
    gone_N[first] = False
    dropped = [(examples[row].id, f"{options.match} duplicate") for row in np.flatnonzero(gone_N).tolist()]
    num_answers = np.unique(codes // max(len(examples), 1), return_counts=True)[1]
    torn = int((num_answers > 1).sum())
    note = f"{len(dropped):,} {options.match} duplicates dropped"
    note += f"; {torn:,} texts have several answers, all kept" if torn else ""
    return StepResult(chosen(examples, origins), origins, note, dropped)


def _answer(example: Example) -> str:
    """Return what must also be equal, next to the compared text, for two rows to be duplicates."""
    if isinstance(example, Labelled):
        return repr(example.target)
    if isinstance(example, Preference | Rated):
        return digest_json({name: part for name, part in content_of(example).items() if name != "prompt"})
    return ""
