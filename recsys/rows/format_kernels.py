"""numba kernels that read and write rows in their storage format: bit patterns, for numba has no half precision.

Every ``decode`` writes float32 rows of slots (a row whose slot is -1 is left as it is); every ``encode`` rounds
stochastically with ``draw``, every ``encode_nearest`` to the nearest, ties to even. NaN stays NaN; what is beyond the
format's range, infinity too, becomes its largest finite number. All calls of one format take the same arguments, so
``scales`` goes unread where a format has none.

Shape suffixes: S slots, N slots asked for, U distinct slots, W row width.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.rows.intrinsics import bits_of, draw, float_of, prefetch
from recsys.rows.mixing import mix64

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bits16 = npt.NDArray[np.uint16]
Codes = npt.NDArray[np.int8]
Codes16 = npt.NDArray[np.int16]

_AHEAD = 24  # rows that are asked for before their turn
_SIGN, _MAGNITUDE = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_LARGEST = np.uint32(0x7F7FFFFF)
_HALF_LARGEST, _HALF_NAN = np.uint32(0x7BFF), np.uint32(0x7E00)
_HALF_NORMAL = np.uint32(0x38800000)  # 2^-14, the smallest normal float16
_BRAIN_LARGEST, _BRAIN_NAN = np.uint32(0x7F7F), np.uint32(0x7FC0)
_EXPONENT_GAP = np.uint32(112 << 23)  # between the exponents' biases: 127 of float32, 15 of float16
_HALF_STEP = np.float32(2.0**-24)  # the distance of float16's subnormals
_MOST = np.float32(127)  # the largest code
# Scales keep 17 significant bits: 127 times one is exact in float32, so that a stored row encodes to itself.
_SCALE_CUT = np.uint32(127)
_SCALE_LEAST = np.uint32(0x00800000)  # 2^-126: a smaller scale would lose bits as a subnormal
_SCALE_LARGEST = np.uint32(0x7C010200)  # the largest whose 127-fold is finite


# --- the parts of one number


@njit(cache=True, inline="always")
def of_step(seed: int, step: int) -> np.uint64:
    """What all draws of a step share."""
    return mix64(np.uint64(step), np.uint64(seed))


@njit(cache=True, inline="always")
def _float_of_half(half: np.uint16) -> np.float32:
    """The float32 that a float16's bits mean; in integers, since subnormals are slow and may be switched off."""
    magnitude = np.uint32(half & np.uint16(0x7FFF))
    bits = np.uint32((magnitude << np.uint32(13)) + _EXPONENT_GAP)
    if magnitude >= np.uint32(0x7C00):  # infinite or NaN
        bits = np.uint32(bits + _EXPONENT_GAP)
    if magnitude < np.uint32(0x0400):  # subnormal
        bits = bits_of(np.float32(np.int32(magnitude)) * _HALF_STEP)
    return float_of(np.uint32(bits | (np.uint32(half & np.uint16(0x8000)) << np.uint32(16))))


@njit(cache=True, inline="always")
def _half(number: np.float32, normal_carry: np.uint32, subnormal: np.uint32) -> np.uint16:
    """The float16 bits of a number: ``normal_carry`` is added below its kept bits, ``subnormal`` is its rounded value
    in steps of 2^-24, for a number below the normal ones."""
    bits = bits_of(number)
    magnitude = np.uint32(bits & _MAGNITUDE)
    half = np.uint32(np.uint32(magnitude - _EXPONENT_GAP + normal_carry) >> np.uint32(13))
    if magnitude < _HALF_NORMAL:
        half = subnormal
    elif magnitude >= np.uint32(0x47800000) or half > _HALF_LARGEST:  # 2^16 and more
        half = _HALF_LARGEST
    if magnitude > _INFINITY:
        half = _HALF_NAN
    return np.uint16(half | (np.uint32(bits & _SIGN) >> np.uint32(16)))


@njit(cache=True, inline="always")
def _half_steps(number: np.float32) -> np.float32:
    """A magnitude below float16's normal ones in steps of 2^-24, in [0, 1024); 0 for others."""
    magnitude = np.uint32(bits_of(number) & _MAGNITUDE)
    if magnitude >= _HALF_NORMAL:
        magnitude = np.uint32(0)
    return float_of(magnitude) * np.float32(2.0**24)


@njit(cache=True, inline="always")
def _brain(number: np.float32, carry: np.uint32) -> np.uint16:
    """The bfloat16 bits of a number, after ``carry`` is added to the bits that are cut off."""
    bits = bits_of(number)
    magnitude = np.uint32(bits & _MAGNITUDE)
    brain = min(np.uint32(np.uint32(magnitude + carry) >> np.uint32(16)), _BRAIN_LARGEST)
    if magnitude > _INFINITY:
        brain = _BRAIN_NAN
    return np.uint16(brain | (np.uint32(bits & _SIGN) >> np.uint32(16)))


