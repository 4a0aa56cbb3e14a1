"""What a row says: the texts in it, and how many characters they have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metier.core.types import Example, Labelled, Text, content_of


def num_characters(example: Example) -> int:
    """Return how many characters of text the example's content has, tool calls included."""
    if isinstance(example, Text | Labelled):
        return len(example.text)  # most rows, and counted for every row that is written
    return sum(map(len, texts_in(content_of(example))))


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text of an example's content, tool calls included; of a raw row, of its columns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in ("role", "id", "target", "tools"):
                yield from texts_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part)
