"""The collisionless index: any int64 key to a row slot, no two keys to the same (Monolith, Liu et al. 2022, §3.1).

Monolith uses a cuckoo map of four-slot buckets. Measured here, buckets of five cells that each fill one cache line,
with the overflow in the neighbours, need one memory access for nine keys out of ten where a cuckoo map needs one or
two for each, and fill to 85 %.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.errors import ServiceError
from recsys.hashing import Keys
from recsys.rows import buckets as kernels
from recsys.rows.memory import Reserved
from recsys.rows.parallel import in_parts, in_pieces

Slots = npt.NDArray[np.int64]

_SEGMENTS = 1 << kernels.SEGMENT_BITS
_CELLS = _SEGMENTS * kernels.CELLS  # for each bucket that every segment has
_MAX_LOAD = 0.85
_GROWTH = 1.25  # of the number of buckets: so that they are never less than two thirds full
_MOVING_SHARE = 0.03  # of the cells: when so many keys have come since growth began, all segments have moved
_GAP = 8  # segments that would fit between others: each growth leaves little more than one
_MAX_SLOTS = 2**32 - 2


class _Insertion:
    """One thread's share of an insertion, and how far it has come."""

    def __init__(self, part: int, positions: Slots) -> None:
        self.part, self.positions = part, positions
        self.taken, self.new = 0, positions  # its first place in the pool of slots; where new keys are
        self.done = self.num_new = 0


