"""Spans: what a detector finds, and how overlapping finds become one list without overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """The half-open range `text[start:end]`, never empty, and the kind of identifier it holds (a key of `kinds.KINDS`).

    A tuple, since many are made and sorted per text.
    """

    start: int
    end: int
    kind: str


def checked(span: Span, text: str) -> Span:
    """Return a span that somebody else's detector or label gives.

    Raises:
        ValueError: it holds no character of the text, or more than there are.
    """
    if not 0 <= span.start < span.end <= len(text):
        raise ValueError(f"a span must lie in the text and hold a character of it, not {span.start}:{span.end}")
    return span


def merge(spans: Iterable[Span], priority: Mapping[str, int]) -> list[Span]:
    """Return spans in order, none overlapping, that cover exactly the characters which the given ones cover.

    Where two overlap, the one of higher priority keeps its characters, the longer one among equals; what is left of the
    other on either side stays, so that no find of any detector is uncovered by another.

    Args:
        spans: finds of all detectors.
        priority: kind → rank; a kind that is not listed has rank 0.
    """
    ordered = sorted(spans)
    if len(ordered) < 2:
        return ordered
    kept: list[Span] = []
    cluster: list[Span] = []
    reached = -1
    for span in ordered:
        start, end, _ = span
        if start >= reached:
            kept += cluster if len(cluster) < 2 else _resolved(cluster, priority)
            cluster = [span]
            reached = end
        else:
            cluster.append(span)
            if end > reached:
                reached = end
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
