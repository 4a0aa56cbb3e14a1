"""Rows from Parquet files, a few hundred in memory at a time.

Values are what JSON can say (`rows.plain`); times are kept to the microsecond, whichever packages are installed. A
value that cannot be read (a text that is not UTF-8, a year past 9999, an unknown time zone) makes its row a bad one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from metier.core.errors import DataError
from metier.data.rows import BadRow, Row, plain, shown_column, typed
from metier.data.unpacking import bomb, max_unpacked_bytes

BATCH_ROWS = 64
SLICE_BYTES = 64 * 1024 * 1024
"""How much of a batch becomes Python's values at once."""
UNPACKED_FLOOR_BYTES = 1 << 30
"""A column that always says the same packs to nothing, so that more than in other files is taken for honest."""


def read_parquet(file: BinaryIO, name: str, *, binary: bool = False) -> Iterator[Row | BadRow]:
    """Yield one row per record.

    Args:
        binary: bytes that are UTF-8 are read as text (`rows.plain`).

    Raises:
        DataError: E306, the file is damaged or nested too deeply; E308, a column is named twice; E313, a bomb.
    """
    import pyarrow
    import pyarrow.parquet

    left_bytes = max(UNPACKED_FLOOR_BYTES, max_unpacked_bytes(file.seek(0, 2)))
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        _check_names(table.schema_arrow.names, name)
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            num_bytes = _num_bytes(batch)
            left_bytes -= num_bytes
            if left_bytes < 0:
                raise bomb(name)
            batch = _to_microseconds(batch)
            num_rows = max(1, SLICE_BYTES * batch.num_rows // max(num_bytes, 1))
            for start in range(0, batch.num_rows, num_rows):
                for item in _items(batch.slice(start, num_rows), f"{name}:", number, binary):
                    number += 1
                    yield item
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's words, not the format's
        reason = str(error).partition("\n")[0][:120]
        raise DataError(
            306, "The Parquet file is damaged", place=name, received=reason, fix="copy or export it again"
        ) from None


def _num_bytes(batch: Any) -> int:
    """Return how much a batch holds: of a column that points into a dictionary, what it points at, each time."""
    from pyarrow import compute, types

    total = batch.nbytes
    for column in batch.columns:
        if types.is_dictionary(column.type) and types.is_string(column.type.value_type):
            lengths = compute.binary_length(column.dictionary).cast("int64")
            total += compute.sum(compute.take(lengths, column.indices)).as_py() or 0
    return int(total)


def _check_names(names: list[str], place: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            308,
            "The file names a column twice",
            place=place,
            received=", ".join(f"`{shown_column(name)}`" for name in twice),
            expected="one distinct name per column",
            fix="export it with distinct names",
        )


def _to_microseconds(batch: Any) -> Any:
    """Return the batch with its times of nanoseconds cut to microseconds: Python's have no more, pandas' would."""
    for index, field in enumerate(batch.schema):
        if "[ns" in str(field.type):
            column = batch.column(index).cast(_microseconds(field.type), safe=False)
            batch = batch.set_column(index, field.name, column)
    return batch


def _microseconds(kind: Any) -> Any:
    """Return an Arrow type with microseconds in the place of nanoseconds, in lists and structs too."""
    import pyarrow
    from pyarrow import types

    if types.is_list(kind):
        return pyarrow.list_(_microseconds(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([(field.name, _microseconds(field.type)) for field in kind])
    if types.is_timestamp(kind):
        return pyarrow.timestamp("us", kind.tz)
    if types.is_time64(kind):
        return pyarrow.time64("us")
    return pyarrow.duration("us") if types.is_duration(kind) else kind


def _items(batch: Any, place: str, before: int, binary: bool) -> list[Row | BadRow]:
    """Return the rows of a batch; `before` rows of the file came earlier."""
    try:
        records = batch.to_pylist()
    except _unreadable():
        return [_item(batch.slice(i, 1), f"{place}{before + i + 1}", binary) for i in range(batch.num_rows)]
    return [typed(record, f"{place}{before + i + 1}", binary=binary) for i, record in enumerate(records)]


def _item(batch: Any, place: str, binary: bool) -> Row | BadRow:
    """Return the one row of a batch, or what is wrong with its first value that cannot be read."""
    record: dict[str, Any] = {}
    flaws: list[tuple[str, Exception]] = []
    for column_name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[column_name] = column.to_pylist()[0]
        except _unreadable() as error:
            flaws.append((column_name, error))
    if not flaws:
        return typed(record, place, binary=binary)
    raw = repr({key: plain(value) for key, value in record.items()}).encode("utf-8", "backslashreplace")
    field, first = flaws[0]
    if isinstance(first, UnicodeDecodeError):
        return BadRow(place, "not-utf8", "a byte is not UTF-8 (another encoding?)", raw, field)
    return BadRow(place, "unreadable-value", "a value is out of range, or of a type that is not read", raw, field)


def _unreadable() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises where one value cannot be read."""
    import pyarrow

    return (ValueError, OverflowError, KeyError, pyarrow.ArrowException)


__all__ = ["read_parquet"]
