"""How rows lie in a key-value store: one value a row, its version first, so that a late write can not win.

::

    key    recsys:<model>:<run>:<row format>:<group>:<int64, little endian>
    value  <version, float64, big endian> <row, in the run's format or its group's smaller one, little endian>

A value that is only a version is a tombstone. Versions are sequence numbers (exact in a float64 up to 2⁵³), kept as
floats because that is what Redis's Lua compares. Everything of a run lives under one prefix; ``recsys:<model>:current``
names the run that is served.

A row of few bits is published as it is kept in training, int8 with its scale before it: to the bit, where no lazy decay
has moved it between two of its format's numbers.

Shape suffixes: N keys, W row width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError
from recsys.hashing import Floats, Keys, id_text
from recsys.rows.store import RowFormat

VERSION_BYTES = 8
ROW_FORMATS = ("float32", "float16")
_NUMBERS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "i1"}
_MOST, _LEAST_SCALE = np.float32(127), np.float32(2.0**-126)  # of int8: the largest code; the smallest normal scale


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Keys and values of one published run.

    >>> layout = Layout(model="films", run="r1")
    >>> layout.row_keys("item", np.array([258]))
    [b'recsys:films:r1:float32:item:\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00']
    """

    model: str
    run: str
    row_format: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.row_format not in ROW_FORMATS:
            raise ConfigError(f"row_format {self.row_format!r} must be one of {', '.join(ROW_FORMATS)}")
        for name in (self.model, self.run):
            if not name or ":" in name:
                raise ConfigError(f"name {name!r} of a published model must not be empty or hold a ':'")

    @property
    def prefix(self) -> str:
        """What every key of this run starts with."""
        return f"recsys:{self.model}:{self.run}:"

    @property
    def meta_key(self) -> str:
        """The blueprint and the layout, as JSON."""
        return self.prefix + "meta"

    @property
    def versions_key(self) -> str:
        """What was published last, as versioned JSON."""
        return self.prefix + "versions"

    @property
    def numbers_key(self) -> str:
        """The newest version numbers that may be in use, as versioned JSON: written before what uses them."""
        return self.prefix + "numbers"

    @property
    def items_key(self) -> str:
        """Ids of all items with facts: a set of texts (``id_text``) that only grows."""
        return self.prefix + "items"

    def user_key(self, user_id: int | str) -> str:
        """One user's history and profile, as versioned JSON."""
        return f"{self.prefix}user:{id_text(user_id)}"

    def item_key(self, item_id: int | str) -> str:
        """One item's facts, as versioned JSON."""
        return f"{self.prefix}item:{id_text(item_id)}"

    def group_prefix(self, group: str) -> bytes:
        """What the keys of a group's rows start with."""
        return f"{self.prefix}{self.row_format}:{group}:".encode()

    def row_keys(self, group: str, keys_N: Keys) -> list[bytes]:
        """One key a row."""
        prefix = self.group_prefix(group)
        packed = keys_N.astype("<i8").tobytes()
        return [prefix + packed[i : i + 8] for i in range(0, len(packed), 8)]

    def encode_rows(
        self, rows_NW: Floats, versions_N: npt.NDArray[np.int64], kept_as: RowFormat = "float32"
    ) -> list[bytes]:
        """One value a row, of a group ``kept_as`` a format. A number beyond its range becomes the largest it holds."""
        record = self._record(kept_as, rows_NW.shape[1])
        values = np.empty(len(rows_NW), record)
        values["version"] = versions_N
        if "scale" in record.names:
            values["scale"] = np.maximum(np.abs(rows_NW).max(axis=1) / _MOST, _LEAST_SCALE)
            values["row"] = np.clip(np.rint(rows_NW / values["scale"][:, None]), -_MOST, _MOST)
        else:
            values["row"] = _narrowed(rows_NW, record["row"].base)
        packed, size = values.tobytes(), record.itemsize
        return [packed[i : i + size] for i in range(0, len(packed), size)]

    def decode_rows(
        self, values: Sequence[bytes | None], width: int, kept_as: RowFormat = "float32"
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Rows (N, W), and which of them are there: neither missing nor a tombstone."""
        record = self._record(kept_as, width)
        size = record.itemsize
        present_N = np.array([value is not None and len(value) > VERSION_BYTES for value in values], np.bool_)
        found = [value for value in values if value is not None and len(value) > VERSION_BYTES]
        if any(len(value) != size for value in found):
            raise DataError(f"a published row is not {size} bytes long; it was written with another layout")
        read = np.frombuffer(b"".join(found), record)
        rows_NW = np.zeros((len(values), width), np.float32)
        rows_NW[present_N] = _widened(read["row"])
        if "scale" in record.names:
            rows_NW[present_N] *= read["scale"][:, None]
        return rows_NW, present_N

    def _record(self, kept_as: RowFormat, width: int) -> Any:
        """A value's fields: a group of few bits has its own format, any other the run's."""
        row_format = self.row_format if kept_as == "float32" else kept_as
        scale = [("scale", "<f4")] if row_format == "int8" else []
        return np.dtype([("version", ">f8"), *scale, ("row", _NUMBERS[row_format], (width,))])


def _narrowed(rows_NW: Floats, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Rows as numbers of fewer bits, to the nearest; bfloat16, which numpy has not, as the upper half of the bits."""
    if kind.kind == "f":
        limit = np.finfo(kind).max
        return np.clip(rows_NW, -limit, limit).astype(kind)
    bits_NW = rows_NW.view(np.uint32)
    odd_NW = (bits_NW >> np.uint32(16)) & np.uint32(1)
    return ((bits_NW + np.uint32(0x7FFF) + odd_NW) >> np.uint32(16)).astype(kind)


def _widened(numbers_NW: npt.NDArray[Any]) -> Floats:
    """What ``_narrowed`` made, or codes, as float32."""
    if numbers_NW.dtype.kind == "u":
        return (numbers_NW.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return numbers_NW.astype(np.float32)


def pointer_key(model: str) -> str:
    """Names the run that is served."""
    return f"recsys:{model}:current"


def versioned(payload: bytes, version: int) -> bytes:
    """A value that is not a row: its version, then the payload."""
    return np.array(version, ">f8").tobytes() + payload


def payload_of(value: bytes) -> bytes:
    """The value without its version."""
    return value[VERSION_BYTES:]


def tombstone(version: int) -> bytes:
    """What a deleted row leaves, so that an older write can not bring it back."""
    return versioned(b"", version)
