"""Bucket maps: which ids share a row, decided beforehand (by a graph, by counts) and looked up ever after.

A map is made by ``jobs.cluster``, kept in a file (``bucket_files``), and read into the blueprint as JSON, so that it
goes with every checkpoint and publication: whoever rebuilds the recommender has it, wherever the file is.

Shape suffix: N ids.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys import hashing
from recsys.errors import DataError, unknown
from recsys.hashing import Keys

FORMAT = 1
_WINDOW_BYTES = 8  # read at once around a code; the array ends with that much room
_MOST_BITS = 32
Bytes = npt.NDArray[np.uint8]


class PackedCodes:
    """``num_codes`` whole numbers of ``bits`` bits each, one after the other, low bits first.

    >>> packed = PackedCodes.of(np.array([5, 0, 6]), bits=3)
    >>> packed.at(np.array([2, 0])).tolist(), packed.nbytes
    ([6, 5], 10)
    """

    def __init__(self, data: Bytes, num_codes: int, bits: int) -> None:
        self.data, self.num_codes, self.bits = np.ascontiguousarray(data, np.uint8), num_codes, bits
        needed = self.bytes_of(num_codes, bits)
        if not 1 <= bits <= _MOST_BITS or len(self.data) != needed:
            raise DataError(
                f"{num_codes} codes of {bits} bits need {needed} bytes, {len(self.data)} found; make it anew"
            )
        self._mask = np.uint64(2**bits - 1)
        # every eight bytes from every byte on: a code begins in one of them and ends in the same
        self._windows = np.ndarray(len(self.data) - _WINDOW_BYTES + 1, "<u8", self.data.data, strides=(1,))

    @classmethod
    def of(cls, codes_N: Keys, bits: int) -> "PackedCodes":
        """Pack codes in [0, 2^bits)."""
        single = np.empty((len(codes_N), bits), np.uint8)
        for bit in range(bits):
            single[:, bit] = (codes_N >> bit) & 1
        data = np.zeros(cls.bytes_of(len(codes_N), bits), np.uint8)
        packed = np.packbits(single.reshape(-1), bitorder="little")
        data[: len(packed)] = packed
        return cls(data, len(codes_N), bits)

    @staticmethod
    def bytes_of(num_codes: int, bits: int) -> int:
        """Bytes that so many codes take."""
        return (num_codes * bits + 7) // 8 + _WINDOW_BYTES

    def at(self, places_N: Keys) -> Keys:
        """The codes at some places, int64 (N,)."""
        first_bits_N = places_N * self.bits
        windows_N = self._windows[first_bits_N >> 3] >> (first_bits_N & 7).astype(np.uint64)
        return (windows_N & self._mask).astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.data.nbytes


class Buckets:
    """The buckets of one table's ids 0 … num_ids − 1.

    The first ``num_own`` buckets have one id each, the others are shared. An id without a bucket, or outside, is hashed
    into those that are shared (into all, where none is).

    >>> buckets = Buckets.of(np.array([1, 1, 0, -1]), num_buckets=2)
    >>> buckets.keys(np.array([0, 1, 2]), salt=7).tolist()
    [1, 1, 0]
    """

    def __init__(self, codes: PackedCodes, num_buckets: int, num_own: int = 0) -> None:
        if not (num_buckets >= 1 and 0 <= num_own <= num_buckets):
            raise DataError(f"a bucket map of {num_buckets} buckets, {num_own} of them own, can not be; make it anew")
        self.codes, self.num_buckets, self.num_own = codes, num_buckets, num_own
        self.first_shared = num_own if num_own < num_buckets else 0

    @classmethod
    def of(cls, buckets_N: Keys, num_buckets: int, num_own: int = 0) -> "Buckets":
        """Pack the bucket of every id; -1 is none. DataError for a bucket that is not there."""
        outside_N = (buckets_N < -1) | (buckets_N >= num_buckets)
        if outside_N.any():
            raise DataError(f"bucket {buckets_N[outside_N][0]} is outside [0, {num_buckets}); number buckets from 0")
        codes_N = np.where(buckets_N < 0, num_buckets, buckets_N)  # the code after the last bucket says: none
        return cls(PackedCodes.of(codes_N, int(num_buckets).bit_length()), num_buckets, num_own)

    @property
    def num_ids(self) -> int:
        """Ids that the map was made for."""
        return self.codes.num_codes

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.codes.nbytes

    def buckets(self, ids_N: Keys) -> Keys:
        """The bucket of each id, int64 (N,); -1 where it has none."""
        inside_N = (ids_N >= 0) & (ids_N < self.num_ids)
        if not self.num_ids:
            return np.full(len(ids_N), -1, np.int64)
        codes_N = self.codes.at(np.where(inside_N, ids_N, 0))
        return np.where(inside_N & (codes_N < self.num_buckets), codes_N, -1)

    def keys(self, ids_N: Keys, salt: int) -> Keys:
        """The row of each id, int64 (N,): its bucket's, or one by hash."""
        buckets_N = self.buckets(ids_N)
        return np.where(buckets_N < 0, self.hashed(ids_N, salt), buckets_N)

    def hashed(self, ids_N: Keys, salt: int) -> Keys:
        """A shared row by hash, int64 (N,)."""
        return self.first_shared + hashing.hash_to_range(ids_N, self.num_buckets - self.first_shared, salt)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "num_ids": self.num_ids,
            "num_buckets": self.num_buckets,
            "num_own": self.num_own,
            "codes": base64.b64encode(self.codes.data.tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Buckets":
        """What ``to_json`` described."""
        data = np.frombuffer(base64.b64decode(fields["codes"], validate=True), np.uint8)
        codes = PackedCodes(data, fields["num_ids"], int(fields["num_buckets"]).bit_length())
        return cls(codes, fields["num_buckets"], fields["num_own"])


@dataclass(frozen=True, kw_only=True)
class BucketMap:
    """The buckets of several tables, and how they were found.

    ``data`` names the data set, ``fingerprint`` is that of the edges; ``gamma`` and ``modularity`` are of methods that
    cluster a graph; ``user_gamma`` is the users' resolution, where they are clustered at one of their own. ``labels``:
    the cluster of each bucket of both sides, where they were clustered together: what later ids need to join one. -1 of
    buckets of one id alone.
    """

    method: str
    data: str
    fingerprint: str
    seed: int
    tables: Mapping[str, Buckets]
    gamma: float | None = None
    modularity: float | None = None
    user_gamma: float | None = None
    labels: Mapping[str, list[int]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tables' maps."""
        return sum(buckets.nbytes for buckets in self.tables.values())

    @property
    def num_buckets(self) -> int:
        """Rows of all tables."""
        return sum(buckets.num_buckets for buckets in self.tables.values())

    def about(self) -> dict[str, Any]:
        """How it was found: all but the tables."""
        return {
            "format": FORMAT,
            "method": self.method,
            "data": self.data,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "gamma": self.gamma,
            "modularity": self.modularity,
            "user_gamma": self.user_gamma,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the checksum of all of them."""
        said = {**self.about(), "tables": {name: buckets.to_json() for name, buckets in self.tables.items()}}
        if self.labels is not None:
            said["labels"] = dict(self.labels)
        return {**said, "sha256": _checksum(said)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "BucketMap":
        """The map that ``to_json`` described; DataError where it is another, or none."""
        said = {name: value for name, value in saved.items() if name != "sha256"}
        if saved.get("format") != FORMAT:
            raise unknown("format of a bucket map", saved.get("format"), [FORMAT])
        if saved.get("sha256") != _checksum(said):
            raise DataError("a bucket map has changed since it was made (its checksum differs); make it anew")
        tables = {name: Buckets.from_json(fields) for name, fields in said.pop("tables").items()}
        del said["format"]
        return cls(tables=tables, **said)


def _checksum(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
