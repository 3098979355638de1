"""``double_hash``: the sum of two rows of one table, found by two hashes (Zhang et al. 2020).

Two ids read the same two rows in about 2 of M² cases, where one hash into M rows has 1 of M.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, require

_NUM_HASHES = 2


@dataclass(frozen=True, kw_only=True)
class DoubleHashConfig(TableConfig):
    """``num_buckets`` rows for however many ids."""

    kind: ClassVar[str] = "double_hash"
    num_buckets: int | None = None


@dataclass(frozen=True, kw_only=True)
class DoubleHashPlan(TablePlan):
    """``num_buckets`` rows a table; without it, as many as a budget allows, or as there are ids."""

    num_buckets: Count | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> DoubleHashConfig:
        """See TablePlan.table: ``size`` is the number of buckets."""
        return DoubleHashConfig(num_buckets=self.num_buckets or size or num_ids(features), **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_buckets is not None


class DoubleHash(Table):
    """keys = two hashes of the id mod num_buckets. Rows start √2 smaller, so that their sum is as large as a row."""

    linear = True

    def __init__(self, config: DoubleHashConfig) -> None:
        super().__init__(config)
        self._num_buckets = require(
            config, "num_buckets", "set num_buckets, or compression with the feature's num_embeddings"
        )
        self._seeds_K = [hashing.seed_of(config.seed, config.name, "hash", at) for at in range(_NUM_HASHES)]
        initial = Initial(scale=config.initial.scale / math.sqrt(_NUM_HASHES))
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self._num_buckets, initial=initial),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = ids_N.numpy()
        keys_NK = np.stack([hashing.hash_to_range(ids, self._num_buckets, seed) for seed in self._seeds_K], axis=1)
        return {self.config.name: torch.from_numpy(keys_NK)}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        (rows,) = rows_NKW.values()
        return rows.sum(1)
