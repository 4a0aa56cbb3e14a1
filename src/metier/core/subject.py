"""A person who is to be erased: by what their rows, and what is left of them elsewhere, are recognised.

Rows are recognised by the value of a subject column, by the key or a further name anywhere in them, or by their digest
(near duplicates, which data/subjects.py finds). Files that are made from rows (reports, logs, predictions) are
recognised by the key, by the names and by *fragments*: pieces of the person's texts that stand in no row that stays.

A key is looked for as a whole word, and only where it says enough: at least MIN_KEY characters, of digits MIN_DIGITS. A
shorter one is recognised as the value of a subject column alone, since `17` stands in every file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ERASED = "(erased)"
MIN_KEY, MIN_DIGITS = 6, 9
FRAGMENT_BYTES = 24
"""Length of a fragment: where twice as much of a text is left somewhere, it is found."""

MAX_NEEDLE_BYTES = 4096
"""The longest find of a pattern: two chunks of a file overlap by so much."""

_PREFIX = 8
_WORD = rb"[0-9A-Za-z_\x80-\xff]"
_PLAIN = re.compile(r"""[^\x00-\x1f"'\\<>&\x7f\ud800-\udfff]+""")
"""What stands in JSON, HTML and text in the same way: a fragment must not care where it is written."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Something of the subject: the file (relative to the project), how many rows or places, and what they are."""

    file: str
    num: int
    what: str


class Store(Protocol):
    """What may hold something of a person. Each room has those of its own files; both calls are repeatable.

    `find` changes nothing; `erase` returns what it removed or rewrote. A store that cannot rewrite a file leaves it, so
    that `find` goes on naming it.
    """

    name: str

    def find(self, subject: Subject) -> list[Trace]:
        """Return what is there."""
        ...

    def erase(self, subject: Subject) -> list[Trace]:
        """Remove it, and return what was removed."""
        ...


