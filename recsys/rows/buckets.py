"""numba kernels of the collisionless index: buckets of five cells, one cache line each.

::

    bucket  64 bytes = eight uint64   key key key key key | slot+1 slot+1 slot+1 slot+1 slot+1 passed (six uint32)

A key's hash names its segment (top 10 bits) and its home bucket there. Cells of a bucket are used from the left. A key
whose home is full lies in the next bucket with room, and every full bucket on the way counts it in ``passed``, eight
counters of four bits of which its hash picks one. A search goes on only past a bucket whose counter is not 0: so most
absent keys are known by one cache line, and a removal takes the count back and leaves no tombstone. A counter that
reaches 15 stays there. An unused cell has slot+1 = 0; whatever key its memory still holds, cells in use come before it.

Searches are done 64 at a time: hash and prefetch all home buckets, then look. One at a time, each would wait for
memory alone: prefetching makes it 4 times as fast. The loops are written out in each kernel: a helper that takes arrays
and branches would have numba count references for every key, which costs more than the search.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.rows.intrinsics import prefetch, trailing_zeros

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Uint32s = npt.NDArray[np.uint32]

SEGMENT_BITS = 10
CELLS = 5
WORDS = 8  # uint64s of a bucket
_SLOTS, _PASSED = 10, 15  # places in a bucket seen as 16 uint32s
_BATCH, _AHEAD, _PASSES = 64, 16, 4
_TO_SEGMENT = np.uint64(64 - SEGMENT_BITS)
_LOW, _32, _30, _27, _31 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(30), np.uint64(27), np.uint64(31)
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_NO_CELL = np.uint64(1 << CELLS)
_TO_COUNTER, _COUNTER = np.uint64(40), np.uint32(15)  # of the hash; of the word
_HALF, _FULL = np.uint64(2), np.uint64(WORDS)


@njit(cache=True, inline="always")
def _hash(key: np.uint64, seed: np.uint64) -> np.uint64:
    """SplitMix64's finaliser."""
    z = key + seed
    z = (z ^ (z >> _30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _27)) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> _31)


@njit(cache=True, inline="always")
def _home(starts: Uint64s, lengths: Uint64s, mixed: np.uint64) -> np.uint64:
    """First word of the home bucket: the low 32 bits of the hash, scaled to the segment's length."""
    segment = mixed >> _TO_SEGMENT
    return (starts[segment] + (((mixed & _LOW) * lengths[segment]) >> _32)) * _FULL


@njit(cache=True, inline="always")
def _next(starts: Uint64s, lengths: Uint64s, mixed: np.uint64, word: np.uint64) -> np.uint64:
    """The bucket after this one; the segment's first after its last."""
    segment = mixed >> _TO_SEGMENT
    word += _FULL
    return starts[segment] * _FULL if word == (starts[segment] + lengths[segment]) * _FULL else word


@njit(cache=True, inline="always")
def _shift(mixed: np.uint64) -> np.uint32:
    """Where a key's counter begins in ``passed``."""
    return np.uint32(((mixed >> _TO_COUNTER) & np.uint64(7)) << _2)


@njit(cache=True, inline="always")
def _goes_on(halves: Uint32s, word: np.uint64, mixed: np.uint64) -> bool:
    """Whether a key of this hash may have passed this bucket."""
    return (halves[word * _HALF + np.uint64(_PASSED)] >> _shift(mixed)) & _COUNTER != 0


@njit(cache=True, inline="always")
def _count(halves: Uint32s, word: np.uint64, mixed: np.uint64, step: int) -> None:
    """Count a key in or out where it passed."""
    shift = _shift(mixed)
    passed = halves[word * _HALF + np.uint64(_PASSED)]
    if (passed >> shift) & _COUNTER != _COUNTER:
        one = np.uint32(1) << shift
        halves[word * _HALF + np.uint64(_PASSED)] = passed + one if step > 0 else passed - one


@njit(cache=True, inline="always")
def _cell(buckets: Uint64s, word: np.uint64, key: np.uint64) -> np.uint64:
    """The first cell that holds the bits of ``key``, or CELLS. Without a branch: which it is can not be predicted."""
    found = (
        np.uint64(buckets[word] == key)
        | (np.uint64(buckets[word + _1] == key) << _1)
        | (np.uint64(buckets[word + _2] == key) << _2)
        | (np.uint64(buckets[word + _3] == key) << _3)
        | (np.uint64(buckets[word + _4] == key) << _4)
        | _NO_CELL
    )
    return trailing_zeros(found)


@njit(cache=True, inline="always")
def _slot(buckets: Uint64s, halves: Uint32s, word: np.uint64, key: np.uint64) -> int:
    """The slot of ``key`` if it is in this bucket, else -1."""
    cell = _cell(buckets, word, key)
    slot = np.int64(halves[word * _HALF + np.uint64(_SLOTS) + cell]) - 1
    return slot if cell < np.uint64(CELLS) else -1


