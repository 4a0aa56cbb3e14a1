"""Drop rows by simple signs of bad text, each a rule with a threshold of its own and its name on what it drops.

The signs are those by which web text is filtered (MassiveText's repetition and symbol rules in Rae et al., 2021,
appendix A; C4's boilerplate and end-of-sentence rules in Raffel et al., 2020, section 2.2), applied to rows: the
thresholds are milder, since a row is shorter than a page. Rules on repetition, ends and refusals look at what the
assistant says (of a preference, at the chosen reply), where somebody answers; all others at the whole row, but for what
the recipe says in every row (`data.prompt`). null switches a rule off. Phrases are English.

Left out: perplexity, trained quality classifiers, lists of bad words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Conversation, Example, Message, Preference, Text
from metier.data.prompt import own_texts
from metier.data.similar import normalise, words_of
from metier.data.spool import Examples, chosen
from metier.data.steps import ALONE, Around, Sign, StepResult

summary = "Drop rows that repeat themselves, break off, refuse, or hold symbols or boilerplate instead of text"
SIGN = Sign("E337", "rows that repeat themselves, break off, refuse, or hold no real text")
FILTERS = True
RUN_WORDS = 5
MIN_WORDS = 20
MIN_LINES = 4
MIN_SYMBOL_CHARACTERS = 20
MIN_ANSWER_WORDS = 5

_SENTENCE = re.compile(r"[^.!?\n]+")
_BOILERPLATE = re.compile(
    r"lorem ipsum|(?:enable|requires|turn on) javascript|(?:accept|use of|uses) cookies|cookie policy|privacy policy"
    r"|terms of (?:use|service)|all rights reserved|subscribe to our|sign up for our|click here to"
    r"|skip to (?:main )?content|thank you for contacting|this (?:e-?mail|message) was sent",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|large language model|language model)\b"
    r"|\bi(?:'m| am)?(?: \w+){0,2} (?:unable to|not able to|cannot|can't|can not|won't|will not)(?: \w+){0,2}"
    r" (?:assist|help(?! but)|answer|provide|fulfil+|comply|create|generate|do that|discuss|engage)\b",
    re.IGNORECASE,
)
_LIST_OR_CODE = re.compile(r"\s*(?:[-*+•|>#`~]|\d+[.)]\s|https?://|www\.|<|\$)|.*[{}|;`>\\]\s*$")


class Options(BaseOptions):
    """The rules; what a value is measured on stands in its description, and what `data.prompt` says is in none."""

    max_repeated_lines: float | None = Field(
        0.3, description="Share of a text's own characters in lines that stood before, from 4 lines on.", ge=0, lt=1
    )
    max_repeated_words: float | None = Field(
        0.3,
        description="Share of a text's own words in runs of 5 that stand there more than once, from 20 on.",
        ge=0,
        lt=1,
    )
    max_symbols: float | None = Field(
        0.4,
        description="Share of a row's own signs that are no letter, digit or blank, from 20 characters on.",
        ge=0,
        lt=1,
    )
    max_boilerplate: float | None = Field(
        0.3, description="Share of the row's own sentences with a phrase of web pages or form letters.", ge=0, lt=1
    )
    truncated_words: int | None = Field(
        40, description="An answer or text of so many words or more must not end mid-sentence.", ge=1
    )
    refusal_characters: int | None = Field(
        200, description="A refusal within so many characters from the beginning of an answer.", ge=1
    )
    max_same_answers: int | None = Field(
        20, description="Rows with the same answer of 5 words or more; those that come later go.", ge=1
    )


SAMPLE: dict[str, Any] = {
    "options": {"max_same_answers": None},
    "examples": [
        Text(text="The bridge was closed for two weeks after the storm."),
        Text(text="buy now\nbuy now\nbuy now\nbuy now\nbuy now"),
        Text(text="=-=-=-=-=-=-=-=-=-=-= 12"),
        Conversation(
            messages=(Message("user", "Who won?"), Message("assistant", "I'm sorry, but I can't help with that."))
        ),
    ],
    "result": [Text(text="The bridge was closed for two weeks after the storm.")],
}


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples that no rule drops; a row is counted under the first rule that does."""
    origins: list[int] = []
    dropped: list[tuple[str, str]] = []
    answers: Counter[bytes] = Counter()
    for index, example in enumerate(examples):
        texts = tuple(own_texts(example, around.template, around.system))
        row = Row(texts, answers_of(example), isinstance(example, Text))
        reason = next((name for name, broken in RULES.items() if broken(row, options)), None)
        if reason is None and options.max_same_answers is not None and row.answer is not None:
            said = normalise(row.answer)
            if len(said.split()) >= MIN_ANSWER_WORDS:
                key = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                answers[key] += 1
                reason = "same answer" if answers[key] > options.max_same_answers else None
        if reason is None:
            origins.append(index)
        else:
            dropped.append((example.id, reason))
    counted = Counter(reason for _, reason in dropped).most_common()
    note = f"{len(dropped):,} of {len(examples):,} rows dropped"
    note += f": {', '.join(f'{reason} {count:,}' for reason, count in counted)}" if counted else ""
    return StepResult(chosen(examples, origins), origins, note, dropped)


