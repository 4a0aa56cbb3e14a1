"""Under private/: quarantine, review lists and re-identified rows lose a subject's lines, vaults the entries that are
theirs alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metier.core.project import Project, disk_errors, write_bytes
from metier.core.subject import Subject, Trace, relative, says_enough
from metier.data.privacy import vault
from metier.data.privacy.surrogates import Vault, remembered
from metier.data.similar import words_of


class PrivateListStore:
    """Quarantine, review lists and what `metier data reidentify` wrote: JSON Lines of rows, mode 0600."""

    name = "private lists"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the lists with lines of the subject."""
        return [t for file in self._files() if (t := self._trace(file, sum(m for _, m in _lines(file, subject)))).num]

    def erase(self, subject: Subject) -> list[Trace]:
        """Take the lines out; a list that is empty then is deleted.

        Raises:
            MachineError: E420–E422.
        """
        done = []
        for file in self._files():
            lines = list(_lines(file, subject))
            if num := sum(theirs for _, theirs in lines):
                kept = b"".join(line for line, theirs in lines if not theirs)
                with disk_errors(file):
                    if kept:
                        write_bytes(file, kept)
                        file.chmod(0o600)
                    else:
                        file.unlink()
                done.append(self._trace(file, num))
        return done

    def _files(self) -> list[Path]:
        folders = (self._project.private_dir / name for name in ("quarantine", "review", "reidentified"))
        return sorted(file for folder in folders for file in folder.rglob("*.jsonl"))

    def _trace(self, file: Path, num: int) -> Trace:
        return Trace(relative(file, self._project.root), num, "lines")


class VaultStore:
    """Vaults of surrogates: an entry goes whose value is a name of the subject or holds a word of theirs alone.

    An entry whose words others use too, such as a common first name, cannot be told to be theirs and stays.
    """

    name = "vaults"

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, subject: Subject) -> list[Trace]:
        """Return the vaults with entries of the subject.

        Raises:
            MachineError: E450, `cryptography` is not installed.
            DataError: E365, a vault cannot be read.
        """
        return [t for file in self._files() if (t := self._trace(file, len(_entries(vault.load(file), subject)))).num]

    def erase(self, subject: Subject) -> list[Trace]:
        """Drop the entries and encrypt the vaults anew; raises as `find`."""
        done = []
        for file in self._files():
            opened = vault.load(file)
            if theirs := _entries(opened, subject):
                for kind, key in theirs:
                    del opened.entries[kind][key]
                vault.save(opened, file)
                done.append(self._trace(file, len(theirs)))
        return done

    def surrogates(self, names: list[str]) -> frozenset[str]:
        """Return what stands for these texts, as far as it says enough to be looked for and means nobody else.

        Of a name of several words it is what stands for all of them together.
        """
        vaults = [vault.load(file) for file in self._files()]
        real = {key for opened in vaults for known in opened.entries.values() for key in known}
        made = {
            remembered(name, kind, opened)
            for opened in vaults
            for kind in {"PERSON", *opened.entries}
            for name in names
        }
        return frozenset(text for text in made if text and says_enough(text) and text.lower() not in real)

    def _files(self) -> list[Path]:
        return sorted((self._project.private_dir / "vaults").glob("*.vault"))

    def _trace(self, file: Path, num: int) -> Trace:
        return Trace(relative(file, self._project.root), num, "entries")


def _lines(file: Path, subject: Subject) -> Iterator[tuple[bytes, bool]]:
    """Yield each line and whether it is the subject's; in a file that is named after them, every line is."""
    theirs, quarantined = subject.named(file.name), file.parents[1].name == "quarantine"
    for line in file.read_bytes().splitlines(keepends=True):
        value: Any = json.loads(line)
        if theirs:
            yield line, True
        elif quarantined and ("raw" in value or "raw_base64" in value):
            yield line, quarantined_of(value, subject) or subject.seen(line)
        else:
            yield line, subject.in_example(value) or subject.in_row(value) or subject.seen(line)


def quarantined_of(value: Mapping[str, Any], subject: Subject) -> bool:
    """Whether the bad row in a line of a quarantine file may be the subject's."""
    raw = value["raw"].encode() if "raw" in value else base64.b64decode(value["raw_base64"])
    return subject.in_raw(raw)


def _entries(opened: Vault, subject: Subject) -> list[tuple[str, str]]:
    """Return (kind, folded value) of the entries that are the subject's."""
    names = {" ".join(name.lower().split()) for name in (subject.key, *subject.also)}
    return [
        (kind, key)
        for kind, known in opened.entries.items()
        for key in known
        if key in names or not subject.words.isdisjoint(words_of(key))
    ]
