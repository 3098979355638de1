"""``int8``: one row an id as ``full``, kept as a byte a number and a scale a row, rounded at random.

The store's row format does it, in training and in serving; the unbiased rounding lets updates smaller than a step add
up (Gupta et al. 2015). ``row_format: int8`` does the same to the rows of any kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.tables.full import Full, FullConfig, FullPlan
from recsys.tables.plan import num_ids
from recsys.tables.table import TableConfig


@dataclass(frozen=True, kw_only=True)
class Int8Config(FullConfig):
    """As FullConfig."""

    kind: ClassVar[str] = "int8"

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; a scale for each row of one number would be the number itself, and more."""
        return super().narrowed(optimizer, row_format="float16", **changes)


@dataclass(frozen=True, kw_only=True)
class Int8Plan(FullPlan):
    """As FullPlan: there is nothing to size."""

    row_format: Literal["int8"] = "int8"

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> Int8Config:
        """See TablePlan.table."""
        return Int8Config(num_embeddings=num_ids(features), **shared)


class Int8(Full):
    """As Full."""

    shrinks = "training"
