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


@dataclass(frozen=True, kw_only=True)
class CodeMap(IdMap):
    """The codes of several tables."""

    of_table: ClassVar[type[Any]] = IdCodes
    made_by: ClassVar[str] = "python -m jobs.train table=dpq"

    tables: Mapping[str, IdCodes]