@njit(cache=True, inline="always")
def _used(halves: Uint32s, word: np.uint64) -> int:
    """How many cells of a bucket are in use."""
    cells = word * _HALF + np.uint64(_SLOTS)
    return (
        np.int64(halves[cells] != 0)
        + np.int64(halves[cells + _1] != 0)
        + np.int64(halves[cells + _2] != 0)
        + np.int64(halves[cells + _3] != 0)
        + np.int64(halves[cells + _4] != 0)
    )


@njit(cache=True, inline="always")
def _is_full(halves: Uint32s, word: np.uint64) -> bool:
    """Whether all cells of a bucket are in use."""
    return halves[word * _HALF + np.uint64(_SLOTS + CELLS - 1)] != 0


@njit(cache=True, nogil=True, error_model="numpy")
def find(
    buckets: Uint64s, halves: Uint32s, starts: Uint64s, lengths: Uint64s, seed: np.uint64, keys: Int64s, slots: Int64s
) -> None:
    """Write the slot of each key, or -1."""
    mixed = np.empty(_BATCH, np.uint64)
    words = np.empty(_BATCH, np.uint64)
    elsewhere = np.empty(_BATCH + 1, np.int64)
    for start in range(0, len(keys), _BATCH):
        size = min(_BATCH, len(keys) - start)
        for i in range(size):
            mixed[i] = _hash(np.uint64(keys[start + i]), seed)
            words[i] = _home(starts, lengths, mixed[i])
            prefetch(buckets, np.int64(words[i]))
        late = 0
        for i in range(size):
            slot = _slot(buckets, halves, words[i], np.uint64(keys[start + i]))
            slots[start + i] = slot
            elsewhere[late] = i
            late += (slot < 0) & _goes_on(halves, words[i], mixed[i])
        while late:
            for j in range(late):
                i = elsewhere[j]
                words[i] = _next(starts, lengths, mixed[i], words[i])
                prefetch(buckets, np.int64(words[i]))
            still = 0
            for j in range(late):
                i = elsewhere[j]
                slot = _slot(buckets, halves, words[i], np.uint64(keys[start + i]))
                slots[start + i] = slot
                elsewhere[still] = i
                still += (slot < 0) & _goes_on(halves, words[i], mixed[i])
            late = still


@njit(cache=True, nogil=True, error_model="numpy")
def absent(seed: np.uint64, keys: Int64s, slots: Int64s, part: int, parts: int) -> Int64s:
    """Positions of the keys without a slot whose segment is ``part`` mod ``parts``: one thread's beside others."""
    positions = np.empty(len(keys), np.int64)
    num = 0
    for i in range(len(keys)):
        if slots[i] < 0 and (
            parts == 1 or (_hash(np.uint64(keys[i]), seed) >> _TO_SEGMENT) % np.uint64(parts) == np.uint64(part)
        ):
            positions[num] = i
            num += 1
    return positions[:num]


@njit(cache=True, nogil=True, error_model="numpy")
def insert(
    buckets: Uint64s,
    halves: Uint32s,
    starts: Uint64s,
    lengths: Uint64s,
    seed: np.uint64,
    keys: Int64s,
    positions: Int64s,
    begin: int,
    slots: Int64s,
    freed: Int64s,
    fresh: int,
    taken: int,
    new: Int64s,
    num_new: int,
) -> tuple[int, int]:
    """Find or insert the keys at positions[begin:], writing their slots, and the position of each new one into ``new``.

    The n-th new one takes the slot at place ``taken + n`` of a pool: of ``freed``, and after these of ``fresh``,
    ``fresh + 1``, ... Returns (place reached in ``positions``, num_new): the place of the first key whose segment is
    full, or the end.
    """
    hashes = np.empty(_BATCH, np.uint64)
    homes = np.empty(_BATCH, np.uint64)
    words = np.empty(_BATCH, np.uint64)
    elsewhere = np.empty(_BATCH + 1, np.int64)
    for start in range(begin, len(positions), _BATCH):
        size = min(_BATCH, len(positions) - start)
        for i in range(size):
            hashes[i] = _hash(np.uint64(keys[positions[start + i]]), seed)
            homes[i] = _home(starts, lengths, hashes[i])
            prefetch(buckets, np.int64(homes[i]))
            words[i], elsewhere[i] = homes[i], i
        late = size
        for _ in range(_PASSES):  # where keys will lie that find their home full
            still = 0
            for j in range(late):
                i = elsewhere[j]
                elsewhere[still] = i
                still += _is_full(halves, words[i])
            late = still
            for j in range(late):
                i = elsewhere[j]
                words[i] = _next(starts, lengths, hashes[i], words[i])
                prefetch(buckets, np.int64(words[i]))
        for i in range(size):
            key, mixed, home = np.uint64(keys[positions[start + i]]), hashes[i], homes[i]
            word = home
            slot = _slot(buckets, halves, word, key)
            while slot < 0 and _goes_on(halves, word, mixed):
                word = _next(starts, lengths, mixed, word)
                slot = _slot(buckets, halves, word, key)
            if slot < 0:
                word = home
                cell = _used(halves, word)
                while cell == CELLS:
                    word = _next(starts, lengths, mixed, word)
                    cell = _used(halves, word)
                    if word == home:
                        return start + i, num_new
                place = taken + num_new
                slot = freed[place] if place < len(freed) else fresh + place - len(freed)
                buckets[word + np.uint64(cell)] = key
                halves[word * _HALF + np.uint64(_SLOTS + cell)] = np.uint32(slot + 1)
                while home != word:
                    _count(halves, home, mixed, 1)
                    home = _next(starts, lengths, mixed, home)
                new[num_new] = positions[start + i]
                num_new += 1
            slots[positions[start + i]] = slot
    return len(positions), num_new


