"""Examples on disk, read when they are asked for: the rows of a preparation, and those of a dataset version.

A line is one example as JSON, the very line that a version's file has, so that a version is written by copying bytes.
What is in memory is where each line begins and how many characters it has: twelve bytes a row. A preparation has one
spool; what a step makes is a *choice* of its lines, an array of their numbers, and a row that a step rewrites is added
to the end. So a step that leaves most rows as they were writes the few others alone.

The steps know nothing of it: `chosen` and `Rewritten` make lists of lists and choices of choices.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metier.core.project import disk_errors
from metier.core.types import Example, from_json, kind_of, to_json
from metier.data.content import num_characters

BUFFER_BYTES = 1 << 20
WATCHED_ROWS = 1000
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_READ = json.JSONDecoder()


def encoded(example: Example) -> bytes:
    """Return the line of an example."""
    return (_JSON.encode(to_json(example)) + "\n").encode("utf-8")


def kind_in(line: bytes) -> str:
    """Return the kind of the example in a line that `encoded` made: the first value of the line."""
    return line.split(b'"', 4)[3].decode()


class Lines(Sequence[Example]):
    """The examples of a JSON Lines file."""

    def __init__(self, file: Path) -> None:
        self._fd = _opened(self, file, os.O_RDONLY)
        self._ends = array("q")
        _scan(self._fd, os.fstat(self._fd).st_size, self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.choice(np.arange(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return from_json(_READ.decode(self.line(index % len(self)).decode("utf-8")))

    def line(self, index: int) -> bytes:
        """Return the bytes of a line, with its end."""
        start = self._ends[index - 1] if index else 0
        return os.pread(self._fd, self._ends[index] - start, start)

    def choice(self, index: ArrayLike) -> Choice:
        """Return some of the examples, by their numbers."""
        return Choice(self, np.asarray(index, dtype=np.int64))


class Spool(Lines):
    """Lines that are added to; the numbers of characters are kept.

    Args:
        file: is made, mode 0600; what it held is gone.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with disk_errors(file):
            self._fd = _opened(self, file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._ends = array("q")
        self._characters = array("I")
        self._waiting = bytearray()
        self._num_bytes = 0
        self._digest = hashlib.sha256()

    @classmethod
    def continued(cls, file: Path, num_bytes: int, sha256: str, characters: NDArray[np.uint32]) -> Spool:
        """Return the spool of an earlier process as it was when `synced` returned these bytes and this digest; what was
        added later is cut off.

        Raises:
            ValueError: the file does not hold what was written.
            OSError: it cannot be read.
        """
        spool = cls.__new__(cls)
        spool.file = file
        spool._fd = _opened(spool, file, os.O_RDWR)
        spool._ends = array("q")
        spool._digest = hashlib.sha256()
        _scan(spool._fd, num_bytes, spool._ends, spool._digest)
        whole = bool(spool._ends) and spool._ends[-1] == num_bytes and len(spool._ends) == len(characters)
        if spool._digest.hexdigest() != sha256 or not (whole or num_bytes == 0):
            raise ValueError(f"{file.name} is not what was written")
        os.ftruncate(spool._fd, num_bytes)
        spool._characters = array("I", characters.astype(np.uint32).tobytes())
        spool._waiting = bytearray()
        spool._num_bytes = num_bytes
        return spool

    @property
    def characters(self) -> NDArray[np.uint32]:
        """How many characters each example has, a copy."""
        return np.frombuffer(self._characters, dtype=np.uint32).copy()

    def characters_of(self, index: NDArray[np.int64]) -> int:
        """Return how many characters some of the examples have together."""
        return int(np.frombuffer(self._characters, dtype=np.uint32)[index].sum(dtype=np.int64))

    def add(self, example: Example) -> int:
        """Add an example and return its number.

        Raises:
            MachineError: E420–E422, of this or of an earlier example.
        """
        line = encoded(example)
        self._waiting += line
        self._ends.append((self._ends[-1] if self._ends else 0) + len(line))
        self._characters.append(num_characters(example))
        if len(self._waiting) > BUFFER_BYTES:
            self._flush()
        return len(self._ends) - 1

    def line(self, index: int) -> bytes:
        """Return the bytes of a line, with its end."""
        if self._ends[index] > self._num_bytes:
            self._flush()
        return super().line(index)

    def taking(self, examples: Sequence[Example]) -> Choice:
        """Return examples as a choice of this spool; what is none yet is added.

        Raises:
            MachineError: E420–E422.
        """
        if isinstance(examples, Choice) and examples.of is self:
            return examples
        return self.choice([self.add(example) for example in examples])

    def synced(self) -> tuple[int, str]:
        """Make what was added last beyond a power cut; return the bytes of the file and their SHA-256.

        Raises:
            MachineError: E420–E422.
        """
        self._flush()
        with disk_errors(self.file):
            os.fsync(self._fd)
        return self._num_bytes, self._digest.hexdigest()

    def _flush(self) -> None:
        with disk_errors(self.file):
            while self._waiting:
                num = os.pwrite(self._fd, self._waiting, self._num_bytes)
                self._digest.update(self._waiting[:num])
                self._num_bytes += num
                del self._waiting[:num]


class Choice(Sequence[Example]):
    """Some lines of a file as examples, in any order and any of them more than once; `numbers` says which.

    Args:
        watch: told how many rows were read, every WATCHED_ROWS of them, when they are read from the first on.
    """

    def __init__(self, lines: Lines, index: NDArray[np.int64], watch: Callable[[int], None] | None = None) -> None:
        self.of = lines
        self.numbers = index
        self._watch = watch
        self._watched = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            self._seen(index.indices(len(self))[0])
            return Choice(self.of, self.numbers[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        self._seen(int(index) % len(self))
        return self.of[int(self.numbers[index])]

    def __iter__(self) -> Iterator[Example]:
        of = self.of
        for number, index in enumerate(self.numbers):
            self._seen(number)
            yield of[int(index)]

    def watched(self, watch: Callable[[int], None]) -> Choice:
        """Return the same examples, of whose reading somebody is told."""
        return Choice(self.of, self.numbers, watch)

    def lines(self) -> Iterator[bytes]:
        """Yield the bytes of each line."""
        for number, index in enumerate(self.numbers):
            self._seen(number)
            yield self.of.line(int(index))

    def _seen(self, number: int) -> None:
        if self._watch and number >= self._watched + WATCHED_ROWS:
            self._watched = number
            self._watch(number)


Examples = Sequence[Example]


# ───────────────────────────────────────────────────────────────────────────── lists and choices alike


def chosen(examples: Examples, rows: Sequence[int] | NDArray[np.int64]) -> Examples:
    """Return the examples with these numbers, in this order: a choice of a choice, a list of anything else."""
    if isinstance(examples, Choice):
        return Choice(examples.of, examples.numbers[np.asarray(rows, dtype=np.int64)])
    return [examples[row] for row in rows]


def joined(parts: Iterable[Examples]) -> Examples:
    """Return several sequences as one: a choice where all of them are choices of one file, else a list."""
    known = [part for part in parts if len(part)]
    choices = [part for part in known if isinstance(part, Choice)]
    if choices and len(choices) == len(known) and all(part.of is choices[0].of for part in choices):
        return Choice(choices[0].of, np.concatenate([part.numbers for part in choices]))
    return [example for part in known for example in part]


def extended(examples: Examples, others: Sequence[Example]) -> Examples:
    """Return examples with others behind them: of a choice of a spool one again, for which the others are added."""
    if isinstance(examples, Choice) and isinstance(examples.of, Spool):
        return Choice(examples.of, np.concatenate([examples.numbers, examples.of.taking(others).numbers]))
    return [*examples, *others]


def characters_in(examples: Examples) -> int:
    """Return how many characters examples have; of a choice of a spool without reading one."""
    if isinstance(examples, Choice) and isinstance(examples.of, Spool):
        return examples.of.characters_of(examples.numbers)
    return sum(map(num_characters, examples))


def lines_of(examples: Examples) -> Iterator[bytes]:
    """Yield the line of each example."""
    return examples.lines() if isinstance(examples, Choice) else map(encoded, examples)


def kinds_in(examples: Examples) -> Iterator[str]:
    """Yield the kind of each example."""
    return map(kind_in, examples.lines()) if isinstance(examples, Choice) else map(kind_of, examples)


class Rewritten:
    """What is made of examples, one by one and in order: rows as they were, and others in the place of rows.

    Of a choice of a spool it is a choice again, and what is new goes to the spool; of anything else it is a list.
    """

    def __init__(self, examples: Examples) -> None:
        self._before: NDArray[np.int64] | None = None
        self._spool: Spool | None = None
        if isinstance(examples, Choice) and isinstance(examples.of, Spool):
            self._before, self._spool = examples.numbers, examples.of
        self._index = array("q")
        self._list: list[Example] = []
        self.origins: list[int] = []

    def __len__(self) -> int:
        return len(self.origins)

    def keep(self, origin: int, example: Example) -> None:
        """Add the example of this number as it was."""
        self.origins.append(origin)
        if self._before is not None:
            self._index.append(int(self._before[origin]))
        else:
            self._list.append(example)

    def add(self, origin: int, example: Example) -> None:
        """Add what was made of the example of this number.

        Raises:
            MachineError: E420–E422.
        """
        self.origins.append(origin)
        if self._spool is not None:
            self._index.append(self._spool.add(example))
        else:
            self._list.append(example)

    @property
    def examples(self) -> Examples:
        """What was made."""
        if self._spool is not None:
            return self._spool.choice(np.frombuffer(self._index, dtype=np.int64).copy())
        return self._list


def replaced(examples: Examples, rows: Sequence[int], others: Examples) -> Examples:
    """Return the examples with others in the place of those with these numbers."""
    if isinstance(examples, Choice) and isinstance(others, Choice):
        index = examples.numbers.copy()
        index[np.asarray(rows, dtype=np.int64)] = others.numbers
        return Choice(examples.of, index)
    kept = list(examples)
    for row, example in zip(rows, others, strict=True):
        kept[row] = example
    return kept


# ───────────────────────────────────────────────────────────────────────────── files


def _opened(owner: Lines, file: Path, flags: int) -> int:
    """Open a file for as long as its owner lives."""
    fd = os.open(file, flags | os.O_CLOEXEC, 0o600)
    weakref.finalize(owner, os.close, fd)
    return fd


def _scan(fd: int, num_bytes: int, ends: array[int], digest: Any = None) -> None:
    """Note where the lines end within the first bytes of a file, and add these to a digest."""
    start = 0
    while start < num_bytes and (data := os.pread(fd, min(BUFFER_BYTES, num_bytes - start), start)):
        breaks = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")) + (start + 1)
        ends.frombytes(breaks.astype(np.int64).tobytes())
        if digest:
            digest.update(data)
        start += len(data)
