"""Spans: what a detector finds, and how overlapping finds become one list without overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The half-open range `text[start:end]` and the kind of identifier it holds (a key of `kinds.KINDS`)."""

    start: int
    end: int
    kind: str

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a span must hold at least one character, not {self.start}:{self.end}")


def merge(spans: Iterable[Span], priority: Mapping[str, int]) -> list[Span]:
    """Return spans in order, none overlapping, that cover exactly the characters which the given ones cover.

    Where two overlap, the one of higher priority keeps its characters, the longer one among equals; what is left of the
    other on either side stays, so that no find of any detector is uncovered by another.

    Args:
        spans: finds of all detectors.
        priority: kind → rank; a kind that is not listed has rank 0.
    """
    kept: list[Span] = []
    cluster: list[Span] = []
    end = -1
    for span in sorted(spans):
        if span.start >= end:
            kept += _resolved(cluster, priority)
            cluster = []
        cluster.append(span)
        end = max(end, span.end)
    return kept + _resolved(cluster, priority)


def _resolved(cluster: list[Span], priority: Mapping[str, int]) -> list[Span]:
    """Return the parts of spans that hang together by overlaps: the strongest is painted last."""
    if len(cluster) < 2:
        return cluster
    ranked = sorted(set(cluster), key=lambda s: (priority.get(s.kind, 0), s.end - s.start, -s.start, s.kind))
    first = cluster[0].start
    owners = [0] * (max(s.end for s in cluster) - first)
    for index, span in enumerate(ranked):
        owners[span.start - first : span.end - first] = [index] * (span.end - span.start)
    cuts = [0, *(i for i in range(1, len(owners)) if owners[i] != owners[i - 1]), len(owners)]
    return [Span(first + a, first + b, ranked[owners[a]].kind) for a, b in pairwise(cuts)]