@njit(cache=True, nogil=True, error_model="numpy")
def remove(
    buckets: Uint64s, halves: Uint32s, starts: Uint64s, lengths: Uint64s, seed: np.uint64, keys: Int64s, slots: Int64s
) -> None:
    """Remove keys and write the slot each had, or -1. The last used cell of the bucket takes the free place."""
    for i in range(len(keys)):
        if i + _AHEAD < len(keys):
            prefetch(buckets, np.int64(_home(starts, lengths, _hash(np.uint64(keys[i + _AHEAD]), seed))))
        key = np.uint64(keys[i])
        mixed = _hash(key, seed)
        home = _home(starts, lengths, mixed)
        word = home
        slot = _slot(buckets, halves, word, key)
        while slot < 0 and _goes_on(halves, word, mixed):
            word = _next(starts, lengths, mixed, word)
            slot = _slot(buckets, halves, word, key)
        slots[i] = slot
        if slot >= 0:
            cell, last = _cell(buckets, word, key), np.uint64(_used(halves, word) - 1)
            cells = word * _HALF + np.uint64(_SLOTS)
            buckets[word + cell] = buckets[word + last]
            halves[cells + cell] = halves[cells + last]
            halves[cells + last] = 0
            while home != word:
                _count(halves, home, mixed, -1)
                home = _next(starts, lengths, mixed, home)


@njit(cache=True, nogil=True, error_model="numpy")
def move_segments(
    buckets: Uint64s,
    halves: Uint32s,
    starts: Uint64s,
    lengths: Uint64s,
    seed: np.uint64,
    segments: Int64s,
    base: int,
    length: int,
) -> None:
    """Move segments to buckets of nobody's, the n-th to ``length`` of them from ``base + n * length`` on.

    There must be room: more buckets than it had.
    """
    for n in range(len(segments)):
        segment = segments[n]
        old_start, old_length = starts[segment], lengths[segment]
        start = np.uint64(base + n * length)
        starts[segment] = start
        lengths[segment] = np.uint64(length)
        buckets[start * _FULL : (start + np.uint64(length)) * _FULL] = 0
        for bucket in range(old_start, old_start + old_length):
            old = np.uint64(bucket) * _FULL
            for old_cell in range(_used(halves, old)):
                key = buckets[old + np.uint64(old_cell)]
                mixed = _hash(key, seed)
                home = _home(starts, lengths, mixed)
                word = home
                cell = _used(halves, word)
                while cell == CELLS:
                    word = _next(starts, lengths, mixed, word)
                    cell = _used(halves, word)
                buckets[word + np.uint64(cell)] = key
                halves[word * _HALF + np.uint64(_SLOTS + cell)] = halves[old * _HALF + np.uint64(_SLOTS + old_cell)]
                while home != word:
                    _count(halves, home, mixed, 1)
                    home = _next(starts, lengths, mixed, home)


@njit(cache=True, nogil=True, error_model="numpy")
def items(
    buckets: Uint64s,
    halves: Uint32s,
    starts: Uint64s,
    lengths: Uint64s,
    chosen: Uint64s,
    keys: Int64s,
    slots: Int64s,
) -> None:
    """Write every key whose slot's bit is set in ``chosen``, with its slot; the arrays are just long enough."""
    num = 0
    for segment in range(len(starts)):
        for bucket in range(starts[segment], starts[segment] + lengths[segment]):
            word = np.uint64(bucket) * _FULL
            for cell in range(CELLS):
                slot = np.int64(halves[word * _HALF + np.uint64(_SLOTS + cell)]) - 1
                if slot < 0:
                    break
                if (chosen[slot >> 6] >> np.uint64(slot & 63)) & _1 != 0:
                    keys[num] = np.int64(buckets[word + np.uint64(cell)])
                    slots[num] = slot
                    num += 1