@dataclass(frozen=True)
class Subject:
    """A person, as far as their traces are recognised by it. Private: it never goes into a log, an error or a card.

    Args:
        key: value of the subject columns.
        columns: names of those columns.
        also: further texts that identify the person, such as the name; surrogates that stand for the key.
        rows: digests (`row_digest`) of source rows that are the person's texts without their key.
        ids: ids of the person's examples.
        pseudonyms: `id:surrogate` of the examples whose subject column holds what stands for the key, and
            `digest:surrogate` of the versions that they are in. A surrogate alone may be the key of somebody else.
        fragments: pieces of the person's texts that stand in no row that stays.
        words: words that stand in the person's source rows alone.
    """

    key: str
    columns: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    pseudonyms: frozenset[str] = field(default=frozenset(), repr=False)
    fragments: frozenset[str] = field(default=frozenset(), repr=False)
    words: frozenset[str] = field(default=frozenset(), repr=False)

    # ── rows ──

    def owns(self, row: Any) -> bool:
        """Whether a row (of an example: its `meta`) names the person in a subject column."""
        return self.key in self._said(row)

    def others(self, row: Any) -> bool:
        """Whether a row names somebody else in a subject column: what it has in common with the person's stays."""
        return bool(self._said(row) - {self.key, ""})

    def _said(self, row: Any) -> set[str]:
        known = row if isinstance(row, Mapping) else {}
        return {str(known[c]).strip() for c in self.columns if known.get(c) is not None}

    def in_row(self, row: Any) -> bool:
        """Whether a source row is the person's or names them."""
        return (
            self.owns(row)
            or (bool(self.rows) and row_digest(row) in self.rows and not self.others(row))
            or self.named(_joined(row))
        )

    def in_example(self, value: Mapping[str, Any]) -> bool:
        """Whether an example as JSON data, or a prediction for one, is the person's or names them."""
        meta = value.get("meta")
        mine = value.get("id") in self.ids and not self.others(meta)
        return mine or self.owns(meta) or self.stands_in(value) or self.named(_joined(value))

    def stands_in(self, value: Mapping[str, Any]) -> bool:
        """Whether a subject column of an example holds what stands for the person's key there."""
        return any(f"{value.get('id')}:{said}" in self.pseudonyms for said in self._said(value.get("meta")))

    def in_raw(self, raw: bytes) -> bool:
        """Whether a record that is no row (quarantine) may be the person's: by a field, a name, a text."""
        text = raw.decode("utf-8", "replace")
        try:
            value = json.loads(text)
        except ValueError:
            cells = {cell.strip() for d in ",;\t|" for line in _cells(text, d) for cell in line}
            return self.key in cells or self.seen(raw) or row_digest(text) in self.rows
        return self.in_row(value) or self.seen(raw)

    # ── text ──

    def named(self, text: str) -> bool:
        """Whether a text holds the key (where it says enough) or one of the further texts."""
        return any(p.search(data) for data in [text.encode("utf-8", "replace")] for p in self._names)

    def seen(self, data: bytes) -> bool:
        """Whether bytes hold a name, the key as the value of a subject column, or a fragment."""
        return any(p.search(data) for p in self.patterns) or bool(self._matcher and self._matcher.any(data))

    def cut_out(self, data: bytes) -> tuple[bytes, int]:
        """Return bytes with every name and fragment in them replaced, and how many there were."""
        num = 0
        for pattern in self.patterns:
            data, n = pattern.subn(ERASED.encode(), data)
            num += n
        for piece in set(self._matcher.found(data)) if self._matcher else ():
            num += data.count(piece)
            data = data.replace(piece, ERASED.encode())
        return data, num

    def without(self, value: Any) -> tuple[Any, int]:
        """Return JSON data with every text that tells of the person replaced, and how many there were."""
        if isinstance(value, str):
            return (ERASED, 1) if self.seen(value.encode("utf-8", "replace")) else (value, 0)
        if isinstance(value, list):
            parts = [self.without(part) for part in value]
            return [part for part, _ in parts], sum(n for _, n in parts)
        if isinstance(value, dict):
            count, found = 0, {}
            for name, part in value.items():
                mine = name in self.columns and str(part) == self.key
                (new, n), shown = (ERASED, 1) if mine else self.without(part), self.without(name)
                found[shown[0]] = new
                count += n + shown[1]
            return found, count
        return value, 0

    @cached_property
    def patterns(self) -> list[re.Pattern[bytes]]:
        """What is looked for in bytes, besides the fragments."""
        found = list(self._names)
        if not says_enough(self.key) and self.columns:
            columns = b"|".join(re.escape(_json(c)) for c in sorted(self.columns))
            found.append(re.compile(rb'"(?:%s)"\s*:\s*"?%s(?!%s)' % (columns, re.escape(_json(self.key)), _WORD)))
        return found

    @cached_property
    def _names(self) -> list[re.Pattern[bytes]]:
        words = [text for text in (self.key, *sorted(self.also)) if says_enough(text)]
        return [_pattern(text, exact=text == self.key) for text in words]

    @cached_property
    def _matcher(self) -> Matcher | None:
        return Matcher(self.fragments) if self.fragments else None

    # ── put together, kept ──

    def merged(self, other: Subject) -> Subject:
        """Return what both know: an interrupted erasure remembers what it began with."""
        sets = {f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(self) if f.name != "key"}
        return Subject(self.key, **sets)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data, for the private journal alone."""
        return {"key": self.key} | {f.name: sorted(getattr(self, f.name)) for f in fields(self) if f.name != "key"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Subject:
        """Return what `to_json` wrote."""
        sets = {f.name: frozenset(value[f.name]) for f in fields(cls) if f.name != "key"}
        return cls(str(value["key"]), **sets)


# ───────────────────────────────────────────────────────────────────────────── rows and texts


def says_enough(text: str) -> bool:
    """Whether a text can be looked for anywhere: long enough that it is not there by chance."""
    text = text.strip()
    return len(text) >= (MIN_DIGITS if text.isdigit() else MIN_KEY)


def strings(value: Any) -> Iterator[str]:
    """Yield every text in JSON data, in order; names of keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part)


