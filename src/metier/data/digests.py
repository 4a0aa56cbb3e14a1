"""Which of many things are equal, at sixteen bytes each: an array of digests, where a dict would fill the memory.

Two different things among a million share a BLAKE2b digest of 128 bits with a probability of 10⁻²⁷.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

BYTES = 16


class Digests:
    """Digests of N things, U of them different."""

    def __init__(self) -> None:
        self._all = bytearray()

    def __len__(self) -> int:
        return len(self._all) // BYTES

    def add(self, data: bytes) -> None:
        """Add a thing by its bytes."""
        self._all += hashlib.blake2b(data, digest_size=BYTES).digest()

    def numbered(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of each thing (N): equal ones share it, 0 is the first one's; and where each number comes
        first (U)."""
        low_N, high_N = np.frombuffer(self._all, dtype=np.uint64).reshape(-1, 2).T
        order_N = np.lexsort((high_N, low_N))  # stable: of equal ones the first stays in front
        low_N, high_N = low_N[order_N], high_N[order_N]
        new_N = np.ones(len(order_N), dtype=bool)
        new_N[1:] = (low_N[1:] != low_N[:-1]) | (high_N[1:] != high_N[:-1])
        first_U = order_N[new_N]
        number_U = np.empty(len(first_U), dtype=np.int64)
        number_U[np.argsort(first_U)] = np.arange(len(first_U))
        number_N = np.empty(len(order_N), dtype=np.int64)
        number_N[order_N] = number_U[np.cumsum(new_N) - 1]
        return number_N, np.sort(first_U)
