"""Which codes each id of a table has: what product quantisation leaves of its rows.

Shape suffixes: N ids, M sub-spaces.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys.errors import DataError
from recsys.hashing import Keys
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.id_map import IdMap
from recsys.tables.kept_map import KeptIds


class IdCodes:
    """``num_subspaces`` codes of each of the ids 0 … num_ids − 1, each in [0, num_centroids).

    >>> codes = IdCodes.of(np.array([[1, 3], [0, 2]]), num_centroids=4)
    >>> codes.at(np.array([1, 0])).tolist(), codes.num_ids
    ([[0, 2], [1, 3]], 2)
    """

    def __init__(self, packed: PackedCodes, num_subspaces: int, num_centroids: int) -> None:
        if num_subspaces < 1 or num_centroids < 2 or packed.num_codes % max(1, num_subspaces):
            raise DataError(
                f"{packed.num_codes} codes of {num_subspaces} sub-spaces and {num_centroids} centroids can not be"
            )
        self.packed, self.num_subspaces, self.num_centroids = packed, num_subspaces, num_centroids

    @classmethod
    def of(cls, codes_NM: Keys, num_centroids: int) -> "IdCodes":
        """Pack the codes of every id; DataError for one outside."""
        if codes_NM.size and (codes_NM.min() < 0 or codes_NM.max() >= num_centroids):
            raise DataError(f"codes of {codes_NM.min()} … {codes_NM.max()} are outside [0, {num_centroids})")
        packed = PackedCodes.of(codes_NM.reshape(-1), bits_of(num_centroids))
        return cls(packed, codes_NM.shape[1], num_centroids)

    @property
    def num_ids(self) -> int:
        """Ids that have codes."""
        return self.packed.num_codes // self.num_subspaces

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.packed.nbytes

    def at(self, ids_N: Keys) -> Keys:
        """The codes of ids, int64 (N, M)."""
        return self.packed.at(ids_N[:, None] * self.num_subspaces + np.arange(self.num_subspaces))

    def about(self) -> dict[str, Any]:
        """See OfTable."""
        return {
            "num_ids": self.num_ids,
            "num_subspaces": self.num_subspaces,
            "num_centroids": self.num_centroids,
        }

    @classmethod
    def unpacked(cls, data: Any, about: Mapping[str, Any]) -> "IdCodes":
        """See OfTable."""
        num_codes = about["num_ids"] * about["num_subspaces"]
        packed = PackedCodes(data, num_codes, bits_of(about["num_centroids"]))
        return cls(packed, about["num_subspaces"], about["num_centroids"])


def bits_of(num_centroids: int) -> int:
    """Bits of a code.

    >>> bits_of(2), bits_of(256), bits_of(257)
    (1, 8, 9)
    """
    return int(num_centroids - 1).bit_length()


class MixedCodes:
    """Codes of which those of frequent ids are in [0, num_centroids), the others' in [0, rare_centroids) (MGQE).

    ::

        packed  a flag an id | codes of the frequent ids | codes of the others, each as PackedCodes

    >>> flags = KeptIds.of(np.array([True, False, False]), width=1)
    >>> codes = MixedCodes.of(np.array([[9, 15], [1, 0], [3, 2]]), flags, num_centroids=16, rare_centroids=4)
    >>> codes.at(np.array([2, 0])).tolist(), codes.num_ids
    ([[3, 2], [9, 15]], 3)
    """

    def __init__(
        self, packed: PackedCodes, frequent: KeptIds, num_subspaces: int, num_centroids: int, rare_centroids: int
    ) -> None:
        self.packed, self.frequent, self.num_subspaces = packed, frequent, num_subspaces
        self.num_centroids, self.rare_centroids = num_centroids, rare_centroids
        num_frequent, num_rare = frequent.num_kept, frequent.num_ids - frequent.num_kept
        codes = packed.data[frequent.packed.nbytes : packed.num_codes]
        bits, rare_bits = bits_of(num_centroids), bits_of(rare_centroids)
        cut = len(codes) - PackedCodes.bytes_of(num_rare * num_subspaces, rare_bits)
        self._frequent_codes = PackedCodes(codes[:cut], num_frequent * num_subspaces, bits)
        self._rare_codes = PackedCodes(codes[cut:], num_rare * num_subspaces, rare_bits)

    @classmethod
    def of(cls, codes_NM: Keys, frequent: KeptIds, *, num_centroids: int, rare_centroids: int) -> "MixedCodes":
        """Pack the codes of every id; DataError for one outside."""
        is_frequent_N = frequent.holds(np.arange(len(codes_NM)))
        of_frequent, of_rare = codes_NM[is_frequent_N], codes_NM[~is_frequent_N]
        if of_rare.size and of_rare.max() >= rare_centroids:
            raise DataError(f"code {of_rare.max()} of an id that is rare is outside [0, {rare_centroids})")
        parts = [
            frequent.packed.data,
            IdCodes.of(of_frequent, num_centroids).packed.data,
            IdCodes.of(of_rare, rare_centroids).packed.data,
        ]
        packed = PackedCodes.of(np.concatenate(parts).astype(np.int64), 8)
        return cls(packed, frequent, codes_NM.shape[1], num_centroids, rare_centroids)

    @property
    def num_ids(self) -> int:
        """Ids that have codes."""
        return self.frequent.num_ids

    @property
    def nbytes(self) -> int:
        """Bytes held: flags with their counts, and codes."""
        return self.frequent.nbytes + self._frequent_codes.nbytes + self._rare_codes.nbytes

    def at(self, ids_N: Keys) -> Keys:
        """The codes of ids, int64 (N, M)."""
        is_frequent_N, ranks_N = self.frequent.holds(ids_N), self.frequent.ranks(ids_N)
        codes_NM = np.empty((len(ids_N), self.num_subspaces), np.int64)
        for chosen_N, places_N, codes in (
            (is_frequent_N, ranks_N, self._frequent_codes),
            (~is_frequent_N, ids_N - ranks_N, self._rare_codes),
        ):
            codes_NM[chosen_N] = codes.at(places_N[chosen_N, None] * self.num_subspaces + np.arange(self.num_subspaces))
        return codes_NM

    def about(self) -> dict[str, Any]:
        """See OfTable."""
        return {
            "num_ids": self.num_ids,
            "num_subspaces": self.num_subspaces,
            "num_centroids": self.num_centroids,
            "rare_centroids": self.rare_centroids,
        }

    @classmethod
    def unpacked(cls, data: Any, about: Mapping[str, Any]) -> "MixedCodes":
        """See OfTable."""
        packed = PackedCodes(data, len(data) - PackedCodes.bytes_of(0, 8), 8)
        frequent = KeptIds(PackedCodes(data[: PackedCodes.bytes_of(about["num_ids"], 1)], about["num_ids"], 1), width=1)
        return cls(packed, frequent, about["num_subspaces"], about["num_centroids"], about["rare_centroids"])


class SomeCodes:
    """Codes of either sort."""

    @classmethod
    def unpacked(cls, data: Any, about: Mapping[str, Any]) -> IdCodes | MixedCodes:
        """See OfTable."""
        return (MixedCodes if "rare_centroids" in about else IdCodes).unpacked(data, about)


@dataclass(frozen=True, kw_only=True)
class CodeMap(IdMap):
    """The codes of several tables."""

    of_table: ClassVar[type[Any]] = SomeCodes
    made_by: ClassVar[str] = "python -m jobs.train table=dpq"

    tables: Mapping[str, "IdCodes | MixedCodes"]
