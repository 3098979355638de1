"""Feature values as bytes, and the columns of many: of an example, in the order in which its features are declared.

Words of eight bytes: a number is a float64; ids are how many they are, then each of them as an int64. What was packed
is concatenated, kept on disk and turned into columns without a Python object for each id.

Shape suffixes: E examples, W words of all of them, N ids of one feature.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Value = list[int] | float  # ids of an id or bag feature (none where unknown), or a number
Packed = bytes

_MANY = 64
_COUNTED = [struct.Struct(f"<{num + 1}q").pack for num in range(_MANY)]
_WORDS = [struct.Struct(f"<{num}q").unpack for num in range(_MANY)]
pack_number = struct.Struct("<d").pack
_number_at = struct.Struct("<d").unpack_from
_count_at = struct.Struct("<q").unpack_from


def pack_ids(ids: Sequence[Any]) -> Packed:
    """Ids and how many they are; struct.error where one is no int64."""
    num = len(ids)
    return _COUNTED[num](num, *ids) if num < _MANY else struct.pack(f"<{num + 1}q", num, *ids)


def pack_words(words: Sequence[int]) -> bytes:
    """Integers, without how many they are."""
    return struct.pack(f"<{len(words)}q", *words)


def unpack_words(data: bytes) -> tuple[int, ...]:
    """The integers that ``pack_words`` wrote."""
    num = len(data) // 8
    return _WORDS[num](data) if num < _MANY else struct.unpack(f"<{num}q", data)


def pack(values: Iterable[Value]) -> Packed:
    """Values in the order of their features.

    >>> unpack(pack([[7, 9], 0.5, []]), [False, True, False])
    [[7, 9], 0.5, []]
    """
    return b"".join([pack_ids(value) if isinstance(value, list) else pack_number(value) for value in values])


def unpack(packed: Packed, are_numbers: Sequence[bool]) -> list[Value]:
    """What was packed, of features of which some are numbers."""
    values: list[Value] = []
    at = 0
    for is_number in are_numbers:
        if is_number:
            values.append(_number_at(packed, at)[0])
            at += 8
        else:
            (num,) = _count_at(packed, at)
            values.append(list(struct.unpack_from(f"<{num}q", packed, at + 8)))
            at += 8 * (num + 1)
    return values


def columns(packed_E: Sequence[Packed], are_numbers: Sequence[bool]) -> list[pa.Array]:
    """The values of many examples by feature: a float32 column of numbers, a list<int64> column of ids.

    >>> [column.to_pylist() for column in columns([pack([[7, 9], 0.5]), pack([[], 1.0])], [False, True])]
    [[[7, 9], []], [0.5, 1.0]]
    """
    words_W = np.frombuffer(b"".join(packed_E), np.int64)
    ends_E = np.cumsum(np.fromiter(map(len, packed_E), np.int64, len(packed_E))) // 8
    at_E = np.concatenate([np.zeros(1, np.int64), ends_E])[: len(packed_E)]
    found = []
    for is_number in are_numbers:
        if is_number:
            found.append(pa.array(words_W[at_E].view(np.float64).astype(np.float32)))
            at_E = at_E + 1
        else:
            counts_E = words_W[at_E]
            found.append(_lists(words_W, at_E + 1, counts_E))
            at_E = at_E + 1 + counts_E
    return found


def _lists(words_W: npt.NDArray[np.int64], first_E: npt.NDArray[np.int64], counts_E: npt.NDArray[np.int64]) -> pa.Array:
    """So many words of each example from a first one on."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_E)])
    places_N = np.repeat(first_E - offsets[:-1], counts_E) + np.arange(offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(words_W[places_N]))