@njit(cache=True, inline="always")
def _scale_bits(largest: np.uint32, carry: np.uint32) -> np.uint32:
    """The scale of a row by the bits of its largest magnitude, cut to 17 significant bits after adding ``carry``."""
    quotient = bits_of(float_of(min(largest, _LARGEST)) / _MOST)
    cut = np.uint32(np.uint32(quotient + carry) & ~_SCALE_CUT)
    return min(max(cut, _SCALE_LEAST), _SCALE_LARGEST)


@njit(cache=True, inline="always")
def largest_bits(rows_UW: Float32s, i: int) -> np.uint32:
    """The bits of a row's largest magnitude; above infinity's where one is NaN."""
    largest = np.uint32(0)
    for j in range(rows_UW.shape[1]):
        largest = max(largest, np.uint32(bits_of(rows_UW[i, j]) & _MAGNITUDE))
    return largest


# --- rows


@njit(cache=True, nogil=True)
def decode_float32(values: Float32s, scales: Float32s, slots_N: Int64s, rows_NW: Float32s) -> None:
    """rows_NW[i] = values[slots_N[i]]."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for i in range(len(slots_N)):
        if i + _AHEAD < len(slots_N):
            prefetch(flat, slots_N[i + _AHEAD] * width)
        slot = slots_N[i]
        if slot >= 0:
            for j in range(width):
                rows_NW[i, j] = values[slot, j]


@njit(cache=True, nogil=True)
def decode_float16(values: Bits16, scales: Float32s, slots_N: Int64s, rows_NW: Float32s) -> None:
    """Rows of float16, given as their bits."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for i in range(len(slots_N)):
        if i + _AHEAD < len(slots_N):
            prefetch(flat, slots_N[i + _AHEAD] * width)
        slot = slots_N[i]
        if slot >= 0:
            for j in range(width):
                rows_NW[i, j] = _float_of_half(values[slot, j])


@njit(cache=True, nogil=True)
def decode_bfloat16(values: Bits16, scales: Float32s, slots_N: Int64s, rows_NW: Float32s) -> None:
    """Rows of bfloat16, given as their bits: the upper half of a float32."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for i in range(len(slots_N)):
        if i + _AHEAD < len(slots_N):
            prefetch(flat, slots_N[i + _AHEAD] * width)
        slot = slots_N[i]
        if slot >= 0:
            for j in range(width):
                rows_NW[i, j] = float_of(np.uint32(np.uint32(values[slot, j]) << np.uint32(16)))


@njit(cache=True, nogil=True)
def decode_codes(values: Codes | Codes16, scales: Float32s, slots_N: Int64s, rows_NW: Float32s) -> None:
    """code * scale of its row: exact."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for i in range(len(slots_N)):
        if i + _AHEAD < len(slots_N):
            prefetch(flat, slots_N[i + _AHEAD] * width)
            prefetch(scales, slots_N[i + _AHEAD])
        slot = slots_N[i]
        if slot >= 0:
            scale = scales[slot]
            for j in range(width):
                rows_NW[i, j] = np.float32(np.int32(values[slot, j])) * scale


