"""Replace what identifies people: by a tag, by a mask, or by surrogates that a vault can reverse.

Finds by rules (data/privacy/engine.py; `metier data pii-eval` measures them). A changed text is read again,
until nothing more is found, so that the step leaves its own output as it is. With surrogates the result is
pseudonymized: the vault under private/vaults reverses them. Columns that stay beside the text (groups, slices, what a
format leaves over, the `item` of a problem) are read where `columns` says how. Arguments of tool calls are read, each
value behind its key. Left out: labels, definitions of tools, and keys of arguments.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import Field, field_validator

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Problem, Text, identify
from metier.data.privacy import columns as by_column
from metier.data.privacy import presidio, surrogates, vault
from metier.data.privacy.anonymity import classes_of, columns_in
from metier.data.privacy.engine import detect, further
from metier.data.privacy.kinds import KINDS
from metier.data.privacy.spans import Span
from metier.data.prompt import fixed_spans
from metier.data.spool import Examples, Rewritten
from metier.data.steps import ALONE, Around, StepResult, map_text

summary = "Replace names, places, dates, numbers and addresses that identify people"
FILTERS = False
SHOWN = 10
"""Names of columns in a note."""
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
    columns: dict[str, str] = Field(
        {},
        description="What becomes of columns beside the text: `drop`, `keep` (in the text, too), `text` (read like the"
        " text), `year`, `tens` (40-49; 90+), `zip3`, or the kind of identifier that the whole value is, such as PERSON"
        " or MRN.",
    )
    quasi_identifiers: tuple[str, ...] = Field(
        (),
        description="Columns that together may point at a person: k-anonymity is measured on what they become.",
    )

    detectors: tuple[Literal["presidio"], ...] = Field(
        (),
        description="Detectors that join the rules: `presidio`, for national numbers of more countries (an extra).",
    )

    @field_validator("columns")
    @classmethod
    def _known_actions(cls, value: dict[str, str]) -> dict[str, str]:
        return by_column.check(value)


SAMPLE: dict[str, Any] = {
    "options": {"strategy": "tag"},
    "examples": [Text(text="Please call Zbigniew Kowalczyk at 212-555-0134."), Text(text="Nothing to see here.")],
    "result": [Text(text="Please call [PERSON] at [PHONE]."), Text(text="Nothing to see here.")],
}


def packages(options: Options) -> list[tuple[str, str]]:
    """Return the optional packages that these options use, and why."""
    return [("presidio_analyzer", presidio.WHY)] if options.detectors else []


def columns(options: Options) -> list[str]:
    """Return the columns that the rows must bring; those to drop are kept until this step."""
    return [*options.columns, *options.quasi_identifiers]


def removes(options: Options) -> list[str]:
    """Return the columns by whose values rows cannot be told apart any more."""
    gone = {"drop"} if options.strategy == "surrogate" else {"drop", *KINDS}
    return [name for name, action in options.columns.items() if action in gone]


def blurs(options: Options) -> list[str]:
    """Return the columns whose values do not say any more whose a row is."""
    return [name for name, action in options.columns.items() if not by_column.tells_apart(action, options.strategy)]


def reorders(options: Options) -> list[str]:
    """Return the columns whose values do not lie in their order any more."""
    return [name for name, action in options.columns.items() if action not in ("keep", "year")]


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples without identifiers; none is dropped.

    Raises:
        ConfigError: E209, surrogates without an open vault.
    """
    counts: Counter[str] = Counter()
    result = Rewritten(examples)
    num_changed = num_emptied = 0
    unread: set[str] = set()
    if options.strategy == "surrogate":
        for name in (name for name, action in options.columns.items() if action in KINDS):
            surrogates.reserve((str(e.meta[name]) for e in examples if name in e.meta), vault.current())
    for index, example in enumerate(examples):
        kept_values = _kept_values(example.meta, options)
        read = partial(deidentify, options=options, counts=counts, kept=kept_values, template=around.template)
        changed = map_text(example, read, around, arguments=True)
        made, same = changed, changed is example
        if options.columns:
            meta, num_empty = _columns(example.meta, options, read)
            num_emptied += num_empty
            if meta != example.meta:
                made, same = replace(made, meta=meta), False
        if isinstance(made, Problem) and made.item:
            item, _ = _columns(made.item, options, partial(read, counts=Counter()))  # counted in meta already
            if item != made.item:
                made, same = identify(replace(made, item=item)), False
        unread.update(name for name in columns_in(example) if name not in options.columns)
        num_changed += not same
        if same:
            result.keep(index, example)
        else:
            result.add(index, made)
    found = ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common()) or "nothing found"
    note = f"{num_changed:,} of {len(examples):,} rows changed: {found}"
    note += f"; {num_emptied:,} values could not be made coarser and are gone" if num_emptied else ""
    note += f"; columns not read: {', '.join(sorted(unread)[:SHOWN])}" if unread else ""
    if options.quasi_identifiers:
        classes = classes_of(result.examples, options.quasi_identifiers, around.subjects)
        note += f"; by {', '.join(options.quasi_identifiers)}: {classes.to_text()}"
    return StepResult(result.examples, result.origins, note, [])


