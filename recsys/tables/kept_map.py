"""Which ids of each table stay, and how wide their rows are: what pruning leaves, looked up ever after.

Like a bucket map it goes with the blueprint, as JSON: whoever rebuilds the recommender has it.

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

from recsys.errors import DataError, unknown
from recsys.hashing import Keys
from recsys.tables.bucket_map import PackedCodes

FORMAT = 1
Bools = npt.NDArray[np.bool_]


class KeptIds:
    """Those of the ids 0 … num_ids − 1 that stay, a bit each; rows of them are ``width`` wide.

    >>> kept = KeptIds.of(np.array([True, False, True]), width=4)
    >>> kept.holds(np.array([0, 1, 2, 3, -1])).tolist(), kept.num_kept
    ([True, False, True, False, False], 2)
    """

    def __init__(self, bits: PackedCodes, width: int) -> None:
        if width < 1:
            raise DataError(f"rows of width {width} can not be; a width is 1 or more")
        self.bits, self.width = bits, width
        self.num_kept = int(bits.at(np.arange(bits.num_codes, dtype=np.int64)).sum())

    @classmethod
    def of(cls, is_kept_N: Bools, width: int) -> "KeptIds":
        """Pack a flag of each id."""
        return cls(PackedCodes.of(is_kept_N.astype(np.int64), 1), width)

    @property
    def num_ids(self) -> int:
        """Ids that there were."""
        return self.bits.num_codes

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.bits.nbytes

    def holds(self, ids_N: Keys) -> Bools:
        """Which ids stay, bool (N,); none outside."""
        inside_N = (ids_N >= 0) & (ids_N < self.num_ids)
        if not self.num_ids:
            return inside_N
        return inside_N & (self.bits.at(np.where(inside_N, ids_N, 0)) == 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "num_ids": self.num_ids,
            "width": self.width,
            "bits": base64.b64encode(self.bits.data.tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "KeptIds":
        """What ``to_json`` described."""
        data = np.frombuffer(base64.b64decode(fields["bits"], validate=True), np.uint8)
        return cls(PackedCodes(data, fields["num_ids"], 1), fields["width"])


@dataclass(frozen=True, kw_only=True)
class KeptMap:
    """The kept ids of several tables, and which ``method`` chose them, from training on the data set ``data``."""

    method: str
    data: str
    tables: Mapping[str, KeptIds]

    @property
    def sparsity(self) -> float:
        """The part of the ids that has gone."""
        num_ids = sum(kept.num_ids for kept in self.tables.values())
        return 1 - sum(kept.num_kept for kept in self.tables.values()) / max(1, num_ids)

    @property
    def num_weights(self) -> int:
        """Numbers in the rows that stay: Σ kept · width (OptEmbed §3.3)."""
        return sum(kept.num_kept * kept.width for kept in self.tables.values())

    def widened(self, widths: Mapping[str, int]) -> "KeptMap":
        """The same ids with rows of other widths, by table."""
        tables = {name: KeptIds(kept.bits, widths[name]) for name, kept in self.tables.items()}
        return KeptMap(method=self.method, data=self.data, tables=tables)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the checksum of all of them."""
        tables = {name: kept.to_json() for name, kept in self.tables.items()}
        said = {"format": FORMAT, "method": self.method, "data": self.data, "tables": tables}
        return {**said, "sha256": _checksum(said)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "KeptMap":
        """The map that ``to_json`` described; DataError where it is another, or none."""
        said = {name: value for name, value in saved.items() if name != "sha256"}
        if saved.get("format") != FORMAT:
            raise unknown("format of a map of kept ids", saved.get("format"), [FORMAT])
        if saved.get("sha256") != _checksum(said):
            raise DataError("a map of kept ids has changed since it was made (its checksum differs); make it anew")
        tables = {name: KeptIds.from_json(fields) for name, fields in said["tables"].items()}
        return cls(method=said["method"], data=said["data"], tables=tables)


def _checksum(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
