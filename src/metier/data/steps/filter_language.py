"""Keep the rows in the languages that are wanted, by lingua's probabilities (character trigrams; 75 languages).

Trigrams alone: lingua adds other lengths for texts under 120 characters, with 900 MB of models for 70. What is too
short to tell is kept and counted. What every row shares, the system message and the fixed parts of `data.prompt.user`,
is not looked at. Left out: several languages in one row, which is judged as a whole by its first 500 characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import Field, field_validator

from metier.core.catalog import Options as BaseOptions
from metier.core.extras import need
from metier.core.types import Example, Message, Preference, Rated, Text
from metier.data.similar import comparable
from metier.data.spool import Examples, chosen
from metier.data.steps import ALONE, Around, StepResult

summary = "Drop rows in other languages than the wanted ones (extra curate)"
FILTERS = True
MAX_CHARACTERS = 500
_CODES = (
    "af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gu he hi hr hu hy id is it ja ka kk ko la lg lt "
    "lv mi mk mn mr ms nb nl nn pa pl pt ro ru sk sl sn so sq sr st sv sw ta te th tl tn tr ts uk ur vi xh yo zh zu"
)
_LANGUAGE = "language "
_WHY = "tell languages apart (filter_language)"


class Options(BaseOptions):
    """Which languages stay, and how sure of it one must be."""

    languages: tuple[str, ...] = Field(description="ISO 639-1 codes of what stays, such as `[en, de]`.", min_length=1)
    min_confidence: float = Field(
        0.5, description="A row stays where the wanted languages have at least this probability together.", gt=0, lt=1
    )
    min_letters: int = Field(
        40, description="A row with fewer letters is kept: too short to tell its language.", ge=0, le=MAX_CHARACTERS
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - set(_CODES.split())):
            raise ValueError(f"no such language: {', '.join(unknown)}; known are {_CODES}")
        return value


SAMPLE: dict[str, Any] = {
    "options": {"languages": ["en"], "min_letters": 12},
    "examples": [
        Text(text="The letter that I sent to you last week never arrived."),
        Text(text="Der Brief, den ich letzte Woche geschickt habe, kam nie an."),
        Text(text="kurz, 12345"),
    ],
    "result": [Text(text="The letter that I sent to you last week never arrived."), Text(text="kurz, 12345")],
}


def packages(options: Options) -> list[tuple[str, str]]:
    """Return the optional package that the step uses, and why."""
    return [("lingua", _WHY)]


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples in the wanted languages, and those too short to tell.

    Raises:
        MachineError: E450, without lingua.
    """
    origins: list[int] = []
    dropped: list[tuple[str, str]] = []
    num_short = 0
    for index, example in enumerate(examples):
        text = spoken(example, around.literals)
        if sum(map(str.isalpha, text)) < max(1, options.min_letters):
            num_short += 1
            origins.append(index)
            continue
        found = languages_of(text)
        if sum(found.get(code, 0.0) for code in options.languages) >= options.min_confidence:
            origins.append(index)
        else:
            dropped.append((example.id, f"{_LANGUAGE}{next(iter(found), 'unknown')}"))
    counted = Counter(reason.removeprefix(_LANGUAGE) for _, reason in dropped).most_common()
    listed = ", ".join(f"{code} {count:,}" for code, count in counted)
    note = f"{len(dropped):,} in other languages dropped" + (f" ({listed})" if listed else "")
    note += f"; {num_short:,} too short to tell, kept"
    return StepResult(chosen(examples, origins), origins, note, dropped)


def spoken(example: Example, literals: Sequence[str] = ()) -> str:
    """Return the text by which a row's language is told: its own text, or what is asked and answered in it."""
    replies: tuple[Message, ...] = ()
    if isinstance(example, Preference):
        replies = (*example.chosen, *example.rejected)
    elif isinstance(example, Rated):
        replies = example.completion
    return "\n".join([comparable(example, literals), *(m.text for m in replies if m.role != "system")])[:MAX_CHARACTERS]


def languages_of(text: str) -> dict[str, float]:
    """Return ISO 639-1 code → probability, the likeliest first; the likeliest language it is not where it has none.

    Raises:
        MachineError: E450, without lingua.
    """
    values = _detector().compute_language_confidence_values(text)
    return {v.language.iso_code_639_1.name.lower(): float(v.value) for v in values if v.value > 0}


@cache
def _detector() -> Any:
    lingua = need("lingua", _WHY)
    return lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()
