"""Names of columns by which the formats tell each other's rows apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REPLY_LISTS = ("messages", "conversations", "conversation")
"""Columns that hold a list of messages."""

THUMBS = ("kto_tag", "label")
"""Columns that hold a thumb up or down, for the format `rated`."""


def messages_column(row: Mapping[str, Any]) -> str | None:
    """Return the column that holds a list of message objects."""
    return next((name for name in REPLY_LISTS if isinstance(row.get(name), list)), None)


def spelling(row: Mapping[str, Any], column: str) -> str:
    """Return `role` or `from`: how the messages of the column name their speaker; empty when they do not."""
    first = row[column][0] if row[column] else {}
    return next((name for name in ("role", "from") if isinstance(first, Mapping) and name in first), "")


def is_thumb(value: Any) -> bool:
    """True for a boolean, also in the words of a CSV file."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


def thumb_column(row: Mapping[str, Any]) -> str | None:
    """Return the column with a thumb up or down, where there is a reply it can belong to."""
    if not (messages_column(row) or "completion" in row or "instruction" in row):
        return None
    return next((name for name in THUMBS if is_thumb(row.get(name))), None)


PAIRS = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("preferred_completion", "non_preferred_completion"),
)
"""Columns with the better and the worse reply."""


def pair_columns(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the columns with the better and the worse reply."""
    return next((pair for pair in PAIRS if all(name in row for name in pair)), None)
