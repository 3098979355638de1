"""``collisionless``: every 64-bit id has a row of its own, made when it is first trained (Monolith §3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor

from recsys.features.declarations import Feature
from recsys.fields import Above
from recsys.rows.policies import Admission, Eviction, build_admission
from recsys.tables.plan import TablePlan
from recsys.tables.table import Table, TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class CollisionlessConfig(TableConfig):
    """Nothing to size: the table grows with the ids, as far as these let it (see RowGroup)."""

    kind: ClassVar[str] = "collisionless"

    admission: Admission | None = None
    ttl_seconds: float | None = None
    eviction: Eviction | None = None


@dataclass(frozen=True, kw_only=True)
class CollisionlessPlan(TablePlan):
    """Which ids get a row, and which rows leave, where ids never end. A budget lets the rows touched last stay."""

    admission: Mapping[str, Any] | None = None
    ttl_seconds: Annotated[float, Above(0)] | None = None
    eviction: Eviction | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> CollisionlessConfig:
        """See TablePlan.table: ``size`` is the number of rows, beyond which the longest untouched leave."""
        admission = None if self.admission is None else build_admission(self.admission, "table.admission")
        eviction = self.eviction if size is None else Eviction(kind="lru", max_rows=size)
        return CollisionlessConfig(admission=admission, ttl_seconds=self.ttl_seconds, eviction=eviction, **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.eviction is not None


class Collisionless(Table):
    """The id, any int64, is the key; the store's collisionless map finds its row."""

    shrinks = "nothing"  # but what ``admission`` and a budget keep out
    linear = True

    def __init__(self, config: CollisionlessConfig) -> None:
        super().__init__(config)
        group = config.row_group(width=config.embedding_dim, num_rows=None)
        self.groups = (
            replace(group, admission=config.admission, ttl_seconds=config.ttl_seconds, eviction=config.eviction),
        )

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
