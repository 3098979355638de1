"""Ids that wait for their row: counted in bounded memory until they have occurred often enough.

::

    line  64 bytes = eight uint64   key key key key key key key | seven counts of one byte, 0 for an unused cell

A key lies in the line that its hash names, whole, so no two ids share a count and a snapshot can be split by key. Cells
are used from the left in order of arrival. In a full line a newcomer takes the place of the lowest count, of the oldest
of these: it may lose a count that was never high, and never gives an id a row too early.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.hashing import Keys
from recsys.rows.intrinsics import prefetch

Int64s = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint8]

CELLS = 7
LINE_BYTES = 64
_WORDS = LINE_BYTES // 8
_COUNTS = CELLS * 8  # place of the first count in a line seen as 64 bytes
_AHEAD = 16


class Candidates:
    """Occurrences of ids without a row.

    >>> waiting = Candidates(occurrences=3, max_bytes=4096, seed=0)
    >>> waiting.admit(np.array([5, 6]), np.array([2, 3])).tolist()
    [False, True]
    >>> waiting.admit(np.array([5, 7]), np.array([1, 1])).tolist(), waiting.items()[0].tolist()
    ([True, False], [7])
    """

    def __init__(self, *, occurrences: int, max_bytes: int, seed: int) -> None:
        self._occurrences, self._seed = occurrences, np.uint64(seed % 2**64)
        self._num_lines = max(1, max_bytes // LINE_BYTES)
        self._words = np.zeros(self._num_lines * _WORDS, np.uint64)
        self._bytes = self._words.view(np.uint8)

    def admit(self, keys_U: Keys, counts_U: Int64s, step: int = 0) -> npt.NDArray[np.bool_]:
        """Count occurrences of distinct keys without a row; which of them have reached the number, and wait no more."""
        admitted_U = np.zeros(len(keys_U), np.bool_)
        if self._occurrences == 1:
            return ~admitted_U
        _count(self._words, self._bytes, self._seed, keys_U, counts_U, self._occurrences, admitted_U)
        return admitted_U

    def clear(self) -> None:
        """Nobody waits."""
        self._words[:] = 0

    def items(self) -> tuple[Keys, Counts]:
        """The keys that wait and their counts, in an order that ``restore`` keeps."""
        counts = self._bytes.reshape(-1, LINE_BYTES)[:, _COUNTS : _COUNTS + CELLS]
        waiting = counts > 0
        keys = self._words.view(np.int64).reshape(-1, _WORDS)[:, :CELLS]
        return keys[waiting], counts[waiting]

    def restore(self, keys_C: Keys, counts_C: Counts) -> None:
        """Let those wait who waited then, as far as there is room."""
        self.clear()
        unlimited = 256
        _count(
            self._words, self._bytes, self._seed, keys_C, counts_C.astype(np.int64), unlimited,
            np.zeros(len(keys_C), np.bool_),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self._words.nbytes)


@njit(cache=True, inline="always")
def _line(key: np.uint64, seed: np.uint64, num_lines: np.uint64) -> np.uint64:
    """SplitMix64's finaliser, its high half scaled to the number of lines."""
    z = key + seed + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (((z ^ (z >> np.uint64(31))) >> np.uint64(32)) * num_lines) >> np.uint64(32)


@njit(cache=True, nogil=True)
def _count(
    words: npt.NDArray[np.uint64],
    bytes_: Counts,
    seed: np.uint64,
    keys: Int64s,
    counts: Int64s,
    occurrences: int,
    admitted: npt.NDArray[np.bool_],
) -> None:
    """Add counts to keys; those that reach ``occurrences`` leave their line, and are marked."""
    num_lines = np.uint64(len(words) // _WORDS)
    for i in range(len(keys)):
        if i + _AHEAD < len(keys):
            prefetch(words, np.int64(_line(np.uint64(keys[i + _AHEAD]), seed, num_lines)) * _WORDS)
        key = np.uint64(keys[i])
        line = np.int64(_line(key, seed, num_lines))
        first, count_at = line * _WORDS, line * LINE_BYTES + _COUNTS
        used = 0
        found = CELLS
        lowest = 0
        while used < CELLS and bytes_[count_at + used] > 0:
            if words[first + used] == key:
                found = used
            if bytes_[count_at + used] < bytes_[count_at + lowest]:
                lowest = used
            used += 1
        total = counts[i] + (np.int64(bytes_[count_at + found]) if found < CELLS else 0)
        if total >= occurrences:
            admitted[i] = True
        leaves = found if found < CELLS else lowest
        if admitted[i] and found == CELLS:
            continue
        if not admitted[i] and found < CELLS:
            bytes_[count_at + found] = total
            continue
        if admitted[i] or used == CELLS:  # close the gap of the one who leaves
            for cell in range(leaves, used - 1):
                words[first + cell] = words[first + cell + 1]
                bytes_[count_at + cell] = bytes_[count_at + cell + 1]
            used -= 1
            bytes_[count_at + used] = 0
        if not admitted[i]:
            words[first + used] = key
            bytes_[count_at + used] = total
