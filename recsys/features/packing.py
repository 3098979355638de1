"""Feature values as bytes, and the columns of many: of an example, in the order in which its features are declared.

Words of eight bytes: a number is a float64; ids are how many they are, then each of them as an int64. What was packed
is concatenated, kept on disk and turned into columns (``features.columns``) without a Python object for each id.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

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
