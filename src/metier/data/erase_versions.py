"""Dataset versions: written anew without a subject's rows, under a new digest and with a tombstone.

A version stays what its reference says (`data:support@v3`), but its digest, and the end of its folder's name, are new.
A tombstone in the manifest says how many rows are gone from each split, when, by whom and with which certificate, and
which digest it replaces, so that what names the old digest (a run, a later version's `parents`) can still be led here.
It holds nothing of the person.

The new folder is whole before the old one goes; a killed erasure leaves both, and the next one removes the old.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metier.core.project import (
    Project,
    digest_bytes,
    disk_errors,
    fsync_directory,
    now,
    read_json,
    write_bytes,
    write_json,
)
from metier.core.subject import Subject, Trace, relative
from metier.core.types import SPLITS, Example, Split, from_json
from metier.data import chronology, report
from metier.data.canaries import without
from metier.data.figures import measure
from metier.data.labels import labels_of
from metier.data.privacy import anonymity
from metier.data.subject_rows import Scope, scope_of
from metier.data.versions import Dataset, content_digest, kinds_of, locked, number_of


class VersionStore:
    """The dataset versions of a project.

    Args:
        certificate: id of the erasure, for the tombstones.
        who: the operating system's user.
    """

    name = "versions"

    def __init__(self, project: Project, certificate: str, who: str) -> None:
        self._project = project
        self._certificate = certificate
        self._who = who

    def find(self, subject: Subject) -> list[Trace]:
        """Return the versions with rows of the subject, and what killed writers left."""
        found = [Trace(self._named(folder), sum(rows.values()), "rows") for folder, rows in self._affected(subject)]
        return found + [Trace(self._named(folder), 1, "left by a killed process") for folder in self._remains()]

    def affected(self, subject: Subject) -> list[dict[str, Any]]:
        """Return `ref`, `digest`, `rows` by split and `before` (digests that earlier erasures replaced) of the versions
        with rows of the subject."""
        found = []
        for folder, rows in self._affected(subject):
            manifest = read_json(folder / "manifest.json")
            before = [str(t["replaces"]) for t in manifest.get("tombstones", [])]
            facts = {"ref": f"data:{manifest['name']}@{manifest['version']}", "digest": manifest["digest"]}
            found.append({**facts, "rows": {s: n for s, n in rows.items() if n}, "before": before})
        return found

    def erase(self, subject: Subject) -> list[Trace]:
        """Write the versions anew.

        Raises:
            DataError: E340, a version was altered.
            MachineError: E420–E422.
        """
        done = []
        for folder, rows in self._affected(subject):
            with locked(folder.parent):
                self._replace(folder, rows, subject)
            done.append(Trace(self._named(folder), sum(rows.values()), "rows"))
        for folder in self._remains():
            with locked(folder.parent):  # it may have one that is alive
                if folder.is_dir():
                    shutil.rmtree(folder)
            done.append(Trace(self._named(folder), 1, "left by a killed process"))
        return done

    # ── inside ──

    def _named(self, folder: Path) -> str:
        return relative(folder, self._project.root)

    def _affected(self, subject: Subject) -> Iterator[tuple[Path, dict[str, int]]]:
        for folder in _folders(self._project):
            manifest = read_json(folder / "manifest.json")
            scope = scope_of(manifest, subject)
            rows: dict[str, int] = {split: sum(_theirs(folder, split, subject, scope)) for split in SPLITS}
            said = {**manifest, "stated": report.stated_in(folder)}
            if any(rows.values()) or subject.without(said)[1]:
                yield folder, rows

    def _remains(self) -> list[Path]:
        """Folders that are no version: of a writer that was killed, or on their way out."""
        if not self._project.datasets_dir.is_dir():
            return []
        return sorted(p for p in self._project.datasets_dir.glob("*/.v*") if p.is_dir())

    def _replace(self, folder: Path, rows: dict[str, int], subject: Subject) -> None:
        old = Dataset.open(folder)
        replaced = _replacement(folder, old.digest)
        if replaced is None:
            splits, files = _kept(folder, subject, scope_of(old.manifest, subject))
            manifest = self._manifest(old, splits, files, rows, subject)
            target = folder.with_name(f"v{number_of(folder)}-{manifest['digest'][:6]}")
            temporary = folder.with_name(f".{target.name}.tmp")
            with disk_errors(folder):
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                for name, data in files.items():
                    write_bytes(temporary / name, data)
                if (folder / "report.html").exists():
                    counted = {str(split): found for split, found in splits.items()}
                    report.write(
                        temporary, manifest, measure(counted, manifest, subject.without(report.stated_in(folder))[0])
                    )
                write_json(temporary / "manifest.json", manifest)
                temporary.rename(target)
                fsync_directory(folder.parent)
        leaving = folder.with_name(f".{folder.name}.erased")
        with disk_errors(folder):
            folder.rename(leaving)
            fsync_directory(folder.parent)
            shutil.rmtree(leaving)

    def _manifest(
        self,
        old: Dataset,
        splits: dict[Split, list[Example]],
        files: dict[str, bytes],
        rows: dict[str, int],
        subject: Subject,
    ) -> dict[str, Any]:
        """Return the manifest of the rows that stay: counts and digests anew, nothing that names the subject."""
        body: dict[str, Any] = subject.without({k: v for k, v in old.manifest.items() if k != "schema_version"})[0]
        tombstone = {
            "certificate": self._certificate,
            "time": now(),
            "who": self._who,
            "rows": {split: n for split, n in rows.items() if n},
            "replaces": old.digest,
        }
        body["tombstones"] = [*body.get("tombstones", []), tombstone]
        body["counts"] = {split: len(splits[split]) for split in SPLITS}
        body["kinds"] = kinds_of(splits)
        body["files"] = {name: {"sha256": digest_bytes(data), "bytes": len(data)} for name, data in files.items()}
        if body.get("label_counts"):
            counted = {split: [label for e in splits[split] for label in labels_of(e)] for split in SPLITS}
            body["label_counts"] = {
                label: {split: counted[split].count(label) for split in SPLITS} for label in body["labels"]
            }
        if body.get("privacy", {}).get("profiles"):
            body["privacy"] = _privacy(body, splits)
        if leaking := body.get("split_proof", {}).get("leaking_ids"):
            there = {example.id for examples in splits.values() for example in examples}
            body["split_proof"]["leaking_ids"] = [found for found in leaking if found in there]
        if by_time := body.get("split_proof", {}).get("time"):
            body["split_proof"]["time"] = chronology.proof_again(
                by_time, {s: list(without(e)) for s, e in splits.items()}
            )
        body["digest"] = content_digest(body)
        return body


def _folders(project: Project) -> list[Path]:
    found = project.datasets_dir.glob("*/v*") if project.datasets_dir.is_dir() else ()
    return sorted(p for p in found if number_of(p) and (p / "manifest.json").is_file())


def _theirs(folder: Path, split: str, subject: Subject, scope: Scope) -> Iterator[bool]:
    with (folder / f"{split}.jsonl").open("rb") as lines:
        for line in lines:
            yield _is_theirs(json.loads(line), subject, scope)


def _is_theirs(value: dict[str, Any], subject: Subject, scope: Scope) -> bool:
    return subject.in_example(value, scope.of(value.get("place")))


def _kept(folder: Path, subject: Subject, scope: Scope) -> tuple[dict[Split, list[Example]], dict[str, bytes]]:
    """Return the examples that stay, and the files of the splits: their lines as they were."""
    splits: dict[Split, list[Example]] = {}
    files = {}
    for split in SPLITS:
        lines = (folder / f"{split}.jsonl").read_bytes().splitlines(keepends=True)
        values = [(line, json.loads(line)) for line in lines]
        kept = [(line, value) for line, value in values if not _is_theirs(value, subject, scope)]
        splits[split] = [from_json(value) for _, value in kept]
        files[f"{split}.jsonl"] = b"".join(line for line, _ in kept)
    return splits, files


def _privacy(manifest: dict[str, Any], splits: dict[Split, list[Example]]) -> dict[str, Any]:
    """Return what the manifest says of the privacy of the rows that stay: a class that lost a row may single out."""
    before = manifest["privacy"]
    options = [step["options"] for step in manifest["steps"] if step["name"] == "deidentify"]
    subjects = {(source.get("permission") or {}).get("subject_key") for source in manifest["sources"]}
    return anonymity.statement(
        without(example for examples in splits.values() for example in examples),
        profiles=before["profiles"],
        vault=before["vault"],
        quasi_identifiers=before.get("quasi_identifiers", {}).get("columns", ()),
        named={column for option in options for column in option.get("columns", {})},
        linking=sorted(filter(None, {*subjects, manifest["split"].get("group_by")})),
        subjects=sorted(filter(None, subjects)),
    )


def _replacement(folder: Path, digest: str) -> Path | None:
    """Return the folder that replaces this one, where an erasure was killed before the old one had gone."""
    for other in folder.parent.glob(f"v{number_of(folder)}-*"):
        if other != folder and (other / "manifest.json").is_file():
            tombstones = read_json(other / "manifest.json").get("tombstones") or [{}]
            if tombstones[-1].get("replaces") == digest:
                return other
    return None
