"""How the numbers of a published row become bytes, and bytes numbers again: numpy alone, for serving has nothing else.

Each codec writes what the row format of that name in ``recsys.rows.formats`` holds, to the bit: a row that was stored
in it is published without loss.

Shape suffixes: N rows, W row width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.hashing import Floats

VERSION_BYTES = 8
Records = npt.NDArray[np.void]
Fields = list[tuple[Any, ...]]

_MOST = np.float32(127)
_SCALE_CUT = np.uint32(127)  # a scale keeps 17 significant bits: see recsys.rows.format_kernels
_SCALE_LEAST, _SCALE_LARGEST = np.uint32(0x00800000), np.uint32(0x7C010200)
_BRAIN_LARGEST, _BRAIN_NAN = np.uint32(0x7F7F), np.uint32(0x7FC0)
_INFINITY = np.uint32(0x7F800000)
_MOST_16 = np.float32(32767)
_FOURTEEN, _POWER_LARGEST = np.uint32(14 << 23), np.uint32(240 << 23)  # see recsys.rows.int16_kernels
_STEP_LARGEST = np.uint32(0x7B800000)  # see recsys.rows.lsq8_kernels


@dataclass(frozen=True)
class Codec:
    """One row format as bytes: ``fields`` of a row's record after its version, and both directions."""

    name: str
    fields: Callable[[int], Fields]
    encode: Callable[[Floats, Records], None]
    decode: Callable[[Records], Floats]

    def record(self, width: int) -> np.dtype[np.void]:
        """The bytes of one row: its version, a big-endian float64, then its numbers.

        >>> {name: codec.record(16).itemsize for name, codec in CODECS.items()}
        {'float32': 72, 'float16': 40, 'bfloat16': 40, 'int8': 28, 'int16': 44, 'lsq8': 27}
        """
        return np.dtype([("version", ">f8"), *self.fields(width)])


def _put_float32(rows_NW: Floats, records_N: Records) -> None:
    records_N["row"] = np.clip(rows_NW, np.finfo(np.float32).min, np.finfo(np.float32).max)


def _put_float16(rows_NW: Floats, records_N: Records) -> None:
    records_N["row"] = np.clip(rows_NW, np.finfo(np.float16).min, np.finfo(np.float16).max)


def _put_bfloat16(rows_NW: Floats, records_N: Records) -> None:
    """To the nearest, ties to even."""
    bits_NW = np.ascontiguousarray(rows_NW).view(np.uint32)
    magnitudes = bits_NW & np.uint32(0x7FFFFFFF)
    rounded = (magnitudes + np.uint32(0x7FFF) + (magnitudes >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    brains = np.where(magnitudes > _INFINITY, _BRAIN_NAN, np.minimum(rounded, _BRAIN_LARGEST))
    records_N["row"] = brains | (bits_NW & np.uint32(0x80000000)) >> np.uint32(16)


def _get_bfloat16(records_N: Records) -> Floats:
    return (records_N["row"].astype(np.uint32) << np.uint32(16)).view(np.float32)


def _put_int8(rows_NW: Floats, records_N: Records) -> None:
    """To the nearest code of the nearest scale; a NaN makes its whole row NaN."""
    limit = np.finfo(np.float32).max
    rows_NW = np.clip(rows_NW, -limit, limit)
    largest_N = np.abs(rows_NW).max(axis=1, initial=0)
    broken_N = np.isnan(largest_N)
    bits_N = (np.where(broken_N, 0, largest_N).astype(np.float32) / _MOST).view(np.uint32)
    cut_N = (bits_N + np.uint32(64)) & ~_SCALE_CUT
    scales_N = np.clip(cut_N, _SCALE_LEAST, _SCALE_LARGEST).view(np.float32)
    codes_NW = np.rint(np.clip(rows_NW / scales_N[:, None], -_MOST, _MOST))
    records_N["scale"] = np.where(broken_N, np.float32(np.nan), scales_N)
    records_N["row"] = np.where(broken_N[:, None], 0, codes_NW)


def _put_int16(rows_NW: Floats, records_N: Records) -> None:
    """To the nearest code of the least power of two that is enough; a NaN makes its whole row NaN."""
    limit = np.finfo(np.float32).max
    rows_NW = np.clip(rows_NW, -limit, limit)
    largest_N = np.abs(rows_NW).max(axis=1, initial=0)
    broken_N = np.isnan(largest_N)
    bits_N = np.where(broken_N, 0, largest_N).astype(np.float32).view(np.uint32)
    exponents_N = (bits_N + np.uint32(0x1FF)) & _INFINITY
    scale_bits_N = np.maximum(exponents_N, _FOURTEEN) - _FOURTEEN
    scales_N = np.clip(scale_bits_N, _SCALE_LEAST, _POWER_LARGEST).view(np.float32)
    codes_NW = np.rint(np.clip(rows_NW / scales_N[:, None], -_MOST_16, _MOST_16))
    records_N["scale"] = np.where(broken_N, np.float32(np.nan), scales_N)
    records_N["row"] = np.where(broken_N[:, None], 0, codes_NW)


def _put_lsq8(rows_NW: Floats, records_N: Records) -> None:
    """To the nearest code of the row's last number, its step; a NaN makes its whole row NaN."""
    broken_N = np.isnan(rows_NW.max(axis=1, initial=0))
    bits_N = np.where(broken_N, 0, np.maximum(rows_NW[:, -1], 0)).astype(np.float32).view(np.uint32)
    cut_N = (np.minimum(bits_N, _STEP_LARGEST) + np.uint32(64)) & ~_SCALE_CUT
    steps_N = np.maximum(cut_N, _SCALE_LEAST).view(np.float32)
    codes_NW = np.rint(np.clip(rows_NW[:, :-1] / steps_N[:, None], -_MOST - 1, _MOST))
    records_N["scale"] = np.where(broken_N, np.float32(np.nan), steps_N)
    records_N["row"] = np.where(broken_N[:, None], 0, codes_NW)


def _get_lsq8(records_N: Records) -> Floats:
    return np.concatenate([_get_codes(records_N), records_N["scale"].astype(np.float32)[:, None]], axis=1)


def _get_codes(records_N: Records) -> Floats:
    rows_NW: Floats = records_N["row"].astype(np.float32) * records_N["scale"].astype(np.float32)[:, None]
    return rows_NW


def _get_floats(records_N: Records) -> Floats:
    rows_NW: Floats = records_N["row"].astype(np.float32)
    return rows_NW


CODECS: Mapping[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("float32", lambda width: [("row", "<f4", (width,))], _put_float32, _get_floats),
        Codec("float16", lambda width: [("row", "<f2", (width,))], _put_float16, _get_floats),
        Codec("bfloat16", lambda width: [("row", "<u2", (width,))], _put_bfloat16, _get_bfloat16),
        Codec("int8", lambda width: [("scale", "<f4"), ("row", "i1", (width,))], _put_int8, _get_codes),
        Codec("int16", lambda width: [("scale", "<f4"), ("row", "<i2", (width,))], _put_int16, _get_codes),
        Codec("lsq8", lambda width: [("scale", "<f4"), ("row", "i1", (width - 1,))], _put_lsq8, _get_lsq8),
    )
}
