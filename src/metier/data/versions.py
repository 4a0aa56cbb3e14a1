"""Dataset versions on disk: immutable, verified when opened, written whole or not at all.

datasets/support/v3-9f2c1a/   manifest.json  train.jsonl  validation.jsonl  test.jsonl
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.core import refs
from metier.core.errors import DataError
from metier.core.locks import one_at_a_time
from metier.core.project import (
    Project,
    digest_file,
    digest_json,
    disk_errors,
    fsync_directory,
    now,
    read_json,
    write_json,
)
from metier.core.types import SPLITS, Example, Split, kind_of
from metier.data.spool import Lines, kind_in, lines_of

PROGRESS_ROWS = 10_000

VOLATILE = ("schema_version", "digest", "inputs_digest", "version", "created", "metier_version")
"""Manifest keys that do not count for the digest of a version."""

LINEAGE = (*VOLATILE, "parents")
"""Manifest keys in which two versions may differ and still be the same data."""


class Dataset:
    """One dataset version on disk. `open` verifies it; examples are read when asked for."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.dir = folder
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a version's directory and verify every byte against its manifest.

        Raises:
            DataError: E340 it was altered, E341 it is no dataset version.
        """
        if not (path / "manifest.json").is_file():
            raise DataError(
                341,
                "This is not a dataset version",
                place=str(path),
                expected="a folder with manifest.json",
                fix="metier data prepare RECIPE makes one",
            )
        manifest = read_json(path / "manifest.json")
        wrong = [name for name, facts in manifest["files"].items() if not _intact(path / name, facts["sha256"])]
        if wrong or content_digest(manifest) != manifest["digest"]:
            raise DataError(
                340,
                "The dataset version was altered after it was made",
                place=str(path),
                received=", ".join(wrong) or "manifest.json",
                expected="the bytes named in its manifest",
                fix="remove the folder and run `metier data prepare` again; versions are never edited",
            )
        return cls(path, manifest)

    @classmethod
    def latest(cls, project: Project, name: str) -> Dataset | None:
        """Return the latest version of a dataset, or None when there is none."""
        folders = version_dirs(project, name)
        return cls.open(folders[-1]) if folders else None

    @classmethod
    def find(cls, project: Project, ref: str) -> Dataset:
        """Return the version that `data:support@v3` or `data:support` names.

        Raises:
            ConfigError: E251 not a reference, E252 no such version.
        """
        return cls.open(refs.dataset_dir(project, ref))

    @property
    def name(self) -> str:
        """The dataset's name: the recipe's."""
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        """Such as `v3`."""
        return str(self.manifest["version"])

    @property
    def digest(self) -> str:
        """SHA-256 of the content and of the manifest's lasting part."""
        return str(self.manifest["digest"])

    @property
    def ref(self) -> str:
        """Such as `data:support@v3`."""
        return f"data:{self.name}@{self.version}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in their frozen order; empty for other data and for regression."""
        return tuple(self.manifest["labels"])

    def count(self, split: Split) -> int:
        """Return how many examples a split has."""
        return int(self.manifest["counts"][split])

    def examples(self, split: Split) -> list[Example]:
        """Return the examples of a split, in the order of the file."""
        return list(self.iterate(split))

    def rows(self, split: Split) -> Sequence[Example]:
        """Return the examples of a split, each read when it is asked for: eight bytes of memory a row."""
        return Lines(self.dir / f"{split}.jsonl")

    def iterate(self, split: Split) -> Iterator[Example]:
        """Yield the examples of a split one by one."""
        return iter(self.rows(split))


# ───────────────────────────────────────────────────────────────────────────── versions on disk


def version_dirs(project: Project, name: str) -> list[Path]:
    """Return the directories of a dataset's versions, oldest first."""
    folder = project.datasets_dir / name
    found = [p for p in folder.iterdir() if number_of(p) and (p / "manifest.json").is_file()] if folder.is_dir() else []
    return sorted(found, key=number_of)