class Row(NamedTuple):
    """What the rules look at: the row's own texts, the answers among them, and whether it is a text for `cpt`."""

    texts: tuple[str, ...]
    answers: tuple[str, ...]
    prose: bool

    @property
    def answer(self) -> str | None:
        """The answers in one, None where nobody answers."""
        return "\n".join(self.answers) if self.answers else None


def answers_of(example: Example) -> tuple[str, ...]:
    """Return what the assistant says in a row that is to be imitated; nothing where nobody answers."""
    if isinstance(example, Conversation):
        messages = example.messages
    elif isinstance(example, Preference):
        messages = example.chosen
    else:
        return ()  # of a rating it is not said that the answer is good
    return tuple(m.text for m in messages if m.role == "assistant" and m.weight != 0)


# ───────────────────────────────────────────────────────────────────────────── measures


def repeated_lines(text: str) -> float:
    """Return the share of the characters that stand in lines equal to an earlier one; 0 under 4 lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < MIN_LINES:
        return 0.0
    once = sum(map(len, set(lines)))
    return 1 - once / sum(map(len, lines))


def repeated_words(text: str) -> float:
    """Return the share of the words that stand in a run of 5 words found more than once; 0 under 20 words."""
    words = words_of(text)
    if len(words) < MIN_WORDS:
        return 0.0
    runs = [tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)]
    times = Counter(runs)
    covered = 0
    reach = 0
    for start, found in enumerate(runs):
        if times[found] > 1:
            covered += start + RUN_WORDS - max(start, reach)
            reach = start + RUN_WORDS
    return covered / len(words)


def symbols(text: str) -> float:
    """Return the share of characters that are neither letter, mark, digit nor white space; 0 under 20 characters."""
    shown = [c for c in text if not c.isspace()]
    if len(shown) < MIN_SYMBOL_CHARACTERS:
        return 0.0
    return sum(not (c.isalnum() or unicodedata.category(c)[0] == "M") for c in shown) / len(shown)


def boilerplate(text: str) -> float:
    """Return the share of the sentences that hold a phrase of web pages or form letters."""
    sentences = [s for s in _SENTENCE.findall(text) if s.strip()]
    return sum(bool(_BOILERPLATE.search(s)) for s in sentences) / len(sentences) if sentences else 0.0


def breaks_off(text: str) -> bool:
    """Say whether a text ends mid-sentence: behind a letter or comma. Lists, tables, code, sums and addresses may."""
    lines = text.rstrip().splitlines()
    if not lines or "```" in lines[-1]:
        return False
    last = lines[-1]
    if last.split()[-1][0] in "#@" or "=" in last:
        return False
    return (last[-1].isalpha() or last[-1] in ",-–(") and not _LIST_OR_CODE.match(last[:200])


# ───────────────────────────────────────────────────────────────────────────── rules


def _over(measure: Callable[[str], float], option: str, *, each: bool = False) -> Callable[[Row, Options], bool]:
    """Return the rule that a measure of the row, or of `each` of its answers (texts without), stays under an option."""

    def broken(row: Row, options: Options) -> bool:
        limit = getattr(options, option)
        if limit is None:
            return False
        return any(measure(text) > limit for text in ((row.answers or row.texts) if each else ("\n".join(row.texts),)))

    return broken


def _truncated(row: Row, options: Options) -> bool:
    written = row.texts[0] if row.prose else row.answer  # the text of a label is what somebody asks: it may end anyhow
    least = options.truncated_words
    return least is not None and written is not None and breaks_off(written) and len(written.split()) >= least


def _refused(row: Row, options: Options) -> bool:
    if options.refusal_characters is None or row.answer is None:
        return False
    return _REFUSAL.search(row.answer[: options.refusal_characters].replace("’", "'")) is not None


RULES: dict[str, Callable[[Row, Options], bool]] = {
    # A reply may repeat its question, and a question itself: it is within one answer that repetition is a sign.
    "repeated lines": _over(repeated_lines, "max_repeated_lines", each=True),
    "repeated words": _over(repeated_words, "max_repeated_words", each=True),
    "symbols": _over(symbols, "max_symbols"),
    "boilerplate": _over(boilerplate, "max_boilerplate"),
    "truncated": _truncated,
    "refusal": _refused,
}
"""Reason → whether a row breaks the rule; `same answer` needs all rows and follows."""
