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

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.errors import ConfigError, DataError, MachineError
from metier.core.project import Project, read_json
from metier.core.recipe import Recipe, Source
from metier.core.subject import Matcher, Subject, fragments, names_of, relative, row_digest, strings, told
from metier.core.types import SPLITS, from_json
from metier.data.privacy.columns import blurred_columns
from metier.data.reading import named_path
from metier.data.rows import Row, shown_name
from metier.data.similar import comparable, liken, normalise, words_of
from metier.data.source import HUB, READERS, file_kind, read_rows, source_files

SIMILARITY = 0.8
CHUNK_ROWS = 20_000
MIN_REPEATED = 40
"""Characters of a normalised text from which it is looked for inside other texts."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of a source (`digest`) or of a version (`id`), as far as it has to be compared.

    `columns` are its subject columns, `file` where it lies, `vault` what its version drew surrogates from.
    """

    value: Any
    text: str
    columns: frozenset[str]
    file: str
    digest: str = ""
    id: str = ""
    vault: str = ""

    @property
    def about(self) -> Any:
        """The part that names whom it is about."""
        return self.value.get("meta") if self.id else self.value


@dataclass(frozen=True, slots=True)
class Scope:
    """The subject columns of a version: those of the source that an example's place names, else those of all."""

    names: Mapping[str, frozenset[str]]
    rest: frozenset[str]

    def of(self, place: Any) -> frozenset[str]:
        """Return the subject columns of the example that was read here."""
        return next((self.names[name] for name in names_of(place) if name in self.names), self.rest)


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


def digests(project: Project) -> frozenset[str]:
    """Return the digests that the versions of a project have, and had before rows of them were erased."""
    return frozenset(
        str(digest)
        for manifest in manifests(project)
        for digest in (manifest["digest"], *(t["replaces"] for t in manifest.get("tombstones", ())))
    )


def columns_of(sources: Iterable[Source]) -> frozenset[str]:
    """Return the columns that name whom a row is about."""
    return frozenset(column for source in sources if (column := _column(source)))


def scopes_of(project: Project, sources: Iterable[Source]) -> frozenset[str]:
    """Return `Subject.scopes`: by source, by file, and by the name that the places of its rows have."""
    found: set[str] = set()
    root = project.root.resolve()
    for source in sources:
        column = _column(source) or ""
        names = {f"={source.path}", *([source.path] if source.path.startswith(HUB) else [])}
        for file, shown in _files(source.path, project)[0]:
            names |= {f"/{relative(file.resolve(), root)}", shown}
        found |= {f"{name}\t{column}" for name in names}
    return frozenset(found)


def scope_of(manifest: Mapping[str, Any], subject: Subject) -> Scope:
    """Return the columns by which the examples of a version say whose they are, those left out that do not any more."""
    blurred = blurred_columns(manifest).keys()
    names: dict[str, frozenset[str]] = {}
    folders: frozenset[str] = frozenset()
    for source in manifest["sources"]:
        path = str(source["path"])
        columns = subject.columns_at(f"={path}") - blurred
        name = path if path.startswith(HUB) else shown_name(Path(path).name)
        if name == path or (file_kind(Path(path)) in READERS and not any(mark in path for mark in "*?[")):
            names[name] = names.get(name, frozenset()) | columns
        else:
            folders |= columns
    return Scope({name: columns | folders for name, columns in names.items()}, folders.union(*names.values()))


def source_files_of(project: Project, sources: Iterable[Source]) -> tuple[list[Path], list[str]]:
    """Return the files of the sources, and of `data/`, that lie in the project, and the paths of those that do not."""
    inside: set[Path] = set()
    outside: set[str] = set()
    root = project.root.resolve()
    for written in [*(s.path for s in sources), str(project.root / "data")]:
        if written.startswith(HUB):
            outside.add(written)
            continue
        files = [file.resolve() for file, _ in _files(written, project)[0]]
        inside.update(file for file in files if file.is_relative_to(root))
        outside.update({written} if any(not file.is_relative_to(root) for file in files) else ())
    return sorted(inside), sorted(outside)


def _files(written: str, project: Project) -> tuple[list[tuple[Path, str]], str]:
    """Return the files of a source as `source_files` does, and why there are none: gone, of no known type, a variable
    of another machine."""
    if written.startswith(HUB):
        return [], ""
    try:
        return source_files(named_path(written, project)), ""
    except (ConfigError, DataError) as error:
        return [], error.code


def rows_of(file: Path) -> Iterator[Any]:
    """Yield the rows and bad rows of a file; none where it is empty."""
    try:
        yield from read_rows(file, binary=True)
    except DataError as error:
        if error.number != 301:
            raise


def _column(source: Source) -> str | None:
    return source.permission.subject_key if source.permission else None