def row_digest(row: Any) -> str:
    """Return a digest of a row's texts, in order, whatever their columns are called."""
    return hashlib.blake2b("\x1e".join(strings(row)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def fragments(texts: Iterable[str]) -> set[str]:
    """Return the pieces, each of FRAGMENT_BYTES, by which texts are recognised in other files."""
    found: set[str] = set()
    for text in texts:
        for run in _PLAIN.findall(text):
            piece = ""
            for character in run:
                piece = (piece + character).lstrip()
                if len(piece) * 4 >= FRAGMENT_BYTES and len(piece.rstrip().encode()) >= FRAGMENT_BYTES:
                    found.add(piece.rstrip())
                    piece = ""
    return found


class Matcher:
    """Many fragments at once: every eight bytes of the data are looked up in a table, what fits is compared.

    As fast for a thousand fragments as for one.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces: dict[int, list[bytes]] = {}
        for piece in map(str.encode, pieces):
            self._pieces.setdefault(int.from_bytes(piece[:_PREFIX], "little"), []).append(piece)
        self._heads = np.array(sorted(self._pieces), dtype="<u8")
        self._table = np.zeros(1 << 16, dtype=bool)
        self._table[_slot(self._heads)] = True

    def found(self, data: bytes) -> Iterator[bytes]:
        """Yield the fragments that stand in the data, one per place."""
        num = len(data) - _PREFIX + 1
        if num < 1 or not len(self._heads):
            return
        windows: NDArray[np.uint64] = np.ndarray((num,), dtype="<u8", buffer=data, strides=(1,))
        likely = np.flatnonzero(self._table[_slot(windows)])
        if not likely.size:
            return
        heads = windows[likely]
        known = self._heads[np.minimum(np.searchsorted(self._heads, heads), len(self._heads) - 1)]
        for place in likely[known == heads].tolist():
            head = int.from_bytes(data[place : place + _PREFIX], "little")
            yield from (piece for piece in self._pieces[head] if data.startswith(piece, place))

    def any(self, data: bytes) -> bool:
        """Whether one of them stands in the data."""
        return next(self.found(data), None) is not None


def _slot(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(48)
    return slots


def _pattern(text: str, *, exact: bool) -> re.Pattern[bytes]:
    """A text as a whole word; one that is no key also in capitals and small, with any space between its words."""
    space = rb"(?:\s|\\[nrt]|&nbsp;|\xc2\xa0)+"
    words = [b"".join(_character(c, exact) for c in word) for word in text.split()]
    body = rb"(?<!%s)%s(?!%s)" % (_WORD, space.join(words), _WORD)
    return re.compile(body, 0 if exact else re.IGNORECASE)


def _character(character: str, exact: bool) -> bytes:
    """A character as it stands in UTF-8, in JSON with escapes, and in HTML."""
    forms = {character} if exact else {character, character.lower(), character.upper()}
    html = {'"': b"&quot;|&#34;", "'": b"&#39;|&#x27;", "&": b"&amp;", "<": b"&lt;", ">": b"&gt;"}.get(character)
    written = [re.escape(form.encode()) for form in sorted(forms)]
    written += [re.escape(json.dumps(form)[1:-1].encode()) for form in sorted(forms) if json.dumps(form)[1:-1] != form]
    written += [html] if html else []
    return written[0] if len(written) == 1 else b"(?:%s)" % b"|".join(written)


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def _joined(row: Any) -> str:
    return "\n".join(strings(row))


def _cells(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(text.splitlines(), delimiter=delimiter)
    except csv.Error:
        return


def relative(file: Path, root: Path) -> str:
    """Return a file as a Trace names it."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


__all__ = [
    "ERASED",
    "Matcher",
    "Store",
    "Subject",
    "Trace",
    "fragments",
    "relative",
    "row_digest",
    "says_enough",
    "strings",
]
