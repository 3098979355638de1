"""Many small arrays as one of each type: what a call to a shard costs is mostly the number of arrays it carries.

A step touches some twenty row groups: sent one by one, keys and rows are forty arrays a shard; packed, two.

Shape suffixes: N keys of a group, W row width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.hashing import Floats, Keys
from recsys.rows.store import Gradients


class PackedKeys(NamedTuple):
    """Keys of several groups, end to end."""

    lengths: tuple[tuple[str, int], ...]  # (group, number of keys)
    keys: Keys

    @classmethod
    def of(cls, keys: Mapping[str, Keys]) -> "PackedKeys":
        """Pack keys by group.

        >>> PackedKeys.of({"user": np.array([7]), "item": np.array([1, 2])}).lengths
        (('user', 1), ('item', 2))
        """
        return cls(tuple((name, len(keys_N)) for name, keys_N in keys.items()), _joined(list(keys.values()), np.int64))

    def unpack(self) -> dict[str, Keys]:
        """Keys by group."""
        unpacked, start = {}, 0
        for name, length in self.lengths:
            unpacked[name] = self.keys[start : start + length]
            start += length
        return unpacked


class PackedRows(NamedTuple):
    """Rows (or gradients) of several groups, end to end."""

    shapes: tuple[tuple[str, int, int], ...]  # (group, number of rows, width)
    numbers: Floats

    @classmethod
    def of(cls, rows: Mapping[str, Floats]) -> "PackedRows":
        """Pack rows by group."""
        shapes = tuple((name, *rows_NW.shape) for name, rows_NW in rows.items())
        return cls(shapes, _joined([rows_NW.reshape(-1) for rows_NW in rows.values()], np.float32))

    def unpack(self) -> dict[str, Floats]:
        """Rows by group, as views."""
        unpacked, start = {}, 0
        for name, num_rows, width in self.shapes:
            end = start + num_rows * width
            unpacked[name] = self.numbers[start:end].reshape(num_rows, width)
            start = end
        return unpacked


def _joined(parts: list[npt.NDArray], dtype: type) -> npt.NDArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def gradients_of(keys: Mapping[str, Keys], rows: Mapping[str, Any], counts: Mapping[str, Any]) -> dict[str, Gradients]:
    """What is pushed, of its arrays by group; ``counts`` are of the groups that come with some."""
    return {
        name: (keys_N, rows[name], counts[name]) if name in counts else (keys_N, rows[name])
        for name, keys_N in keys.items()
    }
