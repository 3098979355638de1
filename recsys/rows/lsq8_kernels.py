"""numba kernels of rows of int8 whose step is learned: a code a number, times the row's last number, its step.

A float32 row is (code · step …, step), one wider than its codes. The step is a float32 of 17 significant bits, so that
products are exact and a stored row encodes to itself; it too is rounded at random. See ``format_kernels`` for what
kernels share.

Shape suffixes: N slots asked for, U distinct slots, W row width, the step included.
"""

import numpy as np
from numba import njit

from recsys.rows.format_kernels import Codes, Float32s, Int64s, largest_bits, of_step
from recsys.rows.intrinsics import bits_of, draw, float_of, prefetch
from recsys.rows.mixing import mix64

_AHEAD = 24  # rows that are asked for before their turn
_INFINITY = np.uint32(0x7F800000)
_LEAST, _MOST = np.float32(-128), np.float32(127)  # codes
_STEP_CUT = np.uint32(127)
_STEP_LEAST = np.uint32(0x00800000)  # 2^-126
_STEP_LARGEST = np.uint32(0x7B800000)  # 2^120, whose 128-fold is finite


@njit(cache=True, inline="always")
def _step_bits(step: np.float32, carry: np.uint32) -> np.uint32:
    """A step cut to 17 significant bits after adding ``carry``; the least for one that is not above 0."""
    if not step > np.float32(0):
        return _STEP_LEAST
    bits = min(bits_of(step), _STEP_LARGEST)
    return max(np.uint32(np.uint32(bits + carry) & ~_STEP_CUT), _STEP_LEAST)


@njit(cache=True, nogil=True)
def decode_lsq8(values: Codes, steps: Float32s, slots_N: Int64s, rows_NW: Float32s) -> None:
    """(code · step …, step): exact."""
    num_codes = values.shape[1]
    flat = values.reshape(-1)
    for i in range(len(slots_N)):
        if i + _AHEAD < len(slots_N):
            prefetch(flat, slots_N[i + _AHEAD] * num_codes)
            prefetch(steps, slots_N[i + _AHEAD])
        slot = slots_N[i]
        if slot >= 0:
            step = steps[slot]
            for j in range(num_codes):
                rows_NW[i, j] = np.float32(np.int32(values[slot, j])) * step
            rows_NW[i, num_codes] = step


@njit(cache=True, nogil=True)
def encode_lsq8(
    values: Codes, steps: Float32s, slots_U: Int64s, keys_U: Int64s, rows_UW: Float32s, seed: int, step: int
) -> None:
    """To one of the two codes beside a number, the nearer the likelier; what is beyond the codes, to the last one."""
    num_codes = values.shape[1]
    flat = values.reshape(-1)
    stream = of_step(seed, step)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * num_codes)
            prefetch(steps, slots_U[i + _AHEAD])
        slot = slots_U[i]
        mixed = mix64(np.uint64(keys_U[i]) ^ stream, np.uint64(seed))
        low, high = np.uint32(mixed), np.uint32(mixed >> np.uint64(32))
        if largest_bits(rows_UW, i) > _INFINITY:  # a NaN: no code says so, hence the step does
            steps[slot] = np.float32(np.nan)
            for j in range(num_codes):
                values[slot, j] = 0
            continue
        carry = np.uint32(draw(low, high, np.uint32(num_codes)) >> np.uint32(25))
        size = float_of(_step_bits(rows_UW[i, num_codes], carry))
        steps[slot] = size
        for j in range(num_codes):
            codes = min(max(rows_UW[i, j] / size, _LEAST), _MOST)
            whole = np.floor(codes)
            rest = np.int32((codes - whole) * np.float32(2.0**31 - 128))
            above = np.int32(np.int32(draw(low, high, np.uint32(j)) >> np.uint32(1)) < rest)
            values[slot, j] = np.int8(np.int32(whole) + above)


@njit(cache=True, nogil=True)
def nearest_lsq8(values: Codes, steps: Float32s, slots_U: Int64s, rows_UW: Float32s) -> None:
    """To the nearest code, ties to even; what was decoded comes back to the bit."""
    num_codes = values.shape[1]
    for i in range(len(slots_U)):
        slot = slots_U[i]
        if largest_bits(rows_UW, i) > _INFINITY:
            steps[slot] = np.float32(np.nan)
            for j in range(num_codes):
                values[slot, j] = 0
            continue
        size = float_of(_step_bits(rows_UW[i, num_codes], np.uint32(64)))
        steps[slot] = size
        for j in range(num_codes):
            codes = min(max(rows_UW[i, j] / size, _LEAST), _MOST)
            values[slot, j] = np.int8(np.int32(np.rint(codes)))


@njit(cache=True, nogil=True)
def learn_steps(rows_UW: Float32s, steps_U: Float32s, gradients_UW: Float32s, rate: float) -> None:
    """Write the steps after one step of SGD into the last column of rows that have been updated.

    By LSQ's estimate (Esser et al. 2020, equation 3) at v = number / step: the code's derivative by the step is
    round(v) − v within the codes, and the last code beyond them. A step at most halves at once, and so stays above 0.
    """
    last = rows_UW.shape[1] - 1
    for i in range(len(rows_UW)):
        step = steps_U[i]
        slope = np.float32(0)
        for j in range(last):
            codes = rows_UW[i, j] / step
            if codes <= _LEAST:
                slope += _LEAST * gradients_UW[i, j]
            elif codes >= _MOST:
                slope += _MOST * gradients_UW[i, j]
            else:
                slope += (np.rint(codes) - codes) * gradients_UW[i, j]
        rows_UW[i, last] = max(step - np.float32(rate) * slope, step / np.float32(2))
