"""Erase a person: ask every store, prove by a byte scan that nothing is left, certify it.

The stores are handed down by actions, since each lies in the room that owns its files. What a second call needs to
finish an interrupted one stands in a journal under private/erasure, which is the last thing to go; the certificate, in
erasures/, holds counts, files and digests, and the person as a keyed hash.

Order: journal → audit `erase.begin` → stores, one after the other → every store asked again → byte scan → certificate →
audit `erase` → journal deleted. Each part can be repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.core import audit
from metier.core.errors import DataError
from metier.core.project import Project, now, read_json, write_json, write_text
from metier.core.scan import scan
from metier.core.subject import Store, Subject

Progress = Callable[[str, int, int | None], None]


class Journal:
    """The private notes of an erasure that is not done: who is erased, which versions were found, what is removed."""

    def __init__(self, project: Project, subject_hash: str) -> None:
        self.dir = project.private_dir / "erasure"
        self._file = self.dir / f"{subject_hash[:16]}.json"

    def read(self) -> dict[str, Any]:
        """Return what an interrupted erasure of this subject noted; empty where there was none."""
        return read_json(self._file) if self._file.is_file() else {}

    def write(self, value: Mapping[str, Any]) -> None:
        """Write the notes, mode 0600.

        Raises:
            MachineError: E420–E422.
        """
        self.dir.mkdir(mode=0o700, exist_ok=True)
        write_json(self._file, {k: v for k, v in value.items() if k != "schema_version"})
        self._file.chmod(0o600)

    def close(self) -> None:
        """Delete them; the folder too, unless another subject's erasure is waiting."""
        for left in self.dir.glob(f".{self._file.name}.*.tmp"):
            left.unlink()
        self._file.unlink(missing_ok=True)
        if not any(self.dir.iterdir()):
            self.dir.rmdir()


def found(stores: Sequence[Store], subject: Subject) -> list[dict[str, Any]]:
    """Return what every store has of a subject: store, files and count."""
    return [{"store": store.name, **_counted(traces)} for store in stores if (traces := store.find(subject))]


def certificates(project: Project, subject_hash: str) -> list[dict[str, Any]]:
    """Return the certificates of earlier erasures of a subject, oldest first."""
    known = [read_json(file) for file in sorted((project.root / "erasures").glob("*.json"))]
    return sorted((c for c in known if c["subject"] == subject_hash), key=lambda c: str(c["begun"]))


