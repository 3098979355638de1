"""``hash_embedding``: a weighted sum of a few shared rows, the weights the id's own (Svenstrup et al. 2017).

Vector of id v: Σ_k w_k(v) · E[h_k(v)]. The weights are rows too, narrow ones, found by a hash of their own; they are
kept as what they differ from 1/√K by, so that vectors start at the scale of a full table's rows.
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


@dataclass(frozen=True, kw_only=True)
class HashEmbeddingConfig(TableConfig):
    """``num_buckets`` shared rows, ``num_hashes`` of them an id; ``num_weights`` rows of weights."""

    kind: ClassVar[str] = "hash_embedding"
    num_buckets: int | None = None
    num_weights: int | None = None
    num_hashes: int = 2


@dataclass(frozen=True, kw_only=True)
class HashEmbeddingPlan(TablePlan):
    """``num_buckets`` shared rows, or as many as a budget allows, or as there are ids.

    ``weights_per_bucket`` times as many rows of weights, at most one for each id.
    """

    num_buckets: Count | None = None
    num_hashes: Count = 2
    weights_per_bucket: Count = 4

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> HashEmbeddingConfig:
        """See TablePlan.table: ``size`` is the number of buckets."""
        ids = num_ids(features)
        num_buckets = self.num_buckets or size or ids
        num_weights = None if num_buckets is None else self.weights_per_bucket * num_buckets
        return HashEmbeddingConfig(
            num_buckets=num_buckets,
            num_weights=num_weights if num_weights is None or ids is None else min(num_weights, ids),
            num_hashes=self.num_hashes,
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_buckets is not None


class HashEmbedding(Table):
    """K keys into the shared rows, one into the weights."""

    def __init__(self, config: HashEmbeddingConfig) -> None:
        super().__init__(config)
        remedy = "set num_buckets, or compression with the feature's num_embeddings"
        self._num_buckets = require(config, "num_buckets", remedy)
        self._num_weights = require(config, "num_weights", remedy)
        self._seeds_K = [hashing.seed_of(config.seed, config.name, "hash", at) for at in range(config.num_hashes)]
        self._weights_seed = hashing.seed_of(config.seed, config.name, "weights")
        self._start = 1 / math.sqrt(config.num_hashes)
        self._pool = config.row_group(width=config.embedding_dim, num_rows=self._num_buckets)
        self._weights = config.row_group(
            width=config.num_hashes, num_rows=self._num_weights, suffix=".weights", initial=Initial(scale=0.0)
        )
        self.groups = (self._pool, self._weights)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = ids_N.numpy()
        pool_NK = np.stack([hashing.hash_to_range(ids, self._num_buckets, seed) for seed in self._seeds_K], axis=1)
        weights_N = hashing.hash_to_range(ids, self._num_weights, self._weights_seed)
        return {
            self._pool.name: torch.from_numpy(pool_NK),
            self._weights.name: torch.from_numpy(weights_N)[:, None],
        }

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        weights_NK = self._start + rows_NKW[self._weights.name][:, 0]
        return (weights_NK[:, :, None] * rows_NKW[self._pool.name]).sum(1)