class CollisionlessIndex:
    """Keys to slots. Slots are small dense integers; those of deleted keys are reused first.

    It grows by a quarter at a time and a few segments at an insertion, so that no insertion waits for the whole of it.
    Segments move in the order of their places: the first of them behind the last, the others to where those before them
    were. So growth takes as much new memory as the index is larger after it, and no more.

    >>> index = CollisionlessIndex()
    >>> slots, new = index.insert(np.array([7, -1, 7, 2**63 - 1]))
    >>> slots.tolist(), new.tolist(), index.find(np.array([-1, 8])).tolist()
    ([0, 1, 0, 2], [0, 1, 3], [1, -1])
    """

    def __init__(self, seed: int = 0, threads: int = 1) -> None:
        self._seed, self._threads = np.uint64(seed % 2**64), threads
        self._memory = Reserved(np.uint64)
        self._buckets = self._memory.array
        self._halves = self._buckets.view(np.uint32)
        self._starts = np.arange(_SEGMENTS, dtype=np.uint64)
        self._lengths = np.ones(_SEGMENTS, np.uint64)
        self._length, self._end = 1, _SEGMENTS  # buckets of a segment of the newest generation; of all of the last one
        self._order = np.arange(_SEGMENTS)  # segments as they move to the newest generation
        self._room = np.zeros(_SEGMENTS, np.int64)  # how many of its segments fit before each of them
        self._num_behind = 0  # of them go behind the last generation
        self._moved = _SEGMENTS  # so many have moved
        self._free, self._num_free = np.empty(0, np.int64), 0
        self.num_slots = 0  # slots ever handed out: the length a row array needs

    @property
    def num_keys(self) -> int:
        """Keys that have a slot."""
        return self.num_slots - self._num_free

    def find(self, keys_N: Keys) -> Slots:
        """The slot of each key, -1 where it has none."""
        slots_N = np.empty(len(keys_N), np.int64)
        in_pieces(
            lambda start, stop: self.find_into(keys_N[start:stop], slots_N[start:stop]), len(keys_N), self._threads
        )
        return slots_N

    def find_into(self, keys_N: Keys, slots_N: Slots) -> None:
        """``find`` into an array, by one thread: others may do the same meanwhile."""
        kernels.find(*self._table, keys_N, slots_N)

    def insert(self, keys_N: Keys, slots_N: Slots | None = None) -> tuple[Slots, Slots]:
        """The slot of each key, new where it had none; and the positions in ``keys_N`` of the first of each new key.

        ``slots_N``: what ``find`` said of these keys, if no key has been deleted since; it is completed.
        """
        slots_N = self.find(keys_N) if slots_N is None else slots_N
        tasks: list[_Insertion] = []

        def begin(part: int, parts: int) -> None:
            tasks.append(_Insertion(part, kernels.absent(self._seed, keys_N, slots_N, part, parts)))

        in_parts(begin, len(keys_N), self._threads)
        return slots_N, self._insert_absent(keys_N, slots_N, sorted(tasks, key=lambda task: task.part))

    def _insert_absent(self, keys_N: Keys, slots_N: Slots, tasks: Sequence[_Insertion]) -> Slots:
        """Insert keys that may repeat, each thread those of its own segments; where new ones are."""
        ends = np.cumsum([len(task.positions) for task in tasks])
        num_absent = int(ends[-1])
        if not num_absent:
            return np.empty(0, np.int64)
        self._grow_for(num_absent)
        freed, fresh = self._slots_for(num_absent)
        new_A = np.empty(num_absent, np.int64)
        for task, end in zip(tasks, ends, strict=True):
            task.taken = int(end) - len(task.positions)
            task.new = new_A[task.taken : end]

        def go_on(part: int, parts: int) -> None:
            for task in tasks[part::parts]:
                task.done, task.num_new = kernels.insert(
                    *self._table, keys_N, task.positions, task.done, slots_N, freed, fresh, task.taken, task.new,
                    task.num_new,
                )  # fmt: skip

        in_parts(go_on, num_absent, self._threads)
        while any(task.done < len(task.positions) for task in tasks):
            self._next_generation(0)  # a segment is full, long before the others
            self._move(_SEGMENTS)
            in_parts(go_on, num_absent, self._threads)
        if sum(task.num_new for task in tasks) == num_absent:
            return new_A
        pool = np.concatenate([freed, np.arange(fresh, self.num_slots)])
        self._take_back(
            np.concatenate([pool[task.taken + task.num_new :][: len(task.new) - task.num_new] for task in tasks])
        )
        return np.concatenate([task.new[: task.num_new] for task in tasks])

    def _slots_for(self, num: int) -> tuple[Slots, int]:
        """So many free slots: those of deleted keys, and the first of those that follow, never handed out before."""
        reused = min(num, self._num_free)
        self._num_free -= reused
        fresh = self.num_slots
        self.num_slots += num - reused
        return self._free[self._num_free : self._num_free + reused], fresh

    def _take_back(self, slots: Slots) -> None:
        """Slots that ``_slots_for`` gave and nobody took: the last ones were never handed out, others are free."""
        slots = slots[::-1]
        last = np.arange(self.num_slots - 1, self.num_slots - 1 - len(slots), -1)
        num_last = int(np.argmin(np.append(slots == last, False)))
        self.num_slots -= num_last
        self._free_slots(slots[num_last:])

    def _free_slots(self, slots: Slots) -> None:
        needed = self._num_free + len(slots)
        if needed > len(self._free):
            self._free = np.concatenate([self._free[: self._num_free], np.empty(needed, np.int64)])
        self._free[self._num_free : needed] = slots
        self._num_free = needed

    def delete(self, keys_U: Keys) -> Slots:
        """Remove keys; returns the slots that those present had, free for reuse from now on."""
        slots_U = np.empty(len(keys_U), np.int64)
        kernels.remove(*self._table, keys_U, slots_U)
        freed = slots_U[slots_U >= 0]
        self._free_slots(freed)
        return freed

    def items(self, chosen: npt.NDArray[np.uint64], num: int) -> tuple[Keys, Slots]:
        """Keys and slots of the ``num`` slots in use whose bit is set, in the index's own order."""
        keys, slots = np.empty(num, np.int64), np.empty(num, np.int64)
        if num:
            kernels.items(self._buckets, self._halves, self._starts, self._lengths, chosen, keys, slots)
        return keys, slots

    @property
    def nbytes(self) -> int:
        """Bytes of the index alone."""
        in_buckets = self._reached * kernels.WORDS * self._buckets.itemsize
        by_segment = (self._starts, self._lengths, self._order, self._room)
        return in_buckets + sum(array.nbytes for array in by_segment) + self._free.nbytes

    @staticmethod
    def bytes_for(num_keys: int) -> int:
        """The bytes that an index of so many keys takes at most, all but surely: segments differ in their share."""
        mean = num_keys / _SEGMENTS
        fullest = max(mean / _MAX_LOAD, mean + 4 * math.sqrt(mean))
        length = max(1, math.ceil(_GROWTH * fullest / kernels.CELLS))
        return 8 * ((_SEGMENTS + _GAP) * kernels.WORDS * length + 4 * _SEGMENTS)

    @property
    def _table(self) -> tuple[kernels.Uint64s, kernels.Uint32s, kernels.Uint64s, kernels.Uint64s, np.uint64]:
        return self._buckets, self._halves, self._starts, self._lengths, self._seed

    def _grow_for(self, num_new: int) -> None:
        """Begin growth where these keys would fill the index, and do this insertion's share of what is under way."""
        if self.num_keys + num_new > _MAX_SLOTS:
            raise ServiceError(f"a row group holds at most {_MAX_SLOTS:,} rows; spread it over more shards")
        if self._moved == _SEGMENTS and self.num_keys + num_new > _MAX_LOAD * _CELLS * self._length:
            self._next_generation(self.num_keys + num_new)
        if self._moved < _SEGMENTS:
            self._move(math.ceil(_SEGMENTS * num_new / (_MOVING_SHARE * _CELLS * self._length)))

    @property
    def _reached(self) -> int:
        """Buckets up to the end of the last one that was ever written."""
        return self._end + self._length * min(self._moved, self._num_behind)

    def _next_generation(self, num_keys: int) -> None:
        """More buckets to each segment, enough for ``num_keys``; segments are still to be moved there."""
        self._move(_SEGMENTS)
        self._end = self._reached
        enough = math.ceil(num_keys / (_MAX_LOAD * _CELLS))
        self._length = max(self._length + 1, round(_GROWTH * self._length), enough)
        self._order = np.argsort(self._starts)
        self._room = self._starts[self._order].astype(np.int64) // self._length
        self._num_behind = int((np.arange(1, _SEGMENTS + 1) - self._room).max())
        self._moved = 0

    def _move(self, num_segments: int) -> None:
        """Move the next so many segments to the newest generation."""
        last = min(_SEGMENTS, self._moved + num_segments)
        while self._moved < last:
            self._move_until(min(last, self._movable))

    @property
    def _movable(self) -> int:
        """Up to where segments can move at once, none of them to where one of them still is."""
        if self._moved < self._num_behind:
            return self._num_behind
        return self._num_behind + int(self._room[self._moved])

    def _move_until(self, end: int) -> None:
        """Move segments side by side."""
        first, length = self._moved, self._length
        base = self._end if first < self._num_behind else -self._num_behind * length

        def move(start: int, stop: int) -> None:
            kernels.move_segments(
                *self._table, self._order[first + start : first + stop], base + (first + start) * length, length
            )

        in_parts(
            lambda part, parts: move((end - first) * part // parts, (end - first) * (part + 1) // parts),
            self.num_keys * (end - first) // _SEGMENTS,
            self._threads,
        )
        self._moved = end
