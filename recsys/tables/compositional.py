"""``compositional``: a row for the id's quotient and one for its remainder, put together (QR; Shi et al. 2020, §3).

With c remainders, n ids have ⌈n/c⌉ quotients, and no two ids both in common: each has a vector of its own out of
⌈n/c⌉ + c rows, 2√n at least. Composed per id, then pooled: a product of sums is no sum of products.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, require

Operation = Literal["product", "sum", "concat"]


@dataclass(frozen=True, kw_only=True)
class CompositionalConfig(TableConfig):
    """``num_remainders`` is c. Ids outside [0, num_ids) are hashed into it."""

    kind: ClassVar[str] = "compositional"
    num_remainders: int | None = None
    operation: Operation = "product"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operation == "concat" and self.embedding_dim % 2:
            raise ConfigError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} is odd, and operation=concat needs two halves"
            )

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; a sum, for a product of zeros would stay zero."""
        return super().narrowed(optimizer, operation="sum", **changes)


@dataclass(frozen=True, kw_only=True)
class CompositionalPlan(TablePlan):
    """``num_remainders``, or as many as a budget allows, or √n: the smallest table there is.

    ``num_ids``: into how many ids all are folded; those that the feature declares, if null.
    """

    num_remainders: Count | None = None
    operation: Operation = "product"
    num_ids: Count | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> CompositionalConfig:
        """See TablePlan.table: ``size`` counts remainders from √n on."""
        ids = self.num_ids or num_ids(features)
        num_remainders = self.num_remainders
        if num_remainders is None and ids is not None:
            num_remainders = _root(ids) + (size or 1) - 1
        return CompositionalConfig(
            num_remainders=num_remainders, operation=self.operation, **{**shared, "num_ids": ids}
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_remainders is not None

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: as many remainders as ids."""
        ids = self.num_ids or num_ids(features) or 1
        return ids - _root(ids) + 1


class Compositional(Table):
    """Keys: id ÷ c and id mod c, each into rows of its own."""

    def __init__(self, config: CompositionalConfig) -> None:
        super().__init__(config)
        self._num_ids = require(config, "num_ids", "set table.num_ids, or the feature's num_embeddings")
        self._num_remainders = require(config, "num_remainders", "set num_remainders")
        self._operation = config.operation
        self._fold_seed = hashing.seed_of(config.seed, config.name, "fold")
        width = config.embedding_dim // 2 if config.operation == "concat" else config.embedding_dim
        initial = Initial(scale=_scale(config.operation, config.initial.scale))
        num_quotients = -(-self._num_ids // self._num_remainders)
        self._quotients = config.row_group(width=width, num_rows=num_quotients, suffix=".quotient", initial=initial)
        self._remainders = config.row_group(
            width=width, num_rows=self._num_remainders, suffix=".remainder", initial=initial
        )
        self.groups = (self._quotients, self._remainders)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = torch.from_numpy(hashing.fold(ids_N.numpy(), self._num_ids, self._fold_seed))
        return {
            self._quotients.name: (ids // self._num_remainders)[:, None],
            self._remainders.name: (ids % self._num_remainders)[:, None],
        }

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        quotient, remainder = rows_NKW[self._quotients.name][:, 0], rows_NKW[self._remainders.name][:, 0]
        if self._operation == "concat":
            return torch.cat([quotient, remainder], dim=1)
        return quotient * remainder if self._operation == "product" else quotient + remainder


def _root(ids: int) -> int:
    """⌈√ids⌉."""
    return math.isqrt(ids - 1) + 1


def _scale(operation: Operation, scale: float) -> float:
    """What rows start from, so that the composed vector's standard deviation is that of a full table's rows.

    Uniform in ±s has the variance s²/3; a product's is the product of both, a sum's the sum.
    """
    if operation == "product":
        return math.sqrt(scale * math.sqrt(3))
    return scale / math.sqrt(2) if operation == "sum" else scale
