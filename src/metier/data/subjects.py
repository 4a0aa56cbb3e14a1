"""Who is to be erased, made from the rows: their own by the subject column, their texts elsewhere, and what is theirs
alone.

- *Own* rows carry the key in the column that their source's `permission.subject_key` names: a column counts in the
  files whose source names it, in a version in the rows of that source.
- Rows that hold the key or a further text (`also`) are taken whoever they belong to.
- Of rows that name nobody else in a subject column, those are taken that repeat a text of an own row exactly, nearly
  (data/similar.py, Jaccard SIMILARITY), or as a part of their own. In a version that does not tell people apart by the
  column any more, no row names somebody else.
- Fragments and words are those of own and repeated rows that stand in no row, recipe or label that stays; of examples
  that drew from a vault, the words that surrogates are made of.

Two passes over sources and versions, a chunk of rows in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from metier.core.fragments import Matcher, fragments
from metier.core.project import Project
from metier.core.sections import Source
from metier.core.subject import Subject
from metier.core.values import strings
from metier.data.similar import liken, normalise, words_of
from metier.data.subject_rows import Found, Progress, Rows, manifests, texts_of

SIMILARITY = 0.8
CHUNK_ROWS = 20_000
MIN_REPEATED = 40
"""Characters of a normalised text from which it is looked for inside other texts."""


def gather(
    project: Project,
    subject: Subject,
    sources: Sequence[Source],
    texts_that_stay: Iterable[str] = (),
    progress: Progress | None = None,
    rows: Rows | None = None,
) -> Subject:
    """Return a subject that knows its scopes, rows, ids, fragments and words.

    Args:
        subject: with key, columns and further texts.
        sources: of the project (`stated_sources`); those outside are read too, as long as they are there.
        texts_that_stay: what is no row and stays, such as the recipes: its words are nobody's.
        progress: told what is being done.
        rows: default: those of the sources and of `data/`; its notes are complete afterwards.

    Raises:
        DataError: E302, E306–E309, a source cannot be read.
    """
    rows = rows or Rows(project, sources)
    subject = replace(subject, scopes=rows.scopes)
    own: list[Found] = []
    named: list[Found] = []
    for row in rows.each(subject, progress, "looking for the subject"):
        if subject.owns(row.about, row.columns) or (row.id and subject.stands_in(row.value, row.columns)):
            own.append(row)
        elif subject.names(row.value):
            named.append(row)
        elif row.digest and subject.owns(row.about):
            rows.unnamed(row)
    repeated = _repeated(rows, subject, own, progress) if own else []
    mine = [*own, *repeated]
    known = replace(
        subject,
        rows=frozenset(row.digest for row in mine if row.digest),
        ids=frozenset(row.id for row in (*mine, *named) if row.id),
    )
    if not mine:
        return known
    pieces = fragments(text for row in mine for text in texts_of(row.value, row.columns))
    words = {word for row in mine if row.digest for word in _words(row)}
    made = {f"{row.vault}\t{word}" for row in mine if row.vault for word in _words(row)}
    stays = Matcher(pieces)
    others = [*texts_that_stay, *(label for m in manifests(project) for label in m.get("labels") or ())]
    for text in others:
        pieces -= {piece.decode() for piece in stays.found(text.encode())}
    for row in rows.each(subject, progress, "comparing with the rows that stay"):
        if known.in_example(row.value, row.columns) if row.id else known.in_row(row.value, row.columns):
            continue
        text = "\n".join(strings(row.value))
        pieces -= {piece.decode() for piece in stays.found(text.encode("utf-8", "replace"))}
        if row.digest:
            words -= set(words_of(text))
        elif row.vault and made:
            made -= {f"{row.vault}\t{word}" for word in words_of(text)}
    return replace(known, fragments=frozenset(pieces), words=frozenset(words), made=frozenset(made))


def _repeated(rows: Rows, subject: Subject, own: list[Found], progress: Progress | None) -> list[Found]:
    """Return the rows of nobody else that repeat a text of an own row."""
    texts = list(dict.fromkeys(row.text for row in own if row.text.strip()))
    texts += rows.as_written(texts)
    whole = [n for n in map(normalise, texts) if len(n) >= MIN_REPEATED]
    free = (
        row
        for row in rows.each(subject, progress, "looking for copies")
        if not subject.owns(row.about, row.columns) and not subject.others(row.about, row.columns) and row.text.strip()
    )
    found: list[Found] = []
    while chunk := list(islice(free, CHUNK_ROWS)):
        likeness = liken([*texts, *(row.text for row in chunk)], SIMILARITY)
        is_other = np.arange(len(texts) + len(chunk)) >= len(texts)
        exact, near = likeness.twins(is_other, ~is_other)
        alike = (exact | near)[len(texts) :]
        for row, twin in zip(chunk, alike.tolist(), strict=True):
            if twin or any(text in normalise(row.text) for text in whole):
                found.append(row)
    return found


def _words(row: Found) -> Iterator[str]:
    for text in strings(row.value):
        yield from words_of(text)
