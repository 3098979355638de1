"""Ids without a row, by what their gradients say of their importance: HotSketch (CAFE, Zhang et al. 2024, section 3.2).

::

    bucket  four cells   key, score, error

A key lies in the bucket that its hash names, whole. A newcomer to a full bucket takes the place of the lowest score, of
the first of these, and begins with it (SpaceSaving, Metwally et al. 2005): what is important stays, whatever comes
between. ``error`` is what a score began with, so that score − error is what is certain. Cells are used from the left.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.hashing import Floats, Keys
from recsys.rows.intrinsics import prefetch
from recsys.rows.mixing import mix64
from recsys.rows.policies import SKETCH_BUCKET_BYTES, SKETCH_CELLS

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

_AHEAD = 16


class HotSketch:
    """Scores of ids.

    >>> waiting = HotSketch(max_bytes=64, seed=0)
    >>> waiting.add(np.array([5, 6, 7, 8]), np.array([4, 1, 3, 2], np.float32)).tolist()
    [4.0, 1.0, 3.0, 2.0]
    >>> waiting.add(np.array([9, 5]), np.array([0.5, 1], np.float32)).tolist()  # 9 in the place of 6
    [0.5, 5.0]
    >>> waiting.remove(np.array([5]))
    >>> [part.tolist() for part in waiting.items()]
    [[9, 7, 8], [1.5, 3.0, 2.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, *, max_bytes: int, seed: int) -> None:
        num_buckets, self._seed = max(1, max_bytes // SKETCH_BUCKET_BYTES), np.uint64(seed % 2**64)
        self._keys = np.zeros((num_buckets, SKETCH_CELLS), np.int64)
        self._scores = np.zeros((num_buckets, SKETCH_CELLS), np.float32)  # 0 for a cell that is not used
        self._errors = np.zeros((num_buckets, SKETCH_CELLS), np.float32)

    def add(self, keys_A: Keys, scores_A: Floats) -> Floats:
        """Add to the scores of distinct keys; what is certain of each, float32 (A,). A score of 0 leaves no trace."""
        certain_A = np.zeros(len(keys_A), np.float32)
        _add(self._keys, self._scores, self._errors, self._seed, keys_A, scores_A, certain_A)
        return certain_A

    def remove(self, keys_A: Keys) -> None:
        """These wait no more; others are ignored."""
        _remove(self._keys, self._scores, self._errors, self._seed, keys_A)

    def scale(self, factor: float) -> None:
        """Multiply all scores; what becomes 0 is forgotten."""
        keys_C, scores_C, errors_C = self.items()
        kept_C = scores_C * np.float32(factor) > 0
        self.restore(keys_C[kept_C], scores_C[kept_C] * np.float32(factor), errors_C[kept_C] * np.float32(factor))

    def items(self) -> tuple[Keys, Floats, Floats]:
        """The keys that wait, their scores and errors, in an order that ``restore`` keeps."""
        waiting = self._scores > 0
        return self._keys[waiting], self._scores[waiting], self._errors[waiting]

    def restore(self, keys_C: Keys, scores_C: Floats, errors_C: Floats) -> None:
        """Let those wait who waited then, as far as there is room."""
        self._scores[:] = 0
        _restore(self._keys, self._scores, self._errors, self._seed, keys_C, scores_C, errors_C)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self._keys.nbytes + self._scores.nbytes + self._errors.nbytes)


@njit(cache=True, inline="always")
def _bucket(key: np.int64, seed: np.uint64, num_buckets: np.uint64) -> np.int64:
    """The high half of the key's hash, scaled to the number of buckets."""
    return np.int64(((mix64(np.uint64(key), seed) >> np.uint64(32)) * num_buckets) >> np.uint64(32))


@njit(cache=True, inline="always")
def _cell(keys: Int64s, scores: Float32s, bucket: np.int64, key: np.int64) -> int:
    """The cell of a key; where it has none, the first free one, or in a full bucket that of the lowest score."""
    lowest = 0
    for cell in range(SKETCH_CELLS):
        if scores[bucket, cell] == np.float32(0) or keys[bucket, cell] == key:
            return cell
        if scores[bucket, cell] < scores[bucket, lowest]:
            lowest = cell
    return lowest


@njit(cache=True, nogil=True)
def _add(
    keys: Int64s, scores: Float32s, errors: Float32s, seed: np.uint64, keys_A: Int64s, scores_A: Float32s,
    certain_A: Float32s,
) -> None:  # fmt: skip
    """Add to keys; ``certain_A`` is what each score is beyond its error."""
    num_buckets, flat = np.uint64(len(keys)), keys.reshape(-1)
    for i in range(len(keys_A)):
        if i + _AHEAD < len(keys_A):
            prefetch(flat, _bucket(keys_A[i + _AHEAD], seed, num_buckets) * SKETCH_CELLS)
        if not scores_A[i] > np.float32(0):
            continue
        bucket = _bucket(keys_A[i], seed, num_buckets)
        cell = _cell(keys, scores, bucket, keys_A[i])
        if scores[bucket, cell] == np.float32(0) or keys[bucket, cell] != keys_A[i]:
            keys[bucket, cell] = keys_A[i]
            errors[bucket, cell] = scores[bucket, cell]
        scores[bucket, cell] += scores_A[i]
        certain_A[i] = scores[bucket, cell] - errors[bucket, cell]


@njit(cache=True, nogil=True)
def _remove(keys: Int64s, scores: Float32s, errors: Float32s, seed: np.uint64, keys_A: Int64s) -> None:
    """Close the gaps of those who leave."""
    num_buckets = np.uint64(len(keys))
    for i in range(len(keys_A)):
        bucket = _bucket(keys_A[i], seed, num_buckets)
        cell = _cell(keys, scores, bucket, keys_A[i])
        if scores[bucket, cell] == np.float32(0) or keys[bucket, cell] != keys_A[i]:
            continue
        for at in range(cell, SKETCH_CELLS - 1):
            keys[bucket, at], scores[bucket, at] = keys[bucket, at + 1], scores[bucket, at + 1]
            errors[bucket, at] = errors[bucket, at + 1]
        scores[bucket, SKETCH_CELLS - 1] = np.float32(0)


@njit(cache=True, nogil=True)
def _restore(
    keys: Int64s, scores: Float32s, errors: Float32s, seed: np.uint64, keys_C: Int64s, scores_C: Float32s,
    errors_C: Float32s,
) -> None:  # fmt: skip
    """Put keys back in their order; where a bucket is too small, the highest scores stay."""
    num_buckets = np.uint64(len(keys))
    for i in range(len(keys_C)):
        bucket = _bucket(keys_C[i], seed, num_buckets)
        cell = _cell(keys, scores, bucket, keys_C[i])
        if scores_C[i] > scores[bucket, cell]:
            keys[bucket, cell], scores[bucket, cell], errors[bucket, cell] = keys_C[i], scores_C[i], errors_C[i]
