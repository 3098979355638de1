"""Sum a push's gradients by row: repeated keys become one gradient, in the order of the push.

Slots are grouped by their high bits, in one pass of a counting sort; a group's slots are few enough that a table of
them all, and the sums, stay in the CPU's cache. A sort by slot takes three passes for the same.

Shape suffixes: N slots asked for, P places of those that have a row, G groups, U distinct slots, W row width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.hashing import Floats
from recsys.rows.intrinsics import prefetch
from recsys.rows.parallel import in_pieces

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Float32s = npt.NDArray[np.float32]

_GROUPS_BITS = 10
_BLOCK = 4096  # rows whose gradients are summed, and then applied while they are in the CPU's cache
_AHEAD = 32  # gradients that are asked for before their turn
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


class Summed(NamedTuple):
    """Distinct slots, the first position of each, and the sum of its gradients; the next block overwrites them."""

    slots_U: Int64s
    positions_U: Int64s
    sums_UW: Floats


class SlotGroups:
    """The places of a push by groups of their slots: slot in the high half, position in the low."""

    def __init__(self, slots_N: Int64s, num_slots: int, threads: int) -> None:
        self._shift = max(0, (num_slots - 1).bit_length() - _GROUPS_BITS)
        counts: dict[int, Int64s] = {}

        def count(start: int, stop: int) -> None:
            counts[start] = _count(slots_N[start:stop], self._shift)

        def place(start: int, stop: int) -> None:
            _place(slots_N[start:stop], start, begins[start], self._shift, self._places_P)

        in_pieces(count, len(slots_N), threads)
        begins = dict(zip(sorted(counts), _begins(np.stack([counts[start] for start in sorted(counts)])), strict=True))
        self._ends_G = np.cumsum(sum(counts.values()))
        self._places_P = np.empty(int(self._ends_G[-1]), np.uint64)
        in_pieces(place, len(slots_N), threads)

    def blocks(self, part: int, parts: int, gradients_NW: Floats) -> Iterator[Summed]:
        """One of ``parts`` of about equally many places, a block of rows at a time."""
        sizes_G = np.diff(self._ends_G, prepend=0)
        middles_G = self._ends_G - sizes_G // 2
        group, last = np.searchsorted(middles_G, len(self._places_P) * np.arange(part, part + 2) // parts).tolist()
        group, last = 0 if part == 0 else group, len(sizes_G) if part == parts - 1 else last
        rows = max(_BLOCK, min(1 << self._shift, int(sizes_G[group:last].max(initial=0))))
        rows = min(rows, int(sizes_G[group:last].sum()))
        ranks = np.zeros(1 << self._shift, np.uint32)
        slots_U, positions_U = np.empty(rows, np.int64), np.empty(rows, np.int64)
        sums_UW = np.empty((rows, gradients_NW.shape[1]), np.float32)
        while group < last:
            group, num = _sum(
                self._places_P, self._ends_G, group, last, gradients_NW, ranks, slots_U, positions_U, sums_UW
            )
            yield Summed(slots_U[:num], positions_U[:num], sums_UW[:num])


@njit(cache=True, nogil=True, error_model="numpy")
def _count(slots_N: Int64s, shift: int) -> Int64s:
    """How many slots each group has; slots of -1 are nobody's."""
    counts_G = np.zeros((1 << _GROUPS_BITS) + 1, np.int64)
    for i in range(len(slots_N)):
        counts_G[(slots_N[i] >> shift) + 1] += 1
    return counts_G[1:]


@njit(cache=True, nogil=True, error_model="numpy")
def _begins(counts_PG: Int64s) -> Int64s:
    """Where the places of each part begin in each group: groups one after the other, parts in order within each."""
    begins_PG = np.empty_like(counts_PG)
    total = 0
    for group in range(counts_PG.shape[1]):
        for part in range(len(counts_PG)):
            begins_PG[part, group] = total
            total += counts_PG[part, group]
    return begins_PG


@njit(cache=True, nogil=True, error_model="numpy")
def _place(slots_N: Int64s, first: int, begins_G: Int64s, shift: int, places_P: Uint64s) -> None:
    """Write each slot with its position, from ``first`` on, to the next place of its group."""
    for i in range(len(slots_N)):
        if slots_N[i] >= 0:
            group = slots_N[i] >> shift
            places_P[begins_G[group]] = (np.uint64(slots_N[i]) << _32) | np.uint64(first + i)
            begins_G[group] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _sum(
    places_P: Uint64s,
    ends_G: Int64s,
    group: int,
    last: int,
    gradients_NW: Float32s,
    ranks: npt.NDArray[np.uint32],
    slots_U: Int64s,
    positions_U: Int64s,
    sums_UW: Float32s,
) -> tuple[int, int]:
    """From ``group`` on, each distinct slot, its first position, and the sum of its gradients in the push's order.

    ``ranks``, of the slots of a group, is zero before and after. Returns the group reached, and how many slots were
    written: those of as many groups as surely fit.
    """
    width, flat = gradients_NW.shape[1], gradients_NW.reshape(-1)
    in_group = np.uint64(len(ranks) - 1)
    num = 0
    while group < last:
        begin, end = ends_G[group - 1] if group > 0 else 0, ends_G[group]
        if num + min(end - begin, len(ranks)) > len(slots_U):
            break
        first = num
        for at in range(begin, end):
            if at + _AHEAD < len(places_P):
                prefetch(flat, np.int64(places_P[at + _AHEAD] & _LOW) * width)
            slot, position = places_P[at] >> _32, np.int64(places_P[at] & _LOW)
            rank = np.int64(ranks[slot & in_group]) - 1
            if rank < 0:
                slots_U[num], positions_U[num] = np.int64(slot), position
                for j in range(width):
                    sums_UW[num, j] = gradients_NW[position, j]
                num += 1
                ranks[slot & in_group] = num
            else:
                for j in range(width):
                    sums_UW[rank, j] += gradients_NW[position, j]
        for u in range(first, num):
            ranks[np.uint64(slots_U[u]) & in_group] = 0
        group += 1
    return group, num
