"""The audit log: an append-only, keyed hash chain of who did what, its head anchored outside the project.

    {"seq": 3, "time": …, "who": "ann", "action": "train", "fields": {…}, "previous": <mac of 2>, "mac": HMAC-SHA256}

One canonical JSON object per line of `audit.jsonl`. The key lies in the user's config directory (mode 0600), the
anchor (count and head) in the state directory; neither is in the project, so that who can write the project alone
cannot rewrite its history. A record is on disk before `append` returns, that is before the action is acknowledged.
A new record follows the *anchor*, not the file: appending to a shortened file keeps the gap visible for ever.

`who` is the operating system's user. Nothing authenticates it further. Fields hold names, counts and digests, never
the content of a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import pwd
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metier.core.errors import MachineError
from metier.core.extras import user_dir
from metier.core.locks import one_at_a_time
from metier.core.project import Project, digest_bytes, disk_errors, now, read_json, write_json

GENESIS = "0" * 64
Trouble = Literal["edited", "deleted", "inserted", "reordered", "truncated", "rewritten", "torn", "unanchored"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the chain, and the line where it shows."""

    kind: Trouble
    place: str
    what: str


def append(project: Project, action: str, **fields: Any) -> dict[str, Any]:
    """Write one record and return it.

    Args:
        project: whose log.
        action: a verb, such as `train`.
        fields: JSON data: ids, digests, counts.

    Raises:
        MachineError: E420–E422, the log or its anchor cannot be written; E453, the key is gone.
    """
    path = project.audit_file
    with _locked(path):
        key = _key(create=not path.exists())
        seq, previous = _head(project, key)
        body = {"seq": seq, "time": now(), "who": user(), "action": action, "fields": fields, "previous": previous}
        record = {**body, "mac": _mac(key, body)}
        with disk_errors(path):
            _drop_torn_tail(path)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _write(handle, (_canonical(record) + "\n").encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        write_json(_anchor_file(project), {"project": str(project.root), "count": seq + 1, "head": record["mac"]})
    return record


def records(project: Project) -> Iterator[dict[str, Any]]:
    """Yield the records as they stand, oldest first; unreadable lines are passed over (`verify` names them)."""
    for _, record in _lines(project.audit_file):
        if record is not None:
            yield record


def verify(project: Project) -> list[Finding]:
    """Return what is wrong with the log: nothing means that it is whole.

    Detects edited, deleted, inserted, reordered and truncated records and a full rewrite. A last line that was
    written without its anchor (a crash between the two) is accepted: only the holder of the key can make one.

    Raises:
        MachineError: E453, there is a log and no key.
    """
    path = project.audit_file
    anchor = _anchor(project)
    if not path.exists():
        if anchor is None:
            return []
        return [Finding("truncated", path.name, f"the log is gone; {anchor['count']} records are anchored")]
    key = _key(create=False)
    rows = list(_lines(path))
    valid = [(line, r) for line, r in rows if r is not None and _authentic(key, r)]
    if not valid and rows:
        return [Finding("rewritten", path.name, "no record was made with this machine's key")]
    if not valid:
        return _end({}, set(), anchor, path)
    findings, edited = _forged(path, rows, valid)
    findings += _chain(path, valid, edited)
    findings += _end({int(r["seq"]): r for _, r in valid}, edited, anchor, path)
    return findings


def pseudonym(project: Project, text: str) -> str:
    """Return a keyed hash of a text that must not stand in a record: the same text has the same one on this machine.

    Without the key of the audit log nobody can tell which of a few thousand names it was.

    Raises:
        MachineError: E453, the key is gone.
    """
    key = _key(create=not project.audit_file.exists())
    return hmac.new(key, b"pseudonym:" + text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


# ───────────────────────────────────────────────────────────────────────────── what verify looks at


def _forged(
    path: Path, rows: list[tuple[int, dict[str, Any] | None]], valid: list[tuple[int, dict[str, Any]]]
) -> tuple[list[Finding], set[int]]:
    """Lines that the key does not vouch for, and the numbers of the records that they stand for."""
    genuine = {line for line, _ in valid}
    known = {int(record["seq"]) for _, record in valid}
    edited: set[int] = set()
    findings = []
    for line, record in rows:
        if line in genuine:
            continue
        place = f"{path.name}:{line}"
        seq = record.get("seq") if record is not None else None
        if record is None:
            kind: Trouble = "torn" if line == rows[-1][0] else "edited"
            findings.append(Finding(kind, place, "the line is not a record"))
        elif isinstance(seq, int) and seq not in known | edited:
            findings.append(Finding("edited", place, f"record {seq} was changed"))
            edited.add(seq)
        else:
            findings.append(Finding("inserted", place, "the record was not made with this machine's key"))
    return findings, edited


def _chain(path: Path, valid: list[tuple[int, dict[str, Any]]], edited: set[int]) -> list[Finding]:
    """Genuine records that do not follow one another."""
    mac_of = {int(record["seq"]): record["mac"] for _, record in valid}
    findings: list[Finding] = []
    seen: set[int] = set()
    for line, record in valid:
        seq, place = int(record["seq"]), f"{path.name}:{line}"
        if seq in seen:
            findings.append(Finding("inserted", place, f"record {seq} stands here a second time"))
            continue
        if seen and seq < max(seen):
            findings.append(Finding("reordered", place, f"record {seq} stands after record {max(seen)}"))
        seen.add(seq)
        if record["previous"] != (mac_of.get(seq - 1, record["previous"]) if seq else GENESIS):
            findings.append(Finding("rewritten", place, f"record {seq} belongs to another history"))
    gone = sorted(set(range(max(mac_of))) - mac_of.keys() - edited)
    if gone:
        numbers = ", ".join(map(str, gone[:5])) + (" …" if len(gone) > 5 else "")
        findings.append(Finding("deleted", path.name, f"{len(gone)} records are missing: {numbers}"))
    return findings


def _end(
    valid: dict[int, dict[str, Any]], edited: set[int], anchor: dict[str, Any] | None, path: Path
) -> list[Finding]:
    """Does the file reach its anchor, and is it the same history?"""
    if anchor is None:
        what = "no anchor for this folder: the project was moved or copied, or its anchor was deleted"
        return [Finding("unanchored", path.name, what)]
    last = int(anchor["count"]) - 1
    if last in edited:
        return []
    if last not in valid:
        return [Finding("truncated", path.name, f"the end is missing: {last + 1} records are anchored")]
    if valid[last]["mac"] != anchor["head"]:
        return [Finding("rewritten", path.name, f"record {last} is not the one that was anchored")]
    return []


# ───────────────────────────────────────────────────────────────────────────── key, anchor, lines


def _key(*, create: bool) -> bytes:
    path = user_dir("config") / "audit.key"
    if create and not path.exists():
        with disk_errors(path):
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            temporary.touch(0o600)
            temporary.write_text(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # somebody else was first: theirs counts
                os.link(temporary, path)
            temporary.unlink()
    try:
        return bytes.fromhex(path.read_text())
    except (OSError, ValueError):
        raise MachineError(
            453,
            "The key of the audit log cannot be read, so that the log can be neither continued nor verified",
            place=str(path),
            fix="restore the key from a backup, or set METIER_CONFIG_DIR to where it lies",
        ) from None


def _anchor_file(project: Project) -> Path:
    name = digest_bytes(str(project.root.resolve()).encode())[:16]
    return user_dir("state") / "audit" / f"{name}.json"


def _anchor(project: Project) -> dict[str, Any] | None:
    path = _anchor_file(project)
    return read_json(path) if path.exists() else None


def _head(project: Project, key: bytes) -> tuple[int, str]:
    """The number and the predecessor of the next record."""
    anchor = _anchor(project)
    newest_first = reversed(list(_lines(project.audit_file)))
    last = next((r for _, r in newest_first if r is not None and _authentic(key, r)), None)
    if anchor is None:
        return (int(last["seq"]) + 1, str(last["mac"])) if last else (0, GENESIS)
    if last is not None and last["seq"] == anchor["count"] and last["previous"] == anchor["head"]:
        return int(last["seq"]) + 1, str(last["mac"])  # a crash came between the record and its anchor
    return int(anchor["count"]), str(anchor["head"])


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    if not path.exists():
        return
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw:
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        yield number, value if isinstance(value, dict) else None


def _write(handle: int, data: bytes) -> None:
    """Write all bytes: the system may take a part of them, as when the disk fills up, and say so without an error."""
    while data:
        data = data[os.write(handle, data) :]


def _drop_torn_tail(path: Path) -> None:
    """Remove a last line without its newline: it was never acknowledged."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _authentic(key: bytes, record: dict[str, Any]) -> bool:
    body = {name: value for name, value in record.items() if name != "mac"}
    try:
        mac = _mac(key, body)
    except RecursionError:  # deeper than any record of ours
        return False
    sealed = str(record.get("mac", "")).encode("utf-8", "replace")  # compare_digest refuses a text that is not ASCII
    return isinstance(record.get("seq"), int) and hmac.compare_digest(sealed, mac.encode())


def _mac(key: bytes, body: dict[str, Any]) -> str:
    return hmac.new(key, _canonical(body).encode(), hashlib.sha256).hexdigest()


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def user() -> str:
    """Return the operating system's user, as records name them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's arbitrary user id has no name
        return f"uid-{os.getuid()}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process append at a time."""
    with disk_errors(path), one_at_a_time(path.with_name(f".{path.name}.lock")):
        yield
