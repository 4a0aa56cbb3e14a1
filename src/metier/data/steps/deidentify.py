"""Replace what identifies people: by a tag, by a mask, or by surrogates that a vault can reverse.

Finds by rules (data/privacy/engine.py; `metier data pii-eval` measures them). A changed text is read again,
until nothing more is found, so that the step leaves its own output as it is. With surrogates the result is
pseudonymized: the vault under private/vaults reverses them. Left out: labels, arguments of tool calls and further
columns, which are not text for a step; a column that identifies people must not be kept.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Example, Text, content_of
from metier.data.privacy import surrogates, vault
from metier.data.privacy.engine import detect
from metier.data.steps import StepResult, map_text

summary = "Replace names, places, dates, numbers and addresses that identify people"
FILTERS = False
PASSES = 4
"""How often a changed text is read again; the second look seldom finds anything."""


class Options(BaseOptions):
    """What is looked for, and what stands in its place."""

    profile: Literal["hipaa-safe-harbor", "gdpr"] = Field(
        "gdpr",
        description="The list of identifiers: the eighteen of HIPAA Safe Harbor, or personal data under the GDPR.",
    )
    strategy: Literal["tag", "mask", "surrogate"] = Field(
        "tag",
        description="`tag`: its kind, as [PERSON]; `mask`: █ for every letter and digit; `surrogate`: an invented value"
        " of the same form, the same one each time, which the encrypted vault can reverse.",
    )


SAMPLE: dict[str, Any] = {
    "options": {"strategy": "tag"},
    "examples": [Text(text="Please call Zbigniew Kowalczyk at 212-555-0134."), Text(text="Nothing to see here.")],
    "result": [Text(text="Please call [PERSON] at [PHONE]."), Text(text="Nothing to see here.")],
}


def run(examples: list[Example], options: Options) -> StepResult:
    """Return the examples without identifiers; none is dropped.

    Raises:
        ConfigError: E209, surrogates without an open vault.
    """
    counts: Counter[str] = Counter()
    kept: list[Example] = []
    num_changed = 0
    for example in examples:
        changed = map_text(example, lambda text: deidentify(text, options, counts))
        differs = content_of(changed) != content_of(example)
        num_changed += differs
        kept.append(changed if differs else example)
    found = ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common()) or "nothing found"
    return StepResult(kept, list(range(len(kept))), f"{num_changed:,} of {len(examples):,} rows changed: {found}", [])


def deidentify(text: str, options: Options, counts: Counter[str]) -> str:
    """Return the text with every find replaced, and count the finds by kind."""
    if options.strategy == "surrogate":
        spans = detect(text, options.profile)
        counts.update(span.kind for span in spans)
        return surrogates.replace(text, spans, vault.current())
    for _ in range(PASSES):
        spans = detect(text, options.profile)
        if not spans:
            break
        counts.update(span.kind for span in spans)
        parts, end = [], 0
        for span in spans:
            value = text[span.start : span.end]
            parts += [text[end : span.start], f"[{span.kind}]" if options.strategy == "tag" else _masked(value)]
            end = span.end
        text = "".join([*parts, text[end:]])
    return text


def _masked(value: str) -> str:
    return "".join("█" if c.isalnum() else c for c in value)
