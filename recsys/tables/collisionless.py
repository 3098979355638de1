"""``collisionless``: every 64-bit id has a row of its own, made when it is first trained (Monolith §3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from recsys.features.declarations import Feature
from recsys.tables.plan import TablePlan
from recsys.tables.table import Table, TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class CollisionlessConfig(TableConfig):
    """Nothing to size: the table grows with the ids."""

    kind: ClassVar[str] = "collisionless"


@dataclass(frozen=True, kw_only=True)
class CollisionlessPlan(TablePlan):
    """The shared fields are all there is to say."""

    def table(self, features: Sequence[Feature], **shared: Any) -> CollisionlessConfig:
        """See TablePlan.table."""
        return CollisionlessConfig(**shared)


class Collisionless(Table):
    """The id, any int64, is the key; the store's collisionless map finds its row."""

    linear = True

    def __init__(self, config: CollisionlessConfig) -> None:
        super().__init__(config)
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=None),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
