"""What kinds share in which hot ids have a row of their own and the others hashed ones: ``frequency``, ``cafe``.

Which are hot is for the row store to say, by admission and eviction; their absence reads as NaN, and it is then that an
id reads the shared row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.fields import Above, Below
from recsys.rows.initial import Initial
from recsys.rows.policies import Admission, Eviction
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, require


@dataclass(frozen=True, kw_only=True)
class HotConfig(TableConfig):
    """``hot_rows`` own rows at most; ``num_buckets`` shared ones."""

    hot_rows: int | None = None
    num_buckets: int | None = None


@dataclass(frozen=True, kw_only=True)
class HotPlan(TablePlan):
    """``hot_rows`` and ``num_buckets``, or what a budget allows, or as many as there are ids; ``hot_share`` are hot."""

    hot_rows: Count | None = None
    num_buckets: Count | None = None
    hot_share: Annotated[float, Above(0), Below(1)] = 0.5

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.hot_rows is not None and self.num_buckets is not None

    def sizes(self, features: Sequence[Feature], size: int | None) -> tuple[int | None, int | None]:
        """(hot rows, shared ones) of ``size`` in all; None where nothing says how many."""
        total = size or num_ids(features)
        hot_rows, num_buckets = self.hot_rows, self.num_buckets
        if total is not None:
            hot_rows = hot_rows or max(1, round(self.hot_share * total))
            num_buckets = num_buckets or max(1, total - hot_rows)
        return hot_rows, num_buckets


class HotTable(Table):
    """Two keys an id: itself, among the hot ones, and its bucket."""

    def __init__(
        self,
        config: HotConfig,
        admission: Admission,
        eviction: Literal["lfu", "importance"],
        initial: Initial | None = None,
    ) -> None:
        super().__init__(config)
        remedy = "set hot_rows and num_buckets, or compression with the feature's num_embeddings"
        hot_rows = require(config, "hot_rows", remedy)
        self._num_buckets = require(config, "num_buckets", remedy)
        self._salt = hashing.seed_of(config.seed, config.name, "hash")
        self._hot = replace(
            config.row_group(width=config.embedding_dim, num_rows=None, suffix=".hot", initial=initial),
            absent="missing",
            admission=admission,
            eviction=Eviction(kind=eviction, max_rows=hot_rows),
        )
        self._shared = config.row_group(width=config.embedding_dim, num_rows=self._num_buckets)
        self.groups = (self._hot, self._shared)
        self.pushed_if_used = (self._shared.name,)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys_N = hashing.hash_to_range(ids_N.numpy(), self._num_buckets, self._salt)
        return {self._hot.name: ids_N[:, None], self._shared.name: torch.from_numpy(keys_N)[:, None]}
