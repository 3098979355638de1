"""Which partition an id belongs to. Whoever produces must use this: a user's events are joined in one place.

Shape suffix: N ids.
"""

from functools import lru_cache

import numpy as np

from recsys.hashing import Keys, hash_to_range, to_id


@lru_cache(maxsize=1 << 16)
def partition_of(id: int | str, num_partitions: int) -> int:
    """The partition of one user (or of the user or item that facts are about): mix64 of its 64-bit id,
    modulo.

    >>> partition_of(7, 4), partition_of("user-7", 4)
    (3, 3)
    """
    return int(hash_to_range(np.array([to_id(id)], dtype=np.int64), num_partitions)[0])


def partitions_of(ids_N: Keys, num_partitions: int) -> Keys:
    """The same for many 64-bit ids at once (strings go through ``recsys.hashing.to_id`` first).

    >>> partitions_of(np.array([7, 8, 9]), 4).tolist() == [partition_of(id, 4) for id in (7, 8, 9)]
    True
    """
    return hash_to_range(ids_N, num_partitions)