def find_made(project: Project, name: str, inputs_digest: str) -> Dataset | None:
    """Return the latest version that was made from these inputs, or None."""
    for folder in reversed(version_dirs(project, name)):
        if read_json(folder / "manifest.json").get("inputs_digest") == inputs_digest:
            return Dataset.open(folder)
    return None


def content_digest(manifest: Mapping[str, Any], without: Sequence[str] = VOLATILE) -> str:
    """Return the digest of a version: of its files' digests and all that the manifest says that lasts."""
    return digest_json({key: value for key, value in manifest.items() if key not in without})


def _find_same(project: Project, name: str, body: Mapping[str, Any]) -> Dataset | None:
    """Return the latest version that holds the same data, or None."""
    for folder in reversed(version_dirs(project, name)):
        manifest = read_json(folder / "manifest.json")
        if content_digest(manifest, LINEAGE) == content_digest(body, LINEAGE):
            return Dataset.open(folder)
    return None


def write_version(
    project: Project,
    name: str,
    splits: Mapping[Split, Sequence[Example]],
    facts: Mapping[str, Any],
    *,
    inputs_digest: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Write a new version, or return the one that is the same; nothing is ever half there.

    Args:
        project: where.
        name: the dataset's name.
        splits: the examples of every split.
        facts: the manifest's other keys.
        inputs_digest: digest of sources, options and code, by which `build` finds the version again.
        progress: told how many rows are written, of how many.

    Raises:
        MachineError: E420–E422.
    """
    from metier import __version__

    with locked(project.datasets_dir / name):
        number = max(map(number_of, version_dirs(project, name)), default=0) + 1
        temporary = project.datasets_dir / name / f".v{number}.tmp"
        with disk_errors(temporary):
            shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed; the lock says nobody is there
            temporary.mkdir()
            try:
                files, kinds = _write_splits(temporary, splits, progress)
                body: dict[str, Any] = {
                    "name": name,
                    **facts,
                    "counts": {split: len(splits.get(split, ())) for split in SPLITS},
                    "kinds": kinds,
                    "files": files,
                }
                if same := _find_same(project, name, body):
                    return same
                digest = content_digest(body)
                head = {"version": f"v{number}", "digest": digest, "inputs_digest": inputs_digest, "created": now()}
                write_json(temporary / "manifest.json", {**head, "metier_version": __version__, **body})
                folder = temporary.with_name(f"v{number}-{digest[:6]}")
                temporary.rename(folder)
                fsync_directory(folder.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return Dataset.open(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one writer at a time choose the next version's number."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / ".lock"):
            yield


def _write_splits(
    folder: Path, splits: Mapping[Split, Sequence[Example]], progress: Callable[[int, int], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Write the splits' files; return what the manifest says of them, and how many examples of each kind there are."""
    files: dict[str, dict[str, Any]] = {}
    kinds: Counter[str] = Counter()
    done, total = 0, sum(map(len, splits.values()))
    for split in SPLITS:
        digest, num_bytes = hashlib.sha256(), 0
        with (folder / f"{split}.jsonl").open("wb") as file:
            for line in lines_of(splits.get(split, ())):
                file.write(line)
                digest.update(line)
                num_bytes += len(line)
                kinds[kind_in(line)] += 1
                done += 1
                if done % PROGRESS_ROWS == 0:
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        files[f"{split}.jsonl"] = {"sha256": digest.hexdigest(), "bytes": num_bytes}
    return files, dict(sorted(kinds.items()))


def kinds_of(splits: Mapping[Split, Sequence[Example]]) -> dict[str, int]:
    """Return how many examples of each kind there are, as the manifest says it."""
    return dict(sorted(Counter(kind_of(e) for examples in splits.values() for e in examples).items()))


def _intact(file: Path, sha256: str) -> bool:
    return file.is_file() and digest_file(file) == sha256


def number_of(folder: Path) -> int:
    """Return the number of a version's directory (`v3-9f2c1a` → 3), 0 for any other."""
    match = re.fullmatch(r"v(\d+)-[0-9a-f]+", folder.name)
    return int(match[1]) if match else 0
