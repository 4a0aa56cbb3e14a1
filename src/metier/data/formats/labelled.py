"""A text with its label, its labels or its number: any table with one text column and one label column.

The columns are known by name (`text`, `sentence`, `review` …; `label`, `category`, `intent` …) or given by
`map: {text: …, label: …}`. A string is a class, also when it looks like a number; so are an integer and a boolean; a
float is a value to predict; a list is several classes. Labels are never trimmed or folded: two spellings are two
classes. Left out: `title` beside the text, which a prompt (`user: "{title}\\n{text}"`) can still use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.errors import RowError
from metier.core.types import Labelled
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts

summary = "Labelled text: one text column, one label column (a class, several, or a number)"
kind = "labelled"
COLUMNS = ("text", "label")
TEXT_NAMES = ("text", "sentence", "content", "review", "utterance", "query", "comment", "document", "tweet", "input")
LABEL_NAMES = (
    *("label", "labels", "category", "categories", "intent", "class", "target", "targets", "sentiment", "topic"),
    *("rating", "score", "stars"),
)


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [
        {"text": "Where is my card?", "label": "card_arrival", "language": "en"},
        {"sentence": "Too salty.", "target": 2.5},
        {"review": "Fun, and long.", "labels": ["fun", "long"]},
    ],
    "examples": [
        Labelled(text="Where is my card?", target="card_arrival", meta={"language": "en"}),
        Labelled(text="Too salty.", target=2.5),
        Labelled(text="Fun, and long.", target=("fun", "long")),
    ],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with one text column and one label column that no format with replies claims."""
    if columns.messages_column(row) or columns.pair_columns(row):
        return None
    if {"prompt", "completion", "instruction", "output"} & set(row):
        return None
    text, label = _pick(row, TEXT_NAMES), _pick(row, LABEL_NAMES)
    return f"has the text column `{text}` and the label column `{label}`" if text and label else None


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Labelled:
    """Return the row's text and target.

    Raises:
        RowError: no text, no label, or a label that is none of the kinds above.
    """
    text, label = _pick(row, TEXT_NAMES) or "text", _pick(row, LABEL_NAMES) or "label"
    return Labelled(
        text=parts.required_text(row, text),
        target=_target(row.get(label), label),
        place=place,
        meta=parts.rest(meta_from, text, label),
    )


def _pick(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the one column of these names; the first name wins over the others, any other tie is nobody's."""
    found = [name for name in names if name in row]
    return found[0] if len(found) == 1 or names[0] in found else None


def _target(value: Any, field: str) -> str | tuple[str, ...] | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RowError("no-label", "the label is not a number", field=field)
        return value
    if isinstance(value, str):
        if not value.strip():
            raise RowError("no-label", "the label is empty", field=field)
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, str | int) for v in value):
        if len(set(map(str, value))) != len(value):
            raise RowError("label-twice", "a label is given twice", field=field)
        return tuple(str(v) for v in value)
    raise RowError("no-label", "there is no label", field=field)
