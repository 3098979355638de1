"""``cafe``: ids that matter most have a row of their own, the others share hashed ones (CAFE, Zhang et al. 2024).

As ``frequency``, but what makes an id hot is the norm of its gradients: the row store sums it in a HotSketch, gives a
row to those that matter more than others, and takes it from these (``rows/importance``). A hot row is what is added to
the shared one: it begins at zero, so that an id that becomes hot goes on from what it had learned, where the paper
copies that row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.fields import Above, Below
from recsys.rows.initial import Initial
from recsys.rows.policies import Eviction, ImportanceAdmission
from recsys.tables.adaembed import ImportancePlan
from recsys.tables.plan import Count, num_ids
from recsys.tables.table import Table, TableConfig, require


@dataclass(frozen=True, kw_only=True)
class CafeConfig(TableConfig):
    """``hot_rows`` own rows at most, of the ids that ``admission`` finds important; ``num_buckets`` shared ones."""

    kind: ClassVar[str] = "cafe"
    hot_rows: int | None = None
    num_buckets: int | None = None
    admission: ImportanceAdmission


@dataclass(frozen=True, kw_only=True)
class CafePlan(ImportancePlan):
    """``hot_rows`` and ``num_buckets``, or what a budget allows, or as many as there are ids; ``hot_share`` are hot."""

    hot_rows: Count | None = None
    num_buckets: Count | None = None
    hot_share: Annotated[float, Above(0), Below(1)] = 0.5

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> CafeConfig:
        """See TablePlan.table: ``size`` is the number of rows, hot and shared."""
        total = size or num_ids(features)
        hot_rows, num_buckets = self.hot_rows, self.num_buckets
        if total is not None:
            hot_rows = hot_rows or max(1, round(self.hot_share * total))
            num_buckets = num_buckets or max(1, total - hot_rows)
        return CafeConfig(hot_rows=hot_rows, num_buckets=num_buckets, admission=self.admission(hot_rows), **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.hot_rows is not None and self.num_buckets is not None


class Cafe(Table):
    """Two keys an id: itself, among the hot ones, and its bucket."""

    def __init__(self, config: CafeConfig) -> None:
        super().__init__(config)
        remedy = "set hot_rows and num_buckets, or compression with the feature's num_embeddings"
        hot_rows = require(config, "hot_rows", remedy)
        self._num_buckets = require(config, "num_buckets", remedy)
        self._salt = hashing.seed_of(config.seed, config.name, "hash")
        self._hot = replace(
            config.row_group(width=config.embedding_dim, num_rows=None, suffix=".hot", initial=Initial(scale=0.0)),
            absent="missing",
            admission=config.admission,
            eviction=Eviction(kind="importance", max_rows=hot_rows),
        )
        self._shared = config.row_group(width=config.embedding_dim, num_rows=self._num_buckets)
        self.groups = (self._hot, self._shared)
        self.pushed_if_used = (self._shared.name,)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys_N = hashing.hash_to_range(ids_N.numpy(), self._num_buckets, self._salt)
        return {self._hot.name: ids_N[:, None], self._shared.name: torch.from_numpy(keys_N)[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose; the hot key's gradient is the vector's whether it has a row or waits for one."""
        vectors_ND: Tensor = _HotOrShared.apply(rows_NKW[self._hot.name][:, 0], rows_NKW[self._shared.name][:, 0])
        return vectors_ND


class _HotOrShared(torch.autograd.Function):
    """The shared row, and what a hot one adds to it; one that is missing (NaN) adds nothing.

    A hot id's gradient is its own row's alone; another's is the shared row's, and told to the sketch besides.
    """

    @staticmethod
    def forward(ctx: Any, hot_ND: Tensor, shared_ND: Tensor) -> Tensor:
        is_missing_N1 = hot_ND[:, :1].isnan()
        ctx.save_for_backward(is_missing_N1)
        return torch.where(is_missing_N1, shared_ND, shared_ND + hot_ND)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (is_missing_N1,) = ctx.saved_tensors
        return gradients[0], gradients[0] * is_missing_N1
