"""The collisionless index: any int64 key to a row slot, no two keys to the same (Monolith, Liu et al. 2022, §3.1).

Monolith uses a cuckoo map; this is open addressing with linear probing over a mixed hash, at most 60 % full.
Slots are small dense integers; deleted ones are reused first.
"""

import numpy as np
import numpy.typing as npt

from recsys.hashing import Keys
from recsys.rows import kernels

_MAX_LOAD = 0.6
Slots = npt.NDArray[np.int64]


class CollisionlessIndex:
    """Keys to slots.

    >>> index = CollisionlessIndex()
    >>> index.insert(np.array([7, -1, 2**63 - 1])).tolist(), index.find(np.array([-1, 8])).tolist()
    ([0, 1, 2], [1, -1])
    """

    def __init__(self, capacity: int = 1024, seed: int = 0) -> None:
        self._seed = np.uint64(seed % 2**64)
        self._keys, self._slots = _empty_table(capacity)
        self._free = np.empty(0, np.int64)
        self.num_slots = 0  # slots ever handed out: the length a row array needs
        self.num_keys = 0

    def find(self, keys_N: Keys) -> Slots:
        """The slot of each key, -1 where it has none."""
        slots_N = np.empty(len(keys_N), np.int64)
        kernels.find(self._keys, self._slots, self._seed, keys_N, slots_N)
        return slots_N

    def insert(self, keys_U: Keys) -> Slots:
        """The slot of each of these distinct keys, new where it had none."""
        self._make_room(len(keys_U))
        slots_U = np.empty(len(keys_U), np.int64)
        num_free, self.num_slots = kernels.insert(
            self._keys, self._slots, self._seed, keys_U, slots_U, self._free, len(self._free), self.num_slots
        )
        self._free = self._free[:num_free]
        self.num_keys = self.num_slots - num_free
        return slots_U

    def delete(self, keys_U: Keys) -> Slots:
        """Remove keys; returns the slots that those present had, free for reuse from now on."""
        slots_U = np.empty(len(keys_U), np.int64)
        kernels.remove(self._keys, self._slots, self._seed, keys_U, slots_U)
        freed = slots_U[slots_U >= 0]
        self._free = np.concatenate([self._free, freed])
        self.num_keys -= len(freed)
        return freed

    def items(self) -> tuple[Keys, Slots]:
        """All keys and their slots, ordered by slot."""
        used = self._slots >= 0
        keys, slots = self._keys[used], self._slots[used]
        order = np.argsort(slots)
        return keys[order], slots[order]

    @property
    def nbytes(self) -> int:
        """Bytes of the index alone."""
        return int(self._keys.nbytes + self._slots.nbytes + self._free.nbytes)

    def _make_room(self, num_new: int) -> None:
        needed = self.num_keys + num_new
        if needed <= _MAX_LOAD * len(self._keys):
            return
        keys, slots = self.items()
        self._keys, self._slots = _empty_table(2 * needed)
        kernels.place(self._keys, self._slots, self._seed, keys, slots)


def _empty_table(capacity: int) -> tuple[Keys, Slots]:
    length = 1 << max(4, int(np.ceil(np.log2(capacity / _MAX_LOAD))))
    return np.zeros(length, np.int64), np.full(length, kernels.EMPTY, np.int64)
