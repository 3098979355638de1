"""The array index: keys in [0, num_rows) are their own slots.

Behind a parameter server a shard holds the keys of its virtual buckets (bucket = key mod num_buckets) and packs
them, so that the shards together hold each row once.
"""

import numpy as np
import numpy.typing as npt

from recsys.hashing import Keys
from recsys.rows.collisionless import Slots


class ArrayIndex:
    """Keys to slots by arithmetic; a bit per slot says which rows exist. Callers have checked the keys' range.

    >>> index = ArrayIndex(num_rows=10, buckets=range(2, 4), num_buckets=4)  # keys 2, 3, 6, 7
    >>> index.insert(np.array([7, 2]))[0].tolist(), index.find(np.array([2, 3])).tolist()
    ([3, 0], [0, -1])
    """

    def __init__(self, num_rows: int, buckets: range = range(1), num_buckets: int = 1) -> None:
        self._buckets, self._num_buckets = buckets, num_buckets
        self.num_slots = -(-num_rows // num_buckets) * len(buckets)
        self._exists = np.zeros(self.num_slots, np.bool_)
        self.num_keys = 0

    def find(self, keys_N: Keys) -> Slots:
        """The slot of each key, -1 where its row does not exist yet."""
        slots_N = self._slots_of(keys_N)
        return np.where(self._exists[slots_N], slots_N, -1)

    def find_into(self, keys_N: Keys, slots_N: Slots) -> None:
        """``find`` into an array."""
        slots_N[:] = self.find(keys_N)

    def insert(self, keys_N: Keys, slots_N: Slots | None = None) -> tuple[Slots, Slots]:
        """The slot of each key; and the positions in ``keys_N`` of the first of each whose row did not exist yet.

        ``slots_N`` is what a map would not look for again; here they are reckoned.
        """
        slots_N = self._slots_of(keys_N)
        absent = np.flatnonzero(~self._exists[slots_N])
        if len(absent):
            absent = absent[np.sort(np.unique(slots_N[absent], return_index=True)[1])]
            self._exists[slots_N[absent]] = True
            self.num_keys += len(absent)
        return slots_N, absent

    def delete(self, keys_U: Keys) -> Slots:
        """Forget rows; returns the slots of those that existed."""
        slots_U = self.find(keys_U)
        freed = slots_U[slots_U >= 0]
        self._exists[freed] = False
        self.num_keys -= len(freed)
        return freed

    def items(self, chosen: npt.NDArray[np.uint64], num: int) -> tuple[Keys, Slots]:
        """Keys and slots of the ``num`` slots whose bit is set, ordered by slot."""
        bits = np.unpackbits(chosen.view(np.uint8), bitorder="little")
        slots = np.flatnonzero(bits).astype(np.int64)
        quotient, rank = np.divmod(slots, len(self._buckets))
        return quotient * self._num_buckets + self._buckets.start + rank * self._buckets.step, slots

    @property
    def nbytes(self) -> int:
        """Bytes of the index alone."""
        return int(self._exists.nbytes)

    def _slots_of(self, keys_N: Keys) -> Slots:
        quotient, bucket = np.divmod(keys_N, self._num_buckets)
        rank = (bucket - self._buckets.start) // self._buckets.step
        slots: Slots = quotient * len(self._buckets) + rank
        return slots
