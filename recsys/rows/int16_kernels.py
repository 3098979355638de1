"""numba kernels of rows of int16: a code a number, and a power of two a row that all codes are multiplied by.

Such a scale loses up to one of the sixteen bits, and nothing else: products with it are exact, so that rounding at
random has no bias at all, and a row that was stored encodes to itself. See ``format_kernels`` for what kernels share.

Shape suffixes: U distinct slots, W row width.
"""

import numpy as np
from numba import njit

from recsys.rows.format_kernels import Codes16, Float32s, Int64s, largest_bits, of_step
from recsys.rows.intrinsics import bits_of, draw, float_of, prefetch
from recsys.rows.mixing import mix64

_AHEAD = 24  # rows that are asked for before their turn
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_LARGEST = np.uint32(0x7F7FFFFF)
_MOST = np.float32(32767)  # the largest code
_CARRY = np.uint32(0x1FF)  # lifts what is above 32767 / 16384 of a power of two to the next one
_FOURTEEN = np.uint32(14 << 23)  # 2^14: codes of a row's largest are that and more
_SCALE_LEAST = np.uint32(0x00800000)  # 2^-126
_SCALE_LARGEST = np.uint32(240 << 23)  # 2^113, the largest whose 32767-fold is finite


@njit(cache=True, inline="always")
def _scale_bits(largest: np.uint32) -> np.uint32:
    """The least power of two whose 32767-fold is not below a row's largest magnitude."""
    exponent = np.uint32(np.uint32(min(largest, _LARGEST) + _CARRY) & _INFINITY)
    if exponent <= _FOURTEEN:
        return _SCALE_LEAST
    return min(max(np.uint32(exponent - _FOURTEEN), _SCALE_LEAST), _SCALE_LARGEST)


@njit(cache=True, nogil=True)
def encode_int16(
    values: Codes16, scales: Float32s, slots_U: Int64s, keys_U: Int64s, rows_UW: Float32s, seed: int, step: int
) -> None:
    """To one of the two codes beside a number, the nearer the likelier."""
    width = values.shape[1]
    flat = values.reshape(-1)
    stream = of_step(seed, step)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * width)
            prefetch(scales, slots_U[i + _AHEAD])
        slot = slots_U[i]
        mixed = mix64(np.uint64(keys_U[i]) ^ stream, np.uint64(seed))
        low, high = np.uint32(mixed), np.uint32(mixed >> np.uint64(32))
        largest = largest_bits(rows_UW, i)
        if largest > _INFINITY:  # a NaN: no code says so, hence the scale does
            scales[slot] = np.float32(np.nan)
            for j in range(width):
                values[slot, j] = 0
            continue
        scale = float_of(_scale_bits(largest))
        scales[slot] = scale
        for j in range(width):
            magnitude = np.uint32(bits_of(rows_UW[i, j]) & _MAGNITUDE)
            steps = min(float_of(magnitude) / scale, _MOST)
            whole = np.int32(steps)
            rest = np.int32((steps - np.float32(whole)) * np.float32(2.0**31))
            code = whole + np.int32(np.int32(draw(low, high, np.uint32(j)) >> np.uint32(1)) < rest)
            values[slot, j] = -code if rows_UW[i, j] < np.float32(0) else code


@njit(cache=True, nogil=True)
def nearest_int16(values: Codes16, scales: Float32s, slots_U: Int64s, rows_UW: Float32s) -> None:
    """To the nearest code, ties to even; what was decoded comes back to the bit."""
    for i in range(len(slots_U)):
        slot = slots_U[i]
        largest = largest_bits(rows_UW, i)
        if largest > _INFINITY:
            scales[slot] = np.float32(np.nan)
            for j in range(values.shape[1]):
                values[slot, j] = 0
            continue
        scale = float_of(_scale_bits(largest))
        scales[slot] = scale
        for j in range(values.shape[1]):
            steps = min(max(rows_UW[i, j] / scale, -_MOST), _MOST)
            values[slot, j] = np.int16(np.int32(np.rint(steps)))