def erase(
    project: Project,
    subject: Subject,
    stores: Sequence[Store],
    journal: Journal,
    notes: dict[str, Any],
    *,
    asked: Collection[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Erase, prove, certify; return the certificate.

    Args:
        subject: as data/subjects.py gathered it, together with what an interrupted erasure knew.
        stores: every place that may hold something of the subject.
        journal: where an interrupted erasure is taken up again.
        notes: what the certificate states beside the counts: `certificate`, `subject` (hash), `begun`, `versions`,
            `runs`, `models`, `outside`, `not_scanned`; `removed` from an interrupted erasure.
        asked: files whose rows the stores ask, as `scan` takes them.
        progress: told what is being done.

    Raises:
        DataError: E367, something is left: the certificate says in which files; what a store's own files raise.
        MachineError: E420–E422.
    """
    say = progress or (lambda what, done, total: None)
    removed: list[dict[str, Any]] = notes.setdefault("removed", [])
    journal.write({"person": subject.to_json(), **notes})
    audit.append(project, "erase.begin", certificate=notes["certificate"], subject=notes["subject"])
    for number, store in enumerate(stores):
        say(f"erasing: {store.name}", number, len(stores))
        if traces := store.erase(subject):
            removed.append({"store": store.name, **_counted(traces)})
            journal.write({"person": subject.to_json(), **notes})
    left: Counter[str] = Counter()
    for number, store in enumerate(stores):
        say(f"asking again: {store.name}", number, len(stores))
        left.update({trace.file: trace.num for trace in store.find(subject)})
    say("byte scan", 0, None)
    looked = scan(project.root, subject, skip=journal.dir, asked=asked, progress=progress)
    files = sorted({*left, *looked.hits})
    certificate: dict[str, Any] = subject.without(
        {
            **{name: value for name, value in notes.items() if name != "removed"},
            "not_scanned": [*notes["not_scanned"], *looked.unread],
            "who": audit.user(),
            "done": now(),
            "removed": _together(removed),
            "scan": {"files": looked.num_files, "bytes": looked.num_bytes, "hits": len(files), "left_in": files},
            "complete": not files,
        }
    )[0]
    place = write(project, certificate)
    audit.append(
        project,
        "erase",
        certificate=notes["certificate"],
        subject=notes["subject"],
        rows=sum(entry["num"] for entry in certificate["removed"]),
        runs=[run["run"] for run in notes["runs"]],
        hits=len(files),
    )
    if files:
        raise DataError(
            367,
            f"Something of the subject is left in {len(files)} file{'s' if len(files) > 1 else ''}",
            place=str(certificate["scan"]["left_in"][0]),
            received=", ".join(certificate["scan"]["left_in"][:10]),
            expected="a byte scan of the whole project without a hit",
            fix="remove it from these files by hand (what is no source is never changed, PDF and DOCX cannot "
            f"be), then repeat the command; {place.name} has the list",
        )
    journal.close()
    return certificate


def write(project: Project, certificate: Mapping[str, Any]) -> Path:
    """Write a certificate as JSON and as Markdown under erasures/; return the JSON file.

    Raises:
        MachineError: E420–E422.
    """
    file = project.root / "erasures" / f"{certificate['certificate']}.json"
    write_json(file, dict(certificate))
    write_text(file.with_suffix(".md"), markdown(certificate))
    return file


def markdown(certificate: Mapping[str, Any]) -> str:
    """Return a certificate for people."""
    scan_facts = certificate["scan"]
    lines = [
        f"# Certificate of erasure {certificate['certificate']}",
        "",
        f"- Subject (keyed hash): `{certificate['subject']}`",
        f"- Begun {certificate['begun']}, done {certificate['done']}, by {certificate['who']}",
        f"- Result: {'complete' if certificate['complete'] else 'NOT complete'}",
        f"- Byte scan: {scan_facts['hits']} hits in {scan_facts['files']:,} files, {scan_facts['bytes']:,} bytes",
        "",
        "## Removed",
        "",
        *(f"- {e['store']}: {e['num']:,} in {', '.join(e['files'])}" for e in certificate["removed"]),
        *([] if certificate["removed"] else ["- nothing"]),
        "",
        "## Dataset versions that were written anew",
        "",
        *(f"- {v['ref']}: {_rows(v['rows'])}; was `{v['digest']}`" for v in certificate["versions"]),
        *([] if certificate["versions"] else ["- none"]),
        "",
        "## Runs and models that saw the rows",
        "",
        *(f"- run {r['run']} ({r['name']}): {_rows(r['rows'])}" for r in certificate["runs"]),
        *(f"- model {m['to']} ({m['form']}) of run {m['run']}" for m in certificate["models"]),
        *([] if certificate["runs"] or certificate["models"] else ["- none"]),
        "",
        "Their weights were not changed: retrain from the rows that stay, or retire them.",
        "",
        "## Not changed, not looked through",
        "",
        *(f"- outside the project: {path}" for path in certificate["outside"]),
        *(f"- {text}" for text in certificate["not_scanned"]),
        *(f"- LEFT IN {path}" for path in scan_facts["left_in"]),
    ]
    return "\n".join(lines) + "\n"


def _rows(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {n:,}" for split, n in rows.items() if n) or "no row"


def _counted(traces: Sequence[Any]) -> dict[str, Any]:
    return {"num": sum(trace.num for trace in traces), "files": [trace.file for trace in traces]}


def _together(removed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per store: an interrupted erasure has several."""
    found: dict[str, dict[str, Any]] = {}
    for entry in removed:
        known = found.setdefault(entry["store"], {"store": entry["store"], "num": 0, "files": []})
        known["num"] += entry["num"]
        known["files"] = sorted({*known["files"], *entry["files"]})
    return list(found.values())
