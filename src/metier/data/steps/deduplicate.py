"""Drop repeated rows: exact or near duplicates; the first of each group stays.

Near duplicates are found by MinHash (see `metier.data.similar`; Lee et al., 2022, show that they hurt). Rows with the
same text and different labels are all kept and counted: which label is right is not for a step to decide. Two replies
to one prompt are no duplicates either, nor are two problems with other columns for their graders: replies are the same
where only case and spacing differ, since a sign can be the answer. A text beyond the first 20,000 characters, by which
texts are compared, is repeated where all its words are the same. What every row shares, the system message and the
fixed parts of `data.prompt.user`, is not compared. Left out: repeated passages inside long documents, and long ones
that are nearly the same.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.project import digest_bytes, digest_json
from metier.core.types import Conversation, Example, Labelled, Message, Text, content_of
from metier.data.digests import Digests
from metier.data.similar import MAX_CHARACTERS, Compared, comparable, liken, words_of
from metier.data.spool import Examples, chosen
from metier.data.steps import ALONE, Around, Sign, StepResult

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


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples without repetitions."""
    threshold = options.threshold if options.match == "near" else 1.0
    groups_N = liken(Compared(examples, around.literals, of=_asked), threshold).groups()
    wholes, answers = Digests(), Digests()
    for example in examples:
        wholes.add(_whole(comparable(_asked(example), around.literals)))
        answers.add(_answer(example).encode("utf-8", "surrogatepass"))
    # Two numbers in one: alike, and equal in the rest of a text that is longer than what is compared.
    groups_N = np.unique(groups_N * len(examples) + wholes.numbered()[0], return_inverse=True)[1]
    # Rows of a group with the same answer have one code; the first of them stays.
    codes, first = np.unique(groups_N * len(examples) + answers.numbered()[0], return_index=True)
    origins = np.sort(first).tolist()
    gone_N = np.ones(len(examples), dtype=bool)
    gone_N[first] = False
    dropped = [(examples[row].id, f"{options.match} duplicate") for row in np.flatnonzero(gone_N).tolist()]
    num_answers = np.unique(codes // max(len(examples), 1), return_counts=True)[1]
    torn = int((num_answers > 1).sum())
    note = f"{len(dropped):,} {options.match} duplicates dropped"
    note += f"; {torn:,} texts have several answers, all kept" if torn else ""
    return StepResult(chosen(examples, origins), origins, note, dropped)


def _asked(example: Example) -> Example:
    """Return what of a row is compared: of a conversation what is asked, without the replies."""
    if isinstance(example, Conversation):
        return replace(example, messages=tuple(m for m in example.messages if m.role != "assistant"))
    return example


def _whole(text: str) -> bytes:
    """Return what must also be equal of a text that is longer than what is compared: all its words."""
    return " ".join(words_of(text)).encode("utf-8", "surrogatepass") if len(text) > MAX_CHARACTERS else b""


def _answer(example: Example) -> str:
    """Return what must also be equal, next to the compared text, for two rows to be duplicates."""
    if isinstance(example, Labelled):
        return repr(example.target)
    if isinstance(example, Text):
        return ""
    if isinstance(example, Conversation):
        said = "\n".join(_folded(m) for m in example.messages if m.role == "assistant")
        said += digest_json(list(example.tools)) if example.tools else ""
        return digest_bytes(said.encode("utf-8", "surrogatepass"))
    return digest_json({name: part for name, part in content_of(example).items() if name != "prompt"})


def _folded(message: Message) -> str:
    """Return what an assistant message says, case and spacing aside."""
    calls = (f"{call.name} {call.arguments_text}" for call in message.tool_calls)
    texts = (message.text, message.reasoning or "", *calls)
    return "\0".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)