def _kept_values(meta: Mapping[str, Any], options: Options) -> tuple[str, ...]:
    """Return the values of the columns that somebody says to keep: what stands beside a text may stand in it, too.

    So a column that the prompt names (`Section {section}:`) reads in training as it will when the model is used.
    """
    kept = (meta.get(name) for name, action in options.columns.items() if action == "keep")
    return tuple(value for value in kept if isinstance(value, str) and value.strip())


def _columns(meta: Mapping[str, Any], options: Options, read: Callable[[str], str]) -> tuple[dict[str, Any], int]:
    """Return the columns as they are written, and how many values could not be made coarser."""

    telling = by_column.telling_year(options.profile)

    def replaced(value: str, kind: str) -> str:
        if options.strategy == "surrogate":
            return surrogates.surrogate(value, kind, vault.current(), telling)
        return f"[{kind}]" if options.strategy == "tag" else _masked(value)

    made: dict[str, Any] = {}
    num_emptied = 0
    for name, value in meta.items():
        action = options.columns.get(name, "keep")
        if action == "drop":
            continue
        made[name] = by_column.changed(value, action, replaced, read, telling)
        num_emptied += made[name] is None and value is not None
    return made, num_emptied


def deidentify(text: str, options: Options, counts: Counter[str], kept: Sequence[str] = (), template: str = "") -> str:
    """Return the text with every find replaced, and count them by kind.

    Those within a `kept` value stay, and so do the fixed parts of a `template` that the text was made by: of a find
    that reaches into one only the rest is replaced.
    """
    extra = further(options.detectors)

    def found_in(text: str) -> list[Span]:
        spans = _without(kept, text, detect(text, options.profile, extra=extra))
        return _outside(fixed_spans(template, text) or (), text, spans) if template and spans else spans

    if options.strategy == "surrogate":
        spans = found_in(text)
        counts.update(span.kind for span in spans)
        return surrogates.replace(text, spans, vault.current(), by_column.telling_year(options.profile))
    for _ in range(PASSES):
        spans = found_in(text)
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


def _without(kept: Sequence[str], text: str, spans: list[Span]) -> list[Span]:
    """Return the finds that do not lie within one of these values, where it stands as a whole word."""
    there = [m.span() for value in kept for m in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text)]
    return [span for span in spans if not any(start <= span.start and span.end <= end for start, end in there)]


def _outside(fixed: Sequence[tuple[int, int]], text: str, spans: list[Span]) -> list[Span]:
    """Return what of the finds lies outside the fixed parts of a template and has a letter or a digit."""
    for start, end in fixed:
        if start < end:
            before = [Span(span.start, min(span.end, start), span.kind) for span in spans if span.start < start]
            spans = before + [Span(max(span.start, end), span.end, span.kind) for span in spans if span.end > end]
    return [span for span in spans if any(map(str.isalnum, text[span.start : span.end]))]


def _masked(value: str) -> str:
    return "".join("█" if c.isalnum() else c for c in value)
