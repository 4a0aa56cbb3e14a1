"""The rows among which a person is looked for: those of the stated sources and of `data/`, and the examples of the
versions, each with the columns by which it says whose it is.

A column is a subject column in the files whose source names it as `permission.subject_key`, whichever recipe does, and
in a version for the examples of that source.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.core.errors import ConfigError, DataError, MachineError
from metier.core.project import Project, read_json
from metier.core.recipe import Recipe
from metier.core.sections import Source
from metier.core.subject import Subject, names_of, relative
from metier.core.types import SPLITS, from_json
from metier.core.values import row_digest, strings
from metier.data.privacy import vault
from metier.data.privacy.columns import blurred_columns
from metier.data.privacy.reversal import Reversal
from metier.data.reading import named_path
from metier.data.rows import Row, shown_name
from metier.data.similar import comparable
from metier.data.source import HUB, READERS, file_kind, read_rows, source_files
from metier.data.statements import located, overlap
from metier.data.steps import deidentify

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Found:
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
    found = {(s.path, subject_key(s)): s for recipe in recipes for s in recipe.data.sources}
    for manifest in manifests(project):
        for source in manifest["sources"]:
            stated = Source.model_validate({name: source[name] for name in ("path", "permission")})
            found.setdefault((stated.path, subject_key(stated)), stated)
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
    return frozenset(column for source in sources if (column := subject_key(source)))


def scopes_of(project: Project, sources: Iterable[Source]) -> frozenset[str]:
    """Return `Subject.scopes`: by source, by file, and by the name that the places of its rows have."""
    # What lies here the stores ask as rows, each with the columns of its source: the byte scan looks for no columns.
    found = {f"/{folder}\t" for folder in ("datasets", "private", "runs")}
    root = project.root.resolve()
    stated = [(source, located(project, source.path)) for source in sources]
    for source, place in stated:
        own = {f"={source.path}", *([source.path] if source.path.startswith(HUB) else [])}
        rows: list[tuple[Path | str, set[str]]] = [(place, own)]
        rows += [
            (file, {f"/{relative(file.resolve(), root)}", shown}) for file, shown in _files(source.path, project)[0]
        ]
        for path, names in rows:
            columns = {subject_key(other) or "" for other, there in stated if overlap(there, path)}
            found |= {f"{name}\t{column}" for name in names for column in columns}
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
        if path.startswith(HUB) or (file_kind(Path(path)) in READERS and not any(mark in path for mark in "*?[")):
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
        yield from read_rows(file)
    except DataError as error:
        if error.number != 301:
            raise


def subject_key(source: Source) -> str | None:
    """Return the column that a source says names the person."""
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

    def each(self, subject: Subject, progress: Progress | None, what: str) -> Iterator[Found]:
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

    def as_written(self, texts: Sequence[str]) -> list[str]:
        """Return what texts became in versions whose column does not tell people apart: tags and masks are always the
        same."""
        steps = [
            step["options"]
            for manifest in manifests(self._project)
            if blurred_columns(manifest)
            for step in manifest["steps"]
            if step["name"] == "deidentify" and step["options"].get("strategy") != "surrogate"
        ]
        made: dict[str, None] = {}
        for options in {json.dumps({**step, "detectors": []}, sort_keys=True) for step in steps}:
            chosen = deidentify.Options.model_validate_json(options)
            made.update(dict.fromkeys(deidentify.deidentify(text, chosen, Counter()) for text in texts))
        return [text for text in made if text not in texts]

    def unnamed(self, row: Found) -> None:
        """Note a row that has the key in a column which is not its file's subject column."""
        self._unnamed[row.file] += 1

    def _of_file(self, file: Path, subject: Subject) -> Iterator[Found]:
        name = relative(file, self._root)
        columns = subject.columns_at(f"/{name}")
        for item in rows_of(file) if file not in self._unread else ():
            if isinstance(item, Row):
                text = "\n".join(texts_of(item.value, columns))
                yield Found(item.value, text, columns, name, digest=row_digest(item.value))

    def _of_version(self, folder: Path, subject: Subject) -> Iterator[Found]:
        manifest = read_json(folder / "manifest.json")
        scope = scope_of(manifest, subject)
        drawn = str((manifest.get("privacy") or {}).get("vault") or "")
        meant = self._meaning(manifest, drawn)
        for split in SPLITS:
            file = folder / f"{split}.jsonl"
            if not file.is_file():
                continue
            with file.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    value = json.loads(line)
                    yield Found(
                        value,
                        meant(comparable(from_json(value))),
                        scope.of(value.get("place")),
                        relative(file, self._project.root),
                        id=value["id"],
                        vault=drawn,
                    )

    def _meaning(self, manifest: Mapping[str, Any], drawn: str) -> Callable[[str], str]:
        """Return what reads a text of a version as the sources have it, where its column does not tell people apart."""
        file = self._project.root / drawn
        if not (drawn and file.is_file() and blurred_columns(manifest)):
            return str
        reversal = Reversal(vault.load(file))
        return lambda text: reversal.restore(text).text


def texts_of(value: Any, columns: frozenset[str]) -> Iterator[str]:
    """Yield the texts of a row, or of an example, but those of the subject columns and what Metier itself wrote."""
    if isinstance(value, dict):
        aside = {*columns, "id", "place", "kind", "role"} if "kind" in value and "place" in value else columns
        for name, part in value.items():
            if name not in aside:
                yield from texts_of(part, columns)
    else:
        yield from strings(value)
