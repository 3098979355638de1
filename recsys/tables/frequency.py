"""``frequency``: ids that occur often have a row of their own, the others share hashed ones (AdaptEmb).

Which are hot is for the row store to say, as ids come: its admission counts them in a sketch, a hot row begins with the
N-th occurrence, and past ``hot_rows`` those used least leave for new ones. Their absence reads as NaN, and it is then
that an id reads the shared row. A hot row starts from its initial value, not from what the shared one had learned.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.fields import Above, AtLeast, Below, Between
from recsys.rows.policies import Eviction, FrequencyAdmission
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, require

_WAITING = 7  # ids that 64 bytes of the sketch count


@dataclass(frozen=True, kw_only=True)
class FrequencyConfig(TableConfig):
    """``hot_rows`` own rows at most, from the occurrence of number ``occurrences`` on; ``num_buckets`` shared ones."""

    kind: ClassVar[str] = "frequency"
    hot_rows: int | None = None
    num_buckets: int | None = None
    occurrences: int = 3
    sketch_bytes: int = 2**16


@dataclass(frozen=True, kw_only=True)
class FrequencyPlan(TablePlan):
    """``hot_rows`` and ``num_buckets``, or what a budget allows, or as many as there are ids; ``hot_share`` are hot.

    ``sketch_bytes``: of the counts of ids that wait, in training alone; by default for twice as many as hot rows.
    """

    hot_rows: Count | None = None
    num_buckets: Count | None = None
    hot_share: Annotated[float, Above(0), Below(1)] = 0.5
    occurrences: Annotated[int, Between(1, 255)] = 3
    sketch_bytes: Annotated[int, AtLeast(64)] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> FrequencyConfig:
        """See TablePlan.table: ``size`` is the number of rows, hot and shared."""
        total = size or num_ids(features)
        hot_rows, num_buckets = self.hot_rows, self.num_buckets
        if total is not None:
            hot_rows = hot_rows or max(1, round(self.hot_share * total))
            num_buckets = num_buckets or max(1, total - hot_rows)
        return FrequencyConfig(
            hot_rows=hot_rows,
            num_buckets=num_buckets,
            occurrences=self.occurrences,
            sketch_bytes=self.sketch_bytes or 64 * math.ceil(2 * (hot_rows or 1) / _WAITING),
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.hot_rows is not None and self.num_buckets is not None


class Frequency(Table):
    """Two keys an id: itself, among the hot ones, and its bucket. Only the one that is read gets a gradient."""

    def __init__(self, config: FrequencyConfig) -> None:
        super().__init__(config)
        remedy = "set hot_rows and num_buckets, or compression with the feature's num_embeddings"
        hot_rows = require(config, "hot_rows", remedy)
        self._num_buckets = require(config, "num_buckets", remedy)
        self._salt = hashing.seed_of(config.seed, config.name, "hash")
        self._hot = replace(
            config.row_group(width=config.embedding_dim, num_rows=None, suffix=".hot"),
            absent="missing",
            admission=FrequencyAdmission(occurrences=config.occurrences, max_bytes=config.sketch_bytes),
            eviction=Eviction(kind="lfu", max_rows=hot_rows),
        )
        self._shared = config.row_group(width=config.embedding_dim, num_rows=self._num_buckets)
        self.groups = (self._hot, self._shared)
        self.pushed_if_used = (self._shared.name,)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys_N = hashing.hash_to_range(ids_N.numpy(), self._num_buckets, self._salt)
        return {self._hot.name: ids_N[:, None], self._shared.name: torch.from_numpy(keys_N)[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        hot, shared = rows_NKW[self._hot.name][:, 0], rows_NKW[self._shared.name][:, 0]
        return torch.where(hot[:, :1].isnan(), shared, hot)
