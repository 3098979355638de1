"""numba kernels of the collisionless map: open addressing, linear probing, deletion by backward shift.

A table is two arrays of a power-of-two length: keys and slots, slot -1 marking an empty cell, so that every int64
is a legal key. Compiled at first use and cached on disk beside this file.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

Int64s = npt.NDArray[np.int64]

EMPTY = -1


@njit(cache=True, inline="always")
def _home(key: int, seed: np.uint64, mask: int) -> int:
    """The cell a key is looked for first (SplitMix64's finaliser)."""
    z = np.uint64(key) + seed
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) & np.uint64(mask))  # type: ignore[return-value]


@njit(cache=True)
def find(table_keys: Int64s, table_slots: Int64s, seed: np.uint64, keys: Int64s, slots: Int64s) -> None:
    """Write the slot of each key, or -1."""
    mask = len(table_keys) - 1
    for i in range(len(keys)):
        cell = _home(keys[i], seed, mask)
        while table_slots[cell] != EMPTY and table_keys[cell] != keys[i]:
            cell = (cell + 1) & mask
        slots[i] = table_slots[cell]


@njit(cache=True)
def insert(
    table_keys: Int64s,
    table_slots: Int64s,
    seed: np.uint64,
    keys: Int64s,
    slots: Int64s,
    free: Int64s,
    num_free: int,
    next_slot: int,
) -> tuple[int, int]:
    """Find or insert distinct keys; new ones take slots from ``free`` (a stack), then ``next_slot`` on.

    The caller has made room for all of them. Returns (num_free, next_slot) afterwards.
    """
    mask = len(table_keys) - 1
    for i in range(len(keys)):
        cell = _home(keys[i], seed, mask)
        while table_slots[cell] != EMPTY and table_keys[cell] != keys[i]:
            cell = (cell + 1) & mask
        if table_slots[cell] == EMPTY:
            if num_free > 0:
                num_free -= 1
                table_slots[cell] = free[num_free]
            else:
                table_slots[cell] = next_slot
                next_slot += 1
            table_keys[cell] = keys[i]
        slots[i] = table_slots[cell]
    return num_free, next_slot


@njit(cache=True)
def place(table_keys: Int64s, table_slots: Int64s, seed: np.uint64, keys: Int64s, slots: Int64s) -> None:
    """Put known (key, slot) pairs into a table that has room and holds none of them: how a table grows."""
    mask = len(table_keys) - 1
    for i in range(len(keys)):
        cell = _home(keys[i], seed, mask)
        while table_slots[cell] != EMPTY:
            cell = (cell + 1) & mask
        table_keys[cell] = keys[i]
        table_slots[cell] = slots[i]


@njit(cache=True)
def remove(table_keys: Int64s, table_slots: Int64s, seed: np.uint64, keys: Int64s, slots: Int64s) -> None:
    """Remove keys and write the slot each had, or -1; later cells of a run move back, so no tombstone is left."""
    mask = len(table_keys) - 1
    for i in range(len(keys)):
        cell = _home(keys[i], seed, mask)
        while table_slots[cell] != EMPTY and table_keys[cell] != keys[i]:
            cell = (cell + 1) & mask
        slots[i] = table_slots[cell]
        if table_slots[cell] == EMPTY:
            continue
        hole = cell
        cell = (cell + 1) & mask
        while table_slots[cell] != EMPTY:
            distance = (cell - _home(table_keys[cell], seed, mask)) & mask
            if distance >= ((cell - hole) & mask):  # it may move back: the hole is on its probe path
                table_keys[hole] = table_keys[cell]
                table_slots[hole] = table_slots[cell]
                hole = cell
            cell = (cell + 1) & mask
        table_slots[hole] = EMPTY


@njit(cache=True)
def sum_repeats(inverse: Int64s, values: npt.NDArray[np.float32], sums: npt.NDArray[np.float32]) -> None:
    """sums[inverse[i]] += values[i], in input order, so that the result does not depend on anything else."""
    for i in range(len(inverse)):
        for j in range(values.shape[1]):
            sums[inverse[i], j] += values[i, j]
