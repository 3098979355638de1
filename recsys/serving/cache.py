"""Rows kept in this process for a stated time: an optional cache in front of Redis.

Direct-mapped: a key has one place, and what comes there last stays. So a lookup of thousands of keys is a few calls of
numpy, and memory is bounded.

Shape suffixes: N keys, S places, W row width.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from recsys.hashing import Floats, Keys, mix64

_SEED = 0xCACE


class RowCache:
    """Rows of one group, each at most ``max_age_seconds`` old since it was read.

    >>> cache = RowCache(num_places=8, width=2, max_age_seconds=5, clock=lambda: 100.0)
    >>> cache.put(np.array([7]), np.array([[1, 2]], np.float32), read_at=96.0)
    >>> rows, fresh = cache.get(np.array([7, 8]))
    >>> rows[0].tolist(), fresh.tolist()
    ([1.0, 2.0], [True, False])
    """

    def __init__(
        self, num_places: int, width: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys_S = np.zeros(num_places, np.int64)
        self._read_at_S = np.full(num_places, -np.inf)
        self._rows_SW = np.zeros((num_places, width), np.float32)
        self._max_age_seconds, self._clock = max_age_seconds, clock
        self._lock = threading.Lock()

    def get(self, keys_N: Keys) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Rows (N, W), and which of them are here and fresh; the others hold anything."""
        places_N = self._places(keys_N)
        oldest = self._clock() - self._max_age_seconds
        with self._lock:
            fresh_N = (self._keys_S[places_N] == keys_N) & (self._read_at_S[places_N] > oldest)
            return self._rows_SW[places_N], fresh_N

    def put(self, keys_N: Keys, rows_NW: Floats, read_at: float) -> None:
        """Keep rows that were asked for at ``read_at`` of the clock: before Redis answered, not after."""
        places_N = self._places(keys_N)
        with self._lock:
            self._keys_S[places_N] = keys_N
            self._rows_SW[places_N] = rows_NW
            self._read_at_S[places_N] = read_at

    def _places(self, keys_N: Keys) -> npt.NDArray[np.int64]:
        return (mix64(keys_N, _SEED) % np.uint64(len(self._keys_S))).astype(np.int64)
