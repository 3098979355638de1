"""numba kernels over slots: begin rows, note their changes, put a push's gradients in the order of their slots.

Shape suffixes: N slots asked for, U distinct ones, P places of a part of them, A new rows, W row width, S state width.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.rows.intrinsics import prefetch
from recsys.rows.mixing import mix64

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Uint32s = npt.NDArray[np.uint32]
Float32s = npt.NDArray[np.float32]

AHEAD = 24  # rows that are asked for before their turn
_40, _16, _24_BITS = np.uint64(40), np.uint64(16), np.uint64(0xFFFFFF)


@njit(cache=True, nogil=True, error_model="numpy")
def ascends(keys_N: Int64s) -> bool:
    """Whether every key is greater than the one before it: no key occurs twice."""
    ascending = True
    for i in range(1, len(keys_N)):
        ascending &= keys_N[i] > keys_N[i - 1]
    return ascending


@njit(cache=True, nogil=True, error_model="numpy")
def stamp(steps: Uint32s, slots_U: Int64s, step: int) -> None:
    """Note that rows changed."""
    for i in range(len(slots_U)):
        if i + AHEAD < len(slots_U):
            prefetch(steps, slots_U[i + AHEAD])
        steps[slots_U[i]] = np.uint32(step)


@njit(cache=True, nogil=True, error_model="numpy")
def count_uses(uses: npt.NDArray[np.uint16], slots_N: Int64s, counts_N: Int64s) -> bool:
    """Add counts to slots (-1: nobody's); whether one has reached the most that it can."""
    most = np.int64(0)
    for i in range(len(slots_N)):
        if slots_N[i] >= 0:
            total = min(np.int64(uses[slots_N[i]]) + counts_N[i], np.int64(65535))
            uses[slots_N[i]] = total
            most = max(most, total)
    return most == 65535


@njit(cache=True, nogil=True, error_model="numpy")
def between(steps: Uint32s, num_slots: int, after: int, up_to: int) -> tuple[Uint64s, int]:
    """A bit for each slot, set where ``after`` < step <= ``up_to``; and how many are set."""
    chosen = np.zeros((num_slots + 63) // 64, np.uint64)
    num = 0
    for slot in range(num_slots):
        inside = (steps[slot] > after) & (steps[slot] <= up_to)
        chosen[slot >> 6] |= np.uint64(inside) << np.uint64(slot & 63)
        num += np.int64(inside)
    return chosen, num


@njit(cache=True, inline="always")
def _number(bits: np.uint64) -> np.float32:
    """24 bits as a float32 in [-1, 1)."""
    return np.float32(bits) * np.float32(2.0**-23) - np.float32(1)


@njit(cache=True, nogil=True, error_model="numpy")
def begin_uniform(
    values: Float32s, slots_A: Int64s, keys_A: Int64s, pairs_P: Uint64s, seed: np.uint64, scale: np.float32
) -> None:
    """values[slots_A] = ``hashing.uniform`` of the keys times ``scale``, to the bit."""
    width = values.shape[1]
    for i in range(len(slots_A)):
        base, slot = mix64(np.uint64(keys_A[i]), seed), slots_A[i]
        for pair in range(width // 2):
            mixed = mix64(base ^ pairs_P[pair], seed)
            values[slot, 2 * pair] = _number(mixed >> _40) * scale
            values[slot, 2 * pair + 1] = _number((mixed >> _16) & _24_BITS) * scale
        if width % 2:
            values[slot, width - 1] = _number(mix64(base ^ pairs_P[width // 2], seed) >> _40) * scale


@njit(cache=True, nogil=True, error_model="numpy")
def fill(state: Float32s, slots_A: Int64s, fresh_S: Float32s) -> None:
    """state[slots_A] = fresh_S."""
    for i in range(len(slots_A)):
        for j in range(state.shape[1]):
            state[slots_A[i], j] = fresh_S[j]
