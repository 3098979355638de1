"""Packed feature values of many examples as Arrow columns. Apart from packing: serving packs, and needs no Arrow.

Shape suffixes: E examples, W words of all of them, N ids of one feature.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.packing import Packed


def columns(packed_E: Sequence[Packed], are_numbers: Sequence[bool]) -> list[pa.Array]:
    """The values of many examples by feature: a float32 column of numbers, a list<int64> column of ids.

    >>> from recsys.features.packing import pack
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
