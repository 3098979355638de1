"""``hash``: ids hashed into fewer rows; those that collide share one (Weinberger et al. 2009)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, identity, require


@dataclass(frozen=True, kw_only=True)
class HashConfig(TableConfig):
    """``num_buckets`` rows for however many ids."""

    kind: ClassVar[str] = "hash"
    num_buckets: int | None = None


@dataclass(frozen=True, kw_only=True)
class HashPlan(TablePlan):
    """``num_buckets`` rows a table; without it, as many as a budget allows, or as there are ids."""

    num_buckets: Count | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> HashConfig:
        """See TablePlan.table: ``size`` is the number of buckets."""
        return HashConfig(num_buckets=self.num_buckets or size or num_ids(features), **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_buckets is not None


class Hash(Table):
    """key = hash(id; the table's seed) mod num_buckets."""

    linear = True

    def __init__(self, config: HashConfig) -> None:
        super().__init__(config)
        self._num_buckets = require(
            config, "num_buckets", "set num_buckets, or compression with the feature's num_embeddings"
        )
        self._salt = hashing.seed_of(config.seed, config.name, "hash")
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self._num_buckets),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys_N = hashing.hash_to_range(ids_N.numpy(), self._num_buckets, self._salt)
        return {self.config.name: torch.from_numpy(keys_N)[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
