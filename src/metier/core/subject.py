"""A person who is to be erased: by what their rows, and what is left of them elsewhere, are recognised.

Rows are recognised by the value of a subject column, by the key or a further name anywhere in them, or by their digest
(near duplicates, which data/subjects.py finds). Files that are made from rows (reports, logs, predictions) are
recognised by the key, by the names and by *fragments*: pieces of the person's texts that stand in no row that stays.

A key is looked for as a whole word (core/needles.py), and only where it says enough: at least MIN_KEY characters, of
digits MIN_DIGITS. A shorter one is recognised as the value of a subject column alone, since `17` stands in every file.
A column is a subject column in the files whose source names it: `id` may number people in one and tickets in another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from metier.core.fragments import Matcher
from metier.core.needles import Needle, composed, unescaped, written
from metier.core.values import canonical, cells, row_digest, structure, told

ERASED = "(erased)"
MIN_KEY, MIN_DIGITS = 6, 9
_DENSE = 0x2E80
"""From here on in Unicode a character says as much as two letters: Han, Kana, Hangul."""


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

    Where a method takes `columns`, they are the subject columns of the file that the row is from.

    Args:
        key: value of the subject columns.
        columns: names of all subject columns.
        also: further texts that identify the person, such as the name; surrogates that stand for the key.
        rows: digests (`row_digest`) of source rows that are the person's texts without their key.
        ids: ids of the person's examples.
        scopes: `name⇥column` of the files whose sources say which column is the subject's, with an empty column where
            they name none; what no scope names has all columns. Names: see `columns_at`.
        pseudonyms: `id:surrogate` of the examples whose subject column holds what stands for the key, and
            `digest:surrogate` of the versions that they are in. A surrogate alone may be the key of somebody else.
        fragments: pieces of the person's texts that stand in no row that stays.
        words: words that stand in the person's source rows alone.
        made: `vault⇥word` of the words that stand in the person's examples alone, among those that drew from a vault.
    """

    key: str
    columns: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    scopes: frozenset[str] = field(default=frozenset(), repr=False)
    pseudonyms: frozenset[str] = field(default=frozenset(), repr=False)
    fragments: frozenset[str] = field(default=frozenset(), repr=False)
    words: frozenset[str] = field(default=frozenset(), repr=False)
    made: frozenset[str] = field(default=frozenset(), repr=False)

    # ── rows ──

    def columns_at(self, *names: str) -> frozenset[str]:
        """Return the subject columns of the first name that a scope has, all where none has.

        Args:
            names: `/data/rows.csv`, a file or a folder of the project; `=data/rows.csv`, a source as a recipe writes
                it; `rows.csv`, as the place of a row has it.
        """
        return next((self._scopes[name] for name in names if name in self._scopes), self.columns)

    def is_key(self, value: Any) -> bool:
        """Whether a value is the key; 17 and 17.0 are `17`."""
        return self._key in {canonical(text) for text in told(value)}

    def owns(self, row: Any, columns: frozenset[str] | None = None) -> bool:
        """Whether a row (of an example: its `meta`) names the person in a subject column."""
        return self._key in self._said(row, columns)

    def others(self, row: Any, columns: frozenset[str] | None = None) -> bool:
        """Whether a row names somebody else in a subject column: what it has in common with the person's stays."""
        return bool(self._said(row, columns) - {self._key, ""})

    def _said(self, row: Any, columns: frozenset[str] | None) -> set[str]:
        known = row if isinstance(row, Mapping) else {}
        asked = self.columns if columns is None else columns
        return {canonical(text) for column in asked if column in known for text in told(known[column])}

    def in_row(self, row: Any, columns: frozenset[str] | None = None) -> bool:
        """Whether a source row is the person's or names them."""
        return (
            self.owns(row, columns)
            or (bool(self.rows) and row_digest(row) in self.rows and not self.others(row, columns))
            or self.names(row)
        )

    def in_example(self, value: Mapping[str, Any], columns: frozenset[str] | None = None) -> bool:
        """Whether an example as JSON data, or a prediction for one, is the person's or names them.

        Args:
            columns: default: those of the file that its `place` names.
        """
        asked = self.columns_at(*names_of(value.get("place"))) if columns is None else columns
        meta = value.get("meta")
        mine = value.get("id") in self.ids and not self.others(meta, asked)
        return mine or self.owns(meta, asked) or self.stands_in(value, asked) or self.names(value)

    def stands_in(self, value: Mapping[str, Any], columns: frozenset[str] | None = None) -> bool:
        """Whether a subject column of an example holds what stands for the person's key there."""
        return any(f"{value.get('id')}:{said}" in self.pseudonyms for said in self._said(value.get("meta"), columns))

    def in_raw(self, raw: bytes, columns: frozenset[str] | None = None) -> bool:
        """Whether a record that is no row (quarantine) may be the person's: by a field, a name, a text."""
        text = raw.decode("utf-8", "replace")
        value = structure(text)
        if value is not None:
            return self.in_row(value, columns) or self.seen(raw, columns)
        asked = self.columns if columns is None else columns
        values = {canonical(cell) for d in ",;\t|" for line in cells(text, d) for cell in line} if asked else set()
        return self._key in values or self.seen(raw, columns) or row_digest(text) in self.rows

    def names(self, value: Any) -> bool:
        """Whether a text or number of JSON data holds the key (where it says enough) or one of the further texts."""
        return bool(self._names) and self.named("\n".join(told(value)))

    # ── text ──

    def named(self, text: str) -> bool:
        """Whether a text holds the key (where it says enough) or one of the further texts."""
        data = (text if text.isascii() else composed(text)).encode("utf-8", "replace")
        return any(needle.stands_in(data) for needle in self._names)

    def tells(self, data: bytes) -> bool:
        """Whether bytes hold a name or a fragment."""
        if any(needle.stands_in(data) for needle in self._names):
            return True
        matcher = self._matcher
        return matcher is not None and (matcher.any(data) or (rb"\u" in data and matcher.any(unescaped(data))))

    def seen(self, data: bytes, columns: frozenset[str] | None = None) -> bool:
        """Whether bytes hold a name, a fragment, or the key as the value of a subject column."""
        needle = self._in_columns(self.columns if columns is None else columns)
        return self.tells(data) or (needle is not None and needle.stands_in(data))

    def cut_out(self, data: bytes) -> tuple[bytes, int]:
        """Return bytes with every name and fragment in them replaced, and how many there were."""
        num = 0
        for needle in (*self._names, self._in_columns(self.columns)):
            pieces, end = [], 0
            for start, stop in needle.places(data) if needle else ():
                pieces += [data[end:start], ERASED.encode()]
                end = stop
                num += 1
            data = b"".join([*pieces, data[end:]])
        for piece in set(self._matcher.found(data)) if self._matcher else ():
            num += data.count(piece)
            data = data.replace(piece, ERASED.encode())
        return data, num

    def without(self, value: Any) -> tuple[Any, int]:
        """Return JSON data with every text and number that tells of the person replaced, and how many there were."""
        if isinstance(value, list):
            parts = [self.without(part) for part in value]
            return [part for part, _ in parts], sum(n for _, n in parts)
        if isinstance(value, dict):
            count, found = 0, {}
            for name, part in value.items():
                mine = name in self.columns and not isinstance(part, list | dict) and self.is_key(part)
                (new, n), shown = (ERASED, 1) if mine else self.without(part), self.without(name)
                found[shown[0]] = new
                count += n + shown[1]
            return found, count
        return (ERASED, 1) if any(self._is_told(text) for text in told(value)) else (value, 0)

    def _is_told(self, text: str) -> bool:
        return self.seen(text.encode("utf-8", "replace")) or (not text.isascii() and self.named(text))

    @cached_property
    def _key(self) -> str:
        return canonical(self.key)

    @cached_property
    def _scopes(self) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for name, _, column in (scope.rpartition("\t") for scope in self.scopes):
            found.setdefault(name, set()).update({column} - {""})
        return {name: frozenset(columns) for name, columns in found.items()}

    def _in_columns(self, columns: frozenset[str]) -> Needle | None:
        """Return what finds a key that says too little as the value of a column; None where the key is found anyway."""
        if says_enough(self.key) or not columns or not self._key:
            return None
        if columns not in self._by_columns:
            named = b"|".join(re.escape(_json(c)) for c in sorted(columns))
            value = written(self._key, exact=True)
            pattern = re.compile(rb'"(?:%s)"\s*:\s*(?:"\s*)?%s(?!\.\d*[1-9])' % (named, value))
            self._by_columns[columns] = Needle(pattern, '"', self._key[-1])
        return self._by_columns[columns]

    @cached_property
    def _by_columns(self) -> dict[frozenset[str], Needle]:
        return {}

    @cached_property
    def _names(self) -> list[Needle]:
        words = [text for text in (self.key, *sorted(self.also)) if says_enough(text)]
        return [Needle.of(text, exact=text == self.key) for text in words]

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
        sets = {f.name: frozenset(value.get(f.name, ())) for f in fields(cls) if f.name != "key"}
        return cls(str(value["key"]), **sets)


# ───────────────────────────────────────────────────────────────────────────── texts and places


def says_enough(text: str) -> bool:
    """Whether a text can be looked for anywhere: long enough that it is not there by chance."""
    text = composed(text)
    return sum(1 + (ord(c) >= _DENSE) for c in text) >= (MIN_DIGITS if text.isdigit() else MIN_KEY)


def names_of(place: Any) -> tuple[str, ...]:
    """Return the names that the file of a row may have: `rows.csv:12` is in rows.csv, a text is a file of its own."""
    text = str(place or "")
    return (text, text.rpartition(":")[0]) if text else ()


def relative(file: Path, root: Path) -> str:
    """Return a file as a Trace names it."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
