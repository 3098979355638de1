"""``int16``: one row an id as ``full``, kept as two bytes a number and a scale a row, rounded at random.

As ``int8``, at twice its bytes; the scale is a power of two, and the rounding has no bias at all.
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
class Int16Config(FullConfig):
    """As FullConfig."""

    kind: ClassVar[str] = "int16"

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; a scale for each row of one number would be the number itself, and more."""
        return super().narrowed(optimizer, row_format="float16", **changes)


@dataclass(frozen=True, kw_only=True)
class Int16Plan(FullPlan):
    """As FullPlan: there is nothing to size."""

    row_format: Literal["int16"] = "int16"

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> Int16Config:
        """See TablePlan.table."""
        return Int16Config(num_embeddings=num_ids(features), **shared)


class Int16(Full):
    """As Full."""

    shrinks = "training"
