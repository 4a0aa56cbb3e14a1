"""Drop rows that are too short or too long, by the characters of their own content: the recipe's prompt is not counted.

Characters, not tokens: the step knows no tokenizer. `training.max_length` cuts by tokens and counts what it cuts.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Text
from metier.data.prompt import own_texts
from metier.data.spool import Examples, chosen
from metier.data.steps import ALONE, Around, StepResult

summary = "Drop rows with fewer or more characters than given"
FILTERS = True


class Options(BaseOptions):
    """The bounds, both included, without what `data.prompt` says in every row. At least one is needed."""

    min_characters: int | None = Field(
        None,
        description="Shortest content that stays, in characters, without what `data.prompt` says in every row.",
        ge=1,
    )
    max_characters: int | None = Field(
        None,
        description="Longest content that stays, in characters, without what `data.prompt` says in every row.",
        ge=1,
    )

    @model_validator(mode="after")
    def _bounded(self) -> Options:
        low, high = self.min_characters, self.max_characters
        if low is None and high is None:
            raise ValueError("give min_characters, max_characters or both")
        if low is not None and high is not None and low > high:
            raise ValueError("min_characters is larger than max_characters")
        return self


SAMPLE: dict[str, Any] = {
    "options": {"min_characters": 3, "max_characters": 5},
    "examples": [Text(text="ab"), Text(text="abc"), Text(text="abcdef")],
    "result": [Text(text="abc")],
}


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples within the bounds."""
    low, high = options.min_characters or 0, options.max_characters
    origins: list[int] = []
    dropped: list[tuple[str, str]] = []
    for index, example in enumerate(examples):
        length = sum(map(len, own_texts(example, around.template, around.system)))
        if length < low:
            dropped.append((example.id, "too short"))
        elif high is not None and length > high:
            dropped.append((example.id, "too long"))
        else:
            origins.append(index)
    short = sum(reason == "too short" for _, reason in dropped)
    note = f"{short:,} too short, {len(dropped) - short:,} too long"
    return StepResult(chosen(examples, origins), origins, note, dropped)
