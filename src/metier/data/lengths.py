"""Count what tokenising did to the rows: nothing is cut or dropped without a number and a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHOWN_PLACES = 5
PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True, slots=True)
class LengthReport:
    """Lengths in tokens, before truncation, over all examples that were encoded."""

    n: int
    tokens: int
    """Tokens that are kept."""
    supervised: int
    """Kept tokens with a loss."""
    cut_rows: int
    cut_tokens: int
    dropped_rows: int
    """Rows with no supervised token left, or over max_length with truncation `drop`."""
    longest: int
    percentiles: dict[int, int]
    """Percentile → length, before truncation."""
    cut_places: tuple[str, ...]
    """The first rows that were cut."""
    dropped_places: tuple[str, ...]
    """The first rows that were dropped."""

    @property
    def share_supervised(self) -> float:
        """Supervised share of the kept tokens, 0…1."""
        return self.supervised / self.tokens if self.tokens else 0.0

    def note(self, split: str, limit: str) -> str:
        """Return in one line which rows of a split were cut or dropped; empty where none was.

        Args:
            limit: what they were cut at, such as `training.max_length=512`.
        """
        parts = []
        if self.cut_rows:
            parts.append(f"{_counted(self.cut_rows, 'cut')} at {limit}: {_listed(self.cut_places, self.cut_rows)}")
        if self.dropped_rows:
            where = _listed(self.dropped_places, self.dropped_rows)
            parts.append(f"{_counted(self.dropped_rows, 'dropped')} for want of a trained token at {limit}: {where}")
        return f"{split}: {'; '.join(parts)}" if parts else ""


class Lengths:
    """The counter behind `Encoder.report`."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._supervised = self._cut_tokens = self._tokens = 0
        self._cut: list[str] = []
        self._dropped: list[str] = []
        self._cut_rows = self._dropped_rows = 0

    def add(self, length: int, cut: int, place: str, *, supervised: int = 0, dropped: bool = False) -> None:
        """Count one example: its length before truncation, the tokens cut, whether it was dropped."""
        self._lengths.append(length)
        if dropped:
            self._dropped_rows += 1
            _remember(self._dropped, place)
            return
        self._tokens += length - cut
        self._supervised += supervised
        if cut:
            self._cut_rows += 1
            self._cut_tokens += cut
            _remember(self._cut, place)

    def report(self) -> LengthReport:
        """Return the figures so far."""
        return LengthReport(
            n=len(self._lengths),
            tokens=self._tokens,
            supervised=self._supervised,
            cut_rows=self._cut_rows,
            cut_tokens=self._cut_tokens,
            dropped_rows=self._dropped_rows,
            longest=max(self._lengths, default=0),
            percentiles=percentiles(self._lengths),
            cut_places=tuple(self._cut),
            dropped_places=tuple(self._dropped),
        )


def percentiles(lengths: Sequence[int]) -> dict[int, int]:
    """Return the percentiles of lengths: each a length that occurs, empty for no rows."""
    if not len(lengths):
        return {}
    values = np.percentile(np.asarray(lengths), PERCENTILES, method="higher")
    return {p: int(v) for p, v in zip(PERCENTILES, values, strict=True)}


def _counted(rows: int, what: str) -> str:
    return f"{rows:,} row{'s' if rows > 1 else ''} {what}"


def _listed(places: Sequence[str], rows: int) -> str:
    more = f" and {rows - len(places):,} more" if rows > len(places) else ""
    return ", ".join(places) + more


def _remember(places: list[str], place: str) -> None:
    if len(places) < SHOWN_PLACES:
        places.append(place)
