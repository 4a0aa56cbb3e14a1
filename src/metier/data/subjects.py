"""Who is to be erased, made from the rows: their own by the subject column, their texts elsewhere, and what is theirs
alone.

- *Own* rows carry the key in the column that a source's `permission.subject_key` names.
- Rows that hold the key or a further text (`also`) are taken whoever they belong to.
- Of rows that name nobody else in a subject column, those are taken that repeat a text of an own row exactly, nearly
  (data/similar.py, Jaccard SIMILARITY), or as a part of their own.
- Fragments and words are those of own and repeated rows that stand in no row, recipe or label that stays.

Two passes over sources and versions, a chunk of rows in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.errors import DataError
from metier.core.project import Project, read_json
from metier.core.recipe import Recipe, Source
from metier.core.subject import Matcher, Subject, fragments, row_digest, strings
from metier.core.types import SPLITS, from_json
from metier.data.reading import named_path
from metier.data.rows import Row
from metier.data.similar import comparable, liken, normalise, words_of
from metier.data.source import HUB, read_rows, source_files

SIMILARITY = 0.8
CHUNK_ROWS = 20_000
MIN_REPEATED = 40
"""Characters of a normalised text from which it is looked for inside other texts."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of a source (`digest`) or of a version (`id`), as far as it has to be compared."""

    value: Any
    text: str
    digest: str = ""
    id: str = ""

    @property
    def about(self) -> Any:
        """The part that names whom it is about."""
        return self.value.get("meta") if self.id else self.value


# ───────────────────────────────────────────────────────────────────────────── sources


def stated_sources(project: Project, recipes: Iterable[Recipe]) -> list[Source]:
    """Return the sources that recipes and the manifests of dataset versions name, each path and subject key once."""
    found = {(s.path, _column(s)): s for recipe in recipes for s in recipe.data.sources}
    for manifest in manifests(project):
        for source in manifest["sources"]:
            stated = Source.model_validate({name: source[name] for name in ("path", "permission")})
            found.setdefault((stated.path, _column(stated)), stated)
    return list(found.values())


def manifests(project: Project) -> Iterator[dict[str, Any]]:
    """Yield the manifests of all dataset versions."""
    if project.datasets_dir.is_dir():
        for file in sorted(project.datasets_dir.glob("*/v*/manifest.json")):
            yield read_json(file)


def columns_of(sources: Iterable[Source]) -> frozenset[str]:
    """Return the columns that name whom a row is about."""
    return frozenset(column for source in sources if (column := _column(source)))


def source_files_of(project: Project, sources: Iterable[Source]) -> tuple[list[Path], list[str]]:
    """Return the files of the sources, and of `data/`, that lie in the project, and the paths of those that do not."""
    inside: set[Path] = set()
    outside: set[str] = set()
    root = project.root.resolve()
    for written in [*(s.path for s in sources), str(project.root / "data")]:
        path = named_path(written, project)
        if written.startswith(HUB):
            outside.add(written)
            continue
        try:
            files = [file.resolve() for file, _ in source_files(path)]
        except DataError:  # it is gone, or nothing in it is read
            continue
        inside.update(file for file in files if file.is_relative_to(root))
        outside.update({written} if any(not file.is_relative_to(root) for file in files) else ())
    return sorted(inside), sorted(outside)


def rows_of(file: Path) -> Iterator[Any]:
    """Yield the rows and bad rows of a file; none where it is empty."""
    try:
        yield from read_rows(file)
    except DataError as error:
        if error.number != 301:
            raise


def _column(source: Source) -> str | None:
    return source.permission.subject_key if source.permission else None


# ───────────────────────────────────────────────────────────────────────────── the subject


