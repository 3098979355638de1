"""Which ids of each table stay, and how wide their rows are: what pruning leaves.

Shape suffix: N ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.hashing import Keys
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.id_map import IdMap

Bools = npt.NDArray[np.bool_]


class KeptIds:
    """Those of the ids 0 … num_ids − 1 that stay, a bit each; rows of them are ``width`` wide.

    >>> kept = KeptIds.of(np.array([True, False, True]), width=4)
    >>> kept.holds(np.array([0, 1, 2, 3, -1])).tolist(), kept.num_kept
    ([True, False, True, False, False], 2)
    """

    def __init__(self, packed: PackedCodes, width: int) -> None:
        if width < 1:
            raise DataError(f"rows of width {width} can not be; a width is 1 or more")
        self.packed, self.width = packed, width
        padded = np.zeros(-(-len(packed.data) // 8) * 8, np.uint8)
        padded[: len(packed.data)] = packed.data
        self._words = padded.view("<u8")
        counts = np.bitwise_count(self._words).astype(np.int32)
        self._before = np.cumsum(counts, dtype=np.int32) - counts  # kept ids before those of each word
        self.num_kept = int(counts.sum())

    @classmethod
    def of(cls, is_kept_N: Bools, width: int) -> "KeptIds":
        """Pack a flag of each id."""
        return cls(PackedCodes.of(is_kept_N.astype(np.int64), 1), width)

    @property
    def num_ids(self) -> int:
        """Ids that there were."""
        return self.packed.num_codes

    @property
    def nbytes(self) -> int:
        """Bytes held: a bit an id, and a count for every 64."""
        return self.packed.nbytes + self._before.nbytes

    def ranks(self, ids_N: Keys) -> Keys:
        """How many kept ids there are below each of some ids of [0, num_ids), int64 (N,).

        >>> KeptIds.of(np.array([True, False, True, True]), width=1).ranks(np.array([0, 2, 3])).tolist()
        [0, 1, 2]
        """
        words_N, bits_N = ids_N >> 6, (ids_N & 63).astype(np.uint64)
        below_N = self._words[words_N] & ((np.uint64(1) << bits_N) - np.uint64(1))
        return self._before[words_N] + np.bitwise_count(below_N).astype(np.int64)

    def holds(self, ids_N: Keys) -> Bools:
        """Which ids stay, bool (N,); none outside."""
        inside_N = (ids_N >= 0) & (ids_N < self.num_ids)
        if not self.num_ids:
            return inside_N
        return inside_N & (self.packed.at(np.where(inside_N, ids_N, 0)) == 1)

    def about(self) -> dict[str, Any]:
        """See OfTable."""
        return {"num_ids": self.num_ids, "width": self.width}

    @classmethod
    def unpacked(cls, data: Any, about: Mapping[str, Any]) -> "KeptIds":
        """See OfTable."""
        return cls(PackedCodes(data, about["num_ids"], 1), about["width"])


@dataclass(frozen=True, kw_only=True)
class KeptMap(IdMap):
    """The kept ids of several tables."""

    of_table: ClassVar[type[Any]] = KeptIds
    made_by: ClassVar[str] = "python -m jobs.train table=optembed"

    tables: Mapping[str, KeptIds]

    @property
    def sparsity(self) -> float:
        """The part of the ids that has gone."""
        num_ids = sum(kept.num_ids for kept in self.tables.values())
        return 1 - sum(kept.num_kept for kept in self.tables.values()) / max(1, num_ids)

    @property
    def num_weights(self) -> int:
        """Numbers in the rows that stay: Σ kept · width (OptEmbed)."""
        return sum(kept.num_kept * kept.width for kept in self.tables.values())

    def widened(self, widths: Mapping[str, int]) -> "KeptMap":
        """The same ids with rows of other widths, by table."""
        tables = {name: KeptIds(kept.packed, widths[name]) for name, kept in self.tables.items()}
        return KeptMap(method=self.method, data=self.data, tables=tables)
