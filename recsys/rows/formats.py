"""Row formats: how the numbers of a row lie in memory, and how float32 goes in and out.

Optimizers see float32 alone: a push decodes the touched rows, updates them, and encodes them back. The low formats are
rounded stochastically, so that updates smaller than a format's step still add up (Gupta et al. 2015, section 3.1, for
training; its random bits here are a function of (seed, key, step, column) and nothing else: the same on any number of
shards and threads).

Shape suffixes: S slots, N slots asked for, U distinct slots, W row width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.hashing import Floats, Keys
from recsys.rows import format_kernels as kernels
from recsys.rows import int16_kernels, lsq8_kernels

Stored = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row format: ``values`` (S, W) of ``dtype`` and, where it has them, one float32 scale a row.

    NaN stays NaN (in those with scales for its whole row). Numbers beyond the range, infinity too, become the largest
    finite one. What ``decode`` gave, either encoding stores again to the bit.

    >>> half = FORMATS["float16"]
    >>> values, scales = half.empty(num_slots=4, width=2)
    >>> half.encode_nearest(values, scales, np.array([3]), np.array([[0.1, -70000]], np.float32))
    >>> rows = np.full((2, 2), 9, np.float32)
    >>> half.decode(values, scales, np.array([3, -1]), rows)
    >>> rows.tolist()
    [[0.0999755859375, -65504.0], [9.0, 9.0]]
    """

    name: str
    dtype: np.dtype[Any]
    has_scales: bool = False
    learns_step: bool = False  # the last number of a row is its scale, and the store learns it
    _bits: np.dtype[Any] = field(repr=False)  # what the kernels see in place of dtype
    _decode: Callable[..., None] = field(repr=False)
    _encode: Callable[..., None] = field(repr=False)
    _nearest: Callable[..., None] = field(repr=False)

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of ``width`` numbers, its scale included.

        >>> {name: format.row_bytes(16) for name, format in FORMATS.items()}
        {'float32': 64, 'float16': 32, 'bfloat16': 32, 'int8': 20, 'int16': 36}
        """
        return self.num_values(width) * self.dtype.itemsize + (4 if self.has_scales else 0)

    def num_values(self, width: int) -> int:
        """How many of a row's ``width`` numbers are among its ``values``: all but a learned step."""
        return width - self.learns_step

    def empty(self, num_slots: int, width: int) -> tuple[Stored, Floats]:
        """Zeros: values (num_slots, W) of ``dtype`` and scales (num_slots,), or (0,) where it has none."""
        values = np.zeros((num_slots, self.num_values(width)), self.dtype)
        return values, np.zeros(num_slots if self.has_scales else 0, np.float32)

    def decode(self, values: Stored, scales: Floats, slots_N: Keys, rows_NW: Floats) -> None:
        """Write the float32 rows of int64 slots into ``rows_NW``; a row whose slot is -1 is left as it is."""
        self._decode(values.view(self._bits), scales, slots_N, rows_NW)

    def encode(
        self, values: Stored, scales: Floats, slots_U: Keys, keys_U: Keys, rows_UW: Floats, seed: int, step: int
    ) -> None:
        """Store float32 rows at distinct slots, each number in one of its two neighbours, the nearer the likelier.

        The expectation is the number itself (to 2^-31 of a step; in int8, for numbers within 2^-16 of the row's
        largest, to 2^-16 of it). ``seed`` and ``step`` are at least 0 and below 2^63.
        """
        self._encode(values.view(self._bits), scales, slots_U, keys_U, rows_UW, seed, step)

    def encode_nearest(self, values: Stored, scales: Floats, slots_U: Keys, rows_UW: Floats) -> None:
        """Store float32 rows at distinct slots, each number in its nearest, ties to even: for initial rows, restoring.

        Rows of a snapshot, which ``decode`` gave, come back to the bit, scales included.
        """
        self._nearest(values.view(self._bits), scales, slots_U, rows_UW)


_FLOAT32 = Format(
    name="float32",
    dtype=np.dtype(np.float32),
    _bits=np.dtype(np.float32),
    _decode=kernels.decode_float32,
    _encode=kernels.encode_float32,
    _nearest=kernels.nearest_float32,
)
_FLOAT16 = Format(
    name="float16",
    dtype=np.dtype(np.float16),
    _bits=np.dtype(np.uint16),
    _decode=kernels.decode_float16,
    _encode=kernels.encode_float16,
    _nearest=kernels.nearest_float16,
)
_BFLOAT16 = Format(  # numpy has no such type: its bits
    name="bfloat16",
    dtype=np.dtype(np.uint16),
    _bits=np.dtype(np.uint16),
    _decode=kernels.decode_bfloat16,
    _encode=kernels.encode_bfloat16,
    _nearest=kernels.nearest_bfloat16,
)
_INT8 = Format(  # code * scale, scale = largest / 127
    name="int8",
    dtype=np.dtype(np.int8),
    has_scales=True,
    _bits=np.dtype(np.int8),
    _decode=kernels.decode_codes,
    _encode=kernels.encode_int8,
    _nearest=kernels.nearest_int8,
)
_INT16 = Format(  # code * scale, scale a power of two
    name="int16",
    dtype=np.dtype(np.int16),
    has_scales=True,
    _bits=np.dtype(np.int16),
    _decode=kernels.decode_codes,
    _encode=int16_kernels.encode_int16,
    _nearest=int16_kernels.nearest_int16,
)
FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (_FLOAT32, _FLOAT16, _BFLOAT16, _INT8, _INT16)}

LSQ8 = Format(  # code * step, the step in the row's last column
    name="lsq8",
    dtype=np.dtype(np.int8),
    has_scales=True,
    learns_step=True,
    _bits=np.dtype(np.int8),
    _decode=lsq8_kernels.decode_lsq8,
    _encode=lsq8_kernels.encode_lsq8,
    _nearest=lsq8_kernels.nearest_lsq8,
)