def gather(
    project: Project,
    subject: Subject,
    sources: Sequence[Source],
    texts_that_stay: Iterable[str] = (),
    progress: Progress | None = None,
) -> Subject:
    """Return a subject that knows its rows, ids, fragments and words.

    Args:
        subject: with key, columns and further texts.
        sources: of the project (`stated_sources`); those outside are read too, as long as they are there.
        texts_that_stay: what is no row and stays, such as the recipes: its words are nobody's.
        progress: told what is being done.

    Raises:
        DataError: E306–E309, a source cannot be read.
    """
    own: list[_Found] = []
    named: list[_Found] = []
    for row in _every(project, subject, sources, progress, "looking for the subject"):
        if subject.owns(row.about) or (row.id and subject.stands_in(row.value)):
            own.append(row)
        elif subject.named("\n".join(strings(row.value))):
            named.append(row)
    repeated = _repeated(project, subject, sources, own, progress) if own else []
    mine = [*own, *repeated]
    known = replace(
        subject,
        rows=frozenset(row.digest for row in mine if row.digest),
        ids=frozenset(row.id for row in (*mine, *named) if row.id),
    )
    if not mine:
        return known
    pieces = fragments(text for row in mine for text in _texts(row.value, subject.columns))
    words = {word for row in mine if row.digest for text in strings(row.value) for word in words_of(text)}
    stays = Matcher(pieces)
    others = [*texts_that_stay, *(label for m in manifests(project) for label in m.get("labels") or ())]
    for text in others:
        pieces -= {piece.decode() for piece in stays.found(text.encode())}
    for row in _every(project, subject, sources, progress, "comparing with the rows that stay"):
        if known.in_example(row.value) if row.id else known.in_row(row.value):
            continue
        text = "\n".join(strings(row.value))
        pieces -= {piece.decode() for piece in stays.found(text.encode("utf-8", "replace"))}
        if row.digest:
            words -= set(words_of(text))
    return replace(known, fragments=frozenset(pieces), words=frozenset(words))


def _repeated(
    project: Project, subject: Subject, sources: Sequence[Source], own: list[_Found], progress: Progress | None
) -> list[_Found]:
    """Return the rows of nobody else that repeat a text of an own row."""
    texts = list(dict.fromkeys(row.text for row in own if row.text.strip()))
    whole = [n for n in map(normalise, texts) if len(n) >= MIN_REPEATED]
    rows = (r for r in _every(project, subject, sources, progress, "looking for copies") if not subject.owns(r.about))
    free = (r for r in rows if not subject.others(r.about) and r.text.strip())
    found: list[_Found] = []
    while chunk := list(islice(free, CHUNK_ROWS)):
        likeness = liken([*texts, *(row.text for row in chunk)], SIMILARITY)
        is_other = np.arange(len(texts) + len(chunk)) >= len(texts)
        exact, near = likeness.twins(is_other, ~is_other)
        alike = (exact | near)[len(texts) :]
        for row, twin in zip(chunk, alike.tolist(), strict=True):
            if twin or any(text in normalise(row.text) for text in whole):
                found.append(row)
    return found


def _every(
    project: Project, subject: Subject, sources: Sequence[Source], progress: Progress | None, what: str
) -> Iterator[_Found]:
    """Yield every row of the sources, then every example of the versions."""
    inside, outside = source_files_of(project, sources)
    beyond = [
        file for path in outside if not path.startswith(HUB) for file, _ in source_files(named_path(path, project))
    ]
    for file in [*inside, *beyond]:
        if progress:
            progress(f"{what}: {file.name}", 0, None)
        for item in rows_of(file):
            if isinstance(item, Row):
                text = "\n".join(_texts(item.value, subject.columns))
                yield _Found(item.value, text, digest=row_digest(item.value))
    for folder in sorted(project.datasets_dir.glob("*/v*")) if project.datasets_dir.is_dir() else ():
        if progress:
            progress(f"{what}: {folder.parent.name} {folder.name}", 0, None)
        for split in SPLITS:
            if (folder / f"{split}.jsonl").is_file():
                with (folder / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as lines:
                    for line in lines:
                        value = json.loads(line)
                        yield _Found(value, comparable(from_json(value)), id=value["id"])


def _texts(value: Any, columns: frozenset[str]) -> Iterator[str]:
    """Yield the texts of a row, or of an example, but those of the subject columns and what Metier itself wrote."""
    if isinstance(value, dict):
        aside = {*columns, "id", "place", "kind", "role"} if "kind" in value and "place" in value else columns
        for name, part in value.items():
            if name not in aside:
                yield from _texts(part, columns)
    else:
        yield from strings(value)
