"""``cafe``: ids that matter most have a row of their own, the others share hashed ones (CAFE, Zhang et al. 2024).

As ``frequency``, but what makes an id hot is the norm of its gradients: the row store sums it in a HotSketch, gives a
row to those that matter more than others, and takes it from these (``rows/importance``). A hot row is what is added to
the shared one: it begins at zero, so that an id that becomes hot goes on from what it had learned, where the paper
copies that row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.rows.policies import ImportanceAdmission
from recsys.tables.adaembed import ImportancePlan
from recsys.tables.hot import HotConfig, HotPlan, HotTable


@dataclass(frozen=True, kw_only=True)
class CafeConfig(HotConfig):
    """As HotConfig; hot are the ids that ``admission`` finds important."""

    kind: ClassVar[str] = "cafe"
    admission: ImportanceAdmission


@dataclass(frozen=True, kw_only=True)
class CafePlan(HotPlan, ImportancePlan):
    """As HotPlan and ImportancePlan."""

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> CafeConfig:
        """See TablePlan.table: ``size`` is the number of rows, hot and shared."""
        hot_rows, num_buckets = self.sizes(features, size)
        return CafeConfig(hot_rows=hot_rows, num_buckets=num_buckets, admission=self.admission(hot_rows), **shared)


class Cafe(HotTable):
    """As HotTable; a hot row is what is added to the shared one, and begins at zero."""

    def __init__(self, config: CafeConfig) -> None:
        super().__init__(config, config.admission, eviction="importance", initial=Initial(scale=0.0))

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