class Rows:
    """The rows of a project's sources and the examples of its versions, read as often as they are asked for.

    A file of a stated source in the project has to be readable, since rows may have to be taken out of it. Any other
    that is not is left to the byte scan, and named in `notes`.
    """

    def __init__(self, project: Project, sources: Sequence[Source]) -> None:
        self._project = project
        self._root = project.root.resolve()
        self._inside, self.outside = source_files_of(project, sources)
        stated = {file.resolve() for source in sources for file, _ in _files(source.path, project)[0]}
        self._stated = stated.intersection(self._inside)
        self._beyond = sorted(stated.difference(self._inside))
        self._unread: dict[Path, str] = {}
        self._unnamed: Counter[str] = Counter()
        self._gone = {
            source.path: "a hub data set is not looked through" if source.path.startswith(HUB) else f"not read ({code})"
            for source in sources
            if (code := _files(source.path, project)[1]) or source.path.startswith(HUB)
        }
        self.scopes = scopes_of(project, sources)

    @property
    def files(self) -> list[Path]:
        """The files in the project whose rows can be read."""
        return [file for file in self._inside if file not in self._unread]

    @property
    def notes(self) -> list[str]:
        """What a certificate says of sources: those that were not read, those that do not say whose their rows are."""
        said = {relative(file, self._root): f"not read as rows ({code})" for file, code in self._unread.items()}
        rows = {
            name: f"{num} rows have the key in a column that no source of this file names as subject_key"
            for name, num in self._unnamed.items()
        }
        return [f"{name}: {what}" for found in (self._gone, said, rows) for name, what in sorted(found.items())]

    def each(self, subject: Subject, progress: Progress | None, what: str) -> Iterator[_Found]:
        """Yield every row of the sources, then every example of the versions.

        Raises:
            DataError: E302, E306–E309, a stated source of the project cannot be read; MachineError: E450.
        """
        for file in [*self.files, *self._beyond]:
            if progress:
                progress(f"{what}: {file.name}", 0, None)
            try:
                yield from self._of_file(file, subject)
            except (DataError, MachineError) as error:
                if file in self._stated:
                    raise
                self._unread[file] = error.code
        folders = self._project.datasets_dir.glob("*/v*/manifest.json") if self._project.datasets_dir.is_dir() else ()
        for folder in sorted(manifest.parent for manifest in folders):
            if progress:
                progress(f"{what}: {folder.parent.name} {folder.name}", 0, None)
            yield from self._of_version(folder, subject)

    def unnamed(self, row: _Found) -> None:
        """Note a row that has the key in a column which is not its file's subject column."""
        self._unnamed[row.file] += 1

    def _of_file(self, file: Path, subject: Subject) -> Iterator[_Found]:
        name = relative(file, self._root)
        columns = subject.columns_at(f"/{name}")
        for item in rows_of(file) if file not in self._unread else ():
            if isinstance(item, Row):
                text = "\n".join(_texts(item.value, columns))
                yield _Found(item.value, text, columns, name, digest=row_digest(item.value))

    def _of_version(self, folder: Path, subject: Subject) -> Iterator[_Found]:
        manifest = read_json(folder / "manifest.json")
        scope = scope_of(manifest, subject)
        vault = str((manifest.get("privacy") or {}).get("vault") or "")
        for split in SPLITS:
            file = folder / f"{split}.jsonl"
            if not file.is_file():
                continue
            with file.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    value = json.loads(line)
                    yield _Found(
                        value,
                        comparable(from_json(value)),
                        scope.of(value.get("place")),
                        relative(file, self._project.root),
                        id=value["id"],
                        vault=vault,
                    )


# ───────────────────────────────────────────────────────────────────────────── the subject


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
    own: list[_Found] = []
    named: list[_Found] = []
    for row in rows.each(subject, progress, "looking for the subject"):
        if subject.owns(row.about, row.columns) or (row.id and subject.stands_in(row.value, row.columns)):
            own.append(row)
        elif subject.named("\n".join(told(row.value))):
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
    pieces = fragments(text for row in mine for text in _texts(row.value, row.columns))
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


def _repeated(rows: Rows, subject: Subject, own: list[_Found], progress: Progress | None) -> list[_Found]:
    """Return the rows of nobody else that repeat a text of an own row."""
    texts = list(dict.fromkeys(row.text for row in own if row.text.strip()))
    whole = [n for n in map(normalise, texts) if len(n) >= MIN_REPEATED]
    free = (
        row
        for row in rows.each(subject, progress, "looking for copies")
        if not subject.owns(row.about, row.columns) and not subject.others(row.about, row.columns) and row.text.strip()
    )
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


def _words(row: _Found) -> Iterator[str]:
    for text in strings(row.value):
        yield from words_of(text)


def _texts(value: Any, columns: frozenset[str]) -> Iterator[str]:
    """Yield the texts of a row, or of an example, but those of the subject columns and what Metier itself wrote."""
    if isinstance(value, dict):
        aside = {*columns, "id", "place", "kind", "role"} if "kind" in value and "place" in value else columns
        for name, part in value.items():
            if name not in aside:
                yield from _texts(part, columns)
    else:
        yield from strings(value)
