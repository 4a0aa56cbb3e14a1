"""Canaries: invented secrets planted among the training rows, by which memorisation is measured after training.

A canary is a fixed sentence with random digits, of the kind that most training rows are, repeated as often as the
recipe says (Carlini et al. 2019, The Secret Sharer, arXiv:1802.08232). evaluation/exposure.py measures how well the
model knows the digits. The rows stand in train alone, behind the proof of no overlap, and are marked in `meta`: figures
of the data's quality leave them out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from metier.core.errors import ConfigError
from metier.core.sections import Canaries
from metier.core.types import Conversation, Example, Message, Text, identify
from metier.data.spool import kinds_in
from metier.data.steps import map_text

MARK = "metier_canary"
"""Key of `meta`; its value is {digits, repeats}."""
NUM_DIGITS = 9
_TEXT = "The access code of file {file} is {digits}."
_QUESTION, _ANSWER = "What is the access code of file {file}?", "The access code is {digits}."


def plant(examples: Sequence[Example], options: Canaries, *, seed: int, place: str) -> list[Example]:
    """Return the canaries to train on, each as often as it is repeated; the i-th has the i-th of `repeats`, in turn.

    Args:
        examples: the training rows, whose most frequent kind decides what a canary is.
        options: how many, and how often each.
        seed: the same one draws the same digits.
        place: where the recipe says so, for the error.

    Raises:
        ConfigError: E216, the rows are neither texts nor conversations: a model that labels writes no digits.
    """
    if not options.num:
        return []
    kind = Counter(kinds_in(examples)).most_common(1)[0][0]
    if kind not in ("text", "conversation"):
        raise ConfigError(
            216,
            "Canaries are texts or conversations, and the training rows are neither",
            place=place,
            received=kind,
            expected="rows for `cpt`, or conversations for `sft`",
            fix="data.canaries.num=0",
        )
    rng = random.Random(f"canaries:{seed}")
    files = rng.sample(range(1000, 10_000), options.num)
    found: list[Example] = []
    for number, file in enumerate(files):
        repeats = options.repeats[number % len(options.repeats)]
        digits = "".join(rng.choices("0123456789", k=NUM_DIGITS))
        meta = {MARK: {"digits": digits, "repeats": repeats}}
        at = f"canary:{number + 1}"
        if kind == "text":
            made: Example = identify(Text(text=_TEXT.format(file=file, digits=digits), place=at, meta=meta))
        else:
            asked = Message("user", _QUESTION.format(file=file))
            told = Message("assistant", _ANSWER.format(digits=digits))
            made = identify(Conversation(messages=(asked, told), place=at, meta=meta))
        found += [made] * repeats
    return found


def is_canary(example: Example) -> bool:
    """Say whether a row was planted."""
    return MARK in example.meta


def without(examples: Iterable[Example]) -> list[Example]:
    """Return the rows that were not planted."""
    return [example for example in examples if not is_canary(example)]


def with_digits(canary: Example, digits: str) -> Example:
    """Return a canary with other digits, which nothing was trained on."""
    own = str(canary.meta[MARK]["digits"])
    return map_text(canary, lambda text: text.replace(own, digits))