@njit(cache=True, nogil=True)
def encode_float32(
    values: Float32s, scales: Float32s, slots_U: Int64s, keys_U: Int64s, rows_UW: Float32s, seed: int, step: int
) -> None:
    """values[slots_U[i]] = rows_UW[i]; nothing is rounded."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * width)
        slot = slots_U[i]
        for j in range(width):
            values[slot, j] = rows_UW[i, j]


@njit(cache=True, nogil=True)
def encode_float16(
    values: Bits16, scales: Float32s, slots_U: Int64s, keys_U: Int64s, rows_UW: Float32s, seed: int, step: int
) -> None:
    """To one of the two neighbours, the nearer the likelier."""
    width = values.shape[1]
    flat = values.reshape(-1)
    stream = of_step(seed, step)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * width)
        slot = slots_U[i]
        mixed = mix64(np.uint64(keys_U[i]) ^ stream, np.uint64(seed))
        low, high = np.uint32(mixed), np.uint32(mixed >> np.uint64(32))
        for j in range(width):
            drawn = draw(low, high, np.uint32(j))
            steps = _half_steps(rows_UW[i, j])
            whole = np.int32(steps)
            rest = np.int32((steps - np.float32(whole)) * np.float32(2.0**31))
            above = np.int32(np.int32(drawn >> np.uint32(1)) < rest)
            values[slot, j] = _half(rows_UW[i, j], np.uint32(drawn >> np.uint32(19)), np.uint32(whole + above))


@njit(cache=True, nogil=True)
def encode_bfloat16(
    values: Bits16, scales: Float32s, slots_U: Int64s, keys_U: Int64s, rows_UW: Float32s, seed: int, step: int
) -> None:
    """To one of the two neighbours, the nearer the likelier."""
    width = values.shape[1]
    flat = values.reshape(-1)
    stream = of_step(seed, step)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * width)
        slot = slots_U[i]
        mixed = mix64(np.uint64(keys_U[i]) ^ stream, np.uint64(seed))
        low, high = np.uint32(mixed), np.uint32(mixed >> np.uint64(32))
        for j in range(width):
            values[slot, j] = _brain(rows_UW[i, j], np.uint32(draw(low, high, np.uint32(j)) >> np.uint32(16)))


@njit(cache=True, nogil=True)
def encode_int8(
    values: Codes, scales: Float32s, slots_U: Int64s, keys_U: Int64s, rows_UW: Float32s, seed: int, step: int
) -> None:
    """Scale and codes, both rounded to one of two neighbours, the nearer the likelier."""
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
        scale_bits = _scale_bits(largest, np.uint32(draw(low, high, np.uint32(width)) >> np.uint32(25)))
        scale = float_of(scale_bits)
        scales[slot] = scale
        # without a code 127 the row would get another scale, and other codes, when it is encoded again
        pinned = largest if scale_bits > _SCALE_LEAST else _SIGN
        for j in range(width):
            magnitude = np.uint32(bits_of(rows_UW[i, j]) & _MAGNITUDE)
            steps = min(float_of(magnitude) / scale, _MOST)
            whole = np.int32(steps)
            rest = np.int32((steps - np.float32(whole)) * np.float32(2.0**31))
            code = whole + np.int32(np.int32(draw(low, high, np.uint32(j)) >> np.uint32(1)) < rest)
            if magnitude == pinned:
                code = np.int32(127)
            values[slot, j] = -code if rows_UW[i, j] < np.float32(0) else code


@njit(cache=True, nogil=True)
def nearest_float32(values: Float32s, scales: Float32s, slots_U: Int64s, rows_UW: Float32s) -> None:
    """values[slots_U[i]] = rows_UW[i]."""
    for i in range(len(slots_U)):
        slot = slots_U[i]
        for j in range(values.shape[1]):
            values[slot, j] = rows_UW[i, j]


@njit(cache=True, nogil=True)
def nearest_float16(values: Bits16, scales: Float32s, slots_U: Int64s, rows_UW: Float32s) -> None:
    """To the nearest float16, ties to even."""
    for i in range(len(slots_U)):
        slot = slots_U[i]
        for j in range(values.shape[1]):
            odd = np.uint32(bits_of(rows_UW[i, j]) >> np.uint32(13)) & np.uint32(1)
            whole = np.int32(np.rint(_half_steps(rows_UW[i, j])))
            values[slot, j] = _half(rows_UW[i, j], np.uint32(np.uint32(0xFFF) + odd), np.uint32(whole))


@njit(cache=True, nogil=True)
def nearest_bfloat16(values: Bits16, scales: Float32s, slots_U: Int64s, rows_UW: Float32s) -> None:
    """To the nearest bfloat16, ties to even."""
    for i in range(len(slots_U)):
        slot = slots_U[i]
        for j in range(values.shape[1]):
            odd = np.uint32(bits_of(rows_UW[i, j]) >> np.uint32(16)) & np.uint32(1)
            values[slot, j] = _brain(rows_UW[i, j], np.uint32(np.uint32(0x7FFF) + odd))


@njit(cache=True, nogil=True)
def nearest_int8(values: Codes, scales: Float32s, slots_U: Int64s, rows_UW: Float32s) -> None:
    """To the nearest code of the nearest scale; what was decoded comes back to the bit."""
    for i in range(len(slots_U)):
        slot = slots_U[i]
        largest = largest_bits(rows_UW, i)
        if largest > _INFINITY:
            scales[slot] = np.float32(np.nan)
            for j in range(values.shape[1]):
                values[slot, j] = 0
            continue
        scale = float_of(_scale_bits(largest, np.uint32(64)))
        scales[slot] = scale
        for j in range(values.shape[1]):
            steps = min(max(rows_UW[i, j] / scale, -_MOST), _MOST)
            values[slot, j] = np.int8(np.int32(np.rint(steps)))
