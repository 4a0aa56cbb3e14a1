"""How the tests of sources read a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.core.errors import DataError
from metier.data.rows import BadRow, Row
from metier.data.source import read_rows


def read(path: Path) -> tuple[list[Row], list[BadRow]]:
    """Return the good rows and the bad ones of a file."""
    found = list(read_rows(path))
    return [r for r in found if isinstance(r, Row)], [b for b in found if isinstance(b, BadRow)]


def refused(path: Path) -> DataError:
    """Return the error by which a file is refused."""
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return caught.value
