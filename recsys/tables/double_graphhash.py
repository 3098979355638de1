"""``double_graphhash``: the sum of an id's bucket's row and of one by hash, both of one table (GraphHash, section 4.3).

Over a map by hash this is double hashing (Zhang et al. 2020), over one by count double-frequency hashing: an id whose
bucket is its own reads that row alone, and the hash goes to rows that are shared.

Shape suffixes: N ids, K keys an id, D embedding dimension.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.rows.initial import Initial
from recsys.tables.graphhash import GraphHash, GraphHashConfig, GraphHashPlan


@dataclass(frozen=True, kw_only=True)
class DoubleGraphHashConfig(GraphHashConfig):
    """See GraphHashConfig."""

    kind: ClassVar[str] = "double_graphhash"


@dataclass(frozen=True, kw_only=True)
class DoubleGraphHashPlan(GraphHashPlan):
    """See GraphHashPlan."""

    config: ClassVar[type[GraphHashConfig]] = DoubleGraphHashConfig

    def table(self, features: Any, size: int | None, **shared: Any) -> Any:
        """See TablePlan.table; the sum of two rows starts as large as one row of a full table."""
        made = super().table(features, size, **shared)
        if not isinstance(made, DoubleGraphHashConfig):
            return made
        return replace(made, initial=Initial(scale=made.initial.scale / math.sqrt(2)))


class DoubleGraphHash(GraphHash):
    """K = 2 keys an id: its bucket, and a hash; both its bucket where that is its own."""

    def __init__(self, config: DoubleGraphHashConfig) -> None:
        super().__init__(config)
        self.linear = config.buckets.num_own == 0
        self._second_salt = hashing.seed_of(config.seed, config.name, "double_graphhash")

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = ids_N.numpy()
        first_N = self._buckets.keys(ids, self._salt)
        second_N = np.where(self._is_own(ids), first_N, self._buckets.hashed(ids, self._second_salt))
        return {self.config.name: torch.from_numpy(np.stack([first_N, second_N], axis=1))}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        (rows,) = rows_NKW.values()
        if self.linear:
            return rows.sum(1)
        shared_N = torch.from_numpy(~self._is_own(ids_N.numpy()))
        return rows[:, 0, :] + rows[:, 1, :] * shared_N[:, None]

    def _is_own(self, ids: Any) -> Any:
        """Which ids have a row of their own: bool (N,)."""
        buckets_N = self._buckets.buckets(ids)
        return (buckets_N >= 0) & (buckets_N < self._buckets.num_own)
