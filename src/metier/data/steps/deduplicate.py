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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.project import digest_bytes, digest_json
from metier.core.types import Conversation, Example, Labelled, Message, Text, content_of
from metier.data.similar import MAX_CHARACTERS, comparable, liken, words_of
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


def run(examples: list[Example], options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples without repetitions."""
    threshold = options.threshold if options.match == "near" else 1.0
    whole: dict[int, str] = {}
    groups = liken(_compared(examples, around.literals, whole), threshold).groups().tolist()
    answers: dict[tuple[int, str], set[str]] = {}
    origins: list[int] = []
    dropped: list[tuple[str, str]] = []
    for index, (example, group) in enumerate(zip(examples, groups, strict=True)):
        answer = _answer(example)
        known = answers.setdefault((group, whole.get(index, "")), set())
        if answer in known:
            dropped.append((example.id, f"{options.match} duplicate"))
        else:
            known.add(answer)
            origins.append(index)
    torn = sum(len(found) > 1 for found in answers.values())
    note = f"{len(dropped):,} {options.match} duplicates dropped"
    note += f"; {torn:,} texts have several answers, all kept" if torn else ""
    return StepResult([examples[index] for index in origins], origins, note, dropped)


def _compared(examples: Sequence[Example], literals: Sequence[str], whole: dict[int, str]) -> Iterator[str]:
    """Yield the text by which each row is compared: of a conversation what is asked, without the replies.

    Of a text that is longer than what is compared, `_whole` goes into `whole`, by the number of its row.
    """
    for index, example in enumerate(examples):
        if isinstance(example, Conversation):
            example = replace(example, messages=tuple(m for m in example.messages if m.role != "assistant"))
        text = comparable(example, literals)
        if len(text) > MAX_CHARACTERS:
            whole[index] = _whole(text)
        yield text


def _whole(text: str) -> str:
    """Return what must also be equal of a text that is longer than what is compared: all its words, as a digest."""
    words = " ".join(words_of(text)).encode("utf-8", "surrogatepass")
    return f"{len(words)} {digest_bytes(words)}"


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
