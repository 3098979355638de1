"""Which numbers of each id's row stay, a bit each: what the pruning of single weights leaves.

Bits of all ids say which have any number left, and those of the ids that have say which. Shape suffixes: N ids, D
embedding dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys.errors import DataError
from recsys.hashing import Keys
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.id_map import IdMap
from recsys.tables.kept_map import Bools, KeptIds


class SparseIds:
    """The numbers that stay of the rows, ``width`` wide, of the ids 0 … num_ids − 1; laid end to end, by id.

    >>> ids = SparseIds.of(np.array([[True, False, True], [False, False, False], [False, True, False]]))
    >>> ids.masks(np.array([2, 0])).tolist(), ids.starts(np.array([0, 2])).tolist()
    ([[False, True, False], [True, False, True]], [0, 2])
    >>> ids.num_kept, ids.num_weights
    (2, 3)
    """

    def __init__(self, packed: PackedCodes, num_ids: int, width: int) -> None:
        if width < 1 or not 0 <= num_ids <= packed.num_codes:
            raise DataError(f"{packed.num_codes} bits of {num_ids} ids and rows of width {width} can not be")
        self.packed, self.num_ids, self.width = packed, num_ids, width
        self._bits = KeptIds(packed, width=1)
        self.num_kept = int(self._bits.ranks(np.array([num_ids]))[0])
        self.num_weights = self._bits.num_kept - self.num_kept
        if packed.num_codes != num_ids + self.num_kept * width:
            raise DataError(
                f"{packed.num_codes} bits of {num_ids} ids, {self.num_kept} of which have rows of width {width}: "
                f"{num_ids + self.num_kept * width} are needed; make them anew"
            )

    @classmethod
    def of(cls, masks_ND: Bools) -> "SparseIds":
        """Pack a flag of each number of each id's row."""
        is_kept_N = masks_ND.any(axis=1)
        bits = np.concatenate([is_kept_N, masks_ND[is_kept_N].reshape(-1)])
        return cls(PackedCodes.of(bits.astype(np.int64), 1), len(masks_ND), masks_ND.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes held: a bit an id, one for each number of those that have any, and a count for every 64 bits."""
        return self._bits.nbytes

    def holds(self, ids_N: Keys) -> Bools:
        """Which ids have any number left, bool (N,); none outside."""
        inside_N = (ids_N >= 0) & (ids_N < self.num_ids)
        return inside_N & self._bits.holds(np.where(inside_N, ids_N, self.num_ids))

    def ranks(self, ids_N: Keys) -> Keys:
        """How many ids below each of some of [0, num_ids) have any number left, int64 (N,)."""
        return self._bits.ranks(ids_N)

    def masks(self, ids_N: Keys) -> Bools:
        """Which numbers of ids stay, bool (N, D); none of an id that has none, or is outside."""
        held_N = self.holds(ids_N)
        firsts_N = self._firsts(np.where(held_N, ids_N, 0))
        masks_ND = self._bits.holds((firsts_N[:, None] + np.arange(self.width)).reshape(-1))
        return masks_ND.reshape(len(ids_N), self.width) & held_N[:, None]

    def starts(self, ids_N: Keys) -> Keys:
        """How many numbers stay of the ids below each of some of [0, num_ids), int64 (N,)."""
        return self._bits.ranks(self._firsts(ids_N)) - self.num_kept

    def about(self) -> dict[str, Any]:
        """See OfTable."""
        return {"num_ids": self.num_ids, "width": self.width, "num_bits": self.packed.num_codes}

    @classmethod
    def unpacked(cls, data: Any, about: Mapping[str, Any]) -> "SparseIds":
        """See OfTable."""
        return cls(PackedCodes(data, about["num_bits"], 1), about["num_ids"], about["width"])

    def _firsts(self, ids_N: Keys) -> Keys:
        """The bit of the first number of each id's row."""
        return self.num_ids + self.ranks(ids_N) * self.width


@dataclass(frozen=True, kw_only=True)
class SparseMap(IdMap):
    """The weights that stay of several tables."""

    of_table: ClassVar[type[Any]] = SparseIds
    made_by: ClassVar[str] = "python -m jobs.train table=deeplight"

    tables: Mapping[str, SparseIds]

    @property
    def num_weights(self) -> int:
        """Numbers that stay."""
        return sum(ids.num_weights for ids in self.tables.values())

    @property
    def density(self) -> float:
        """The part of all numbers that stays."""
        return self.num_weights / max(1, sum(ids.num_ids * ids.width for ids in self.tables.values()))
