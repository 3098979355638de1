"""The Table interface: how ids become row keys, and rows become vectors.

::

    ids ──address──▶ row keys ──RowStore.pull──▶ rows ──compose──▶ vectors ──pool──▶ one embedding an example

Everything else (where rows live, how they are updated, sharded, saved and served) is the row store's.

Shape suffixes: N ids, K keys an id, W row width, D embedding dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.rows.store import RowFormat, RowGroup

Pooling = Literal["sum", "mean"]
Absent = Literal["initial", "zeros"]


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """What every kind of table is told. The first four fields are ``torchrec.EmbeddingBagConfig``'s."""

    kind: ClassVar[str]

    name: str
    embedding_dim: int
    feature_names: tuple[str, ...]
    pooling: Pooling = "sum"
    optimizer: Optimizer
    initial: Initial = field(default_factory=Initial)
    seed: int = 0
    absent: Absent = "initial"
    row_format: RowFormat = "float32"

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise ConfigError(f"table {self.name!r}: embedding_dim {self.embedding_dim} must be at least 1")
        if not self.feature_names:
            raise ConfigError(f"table {self.name!r} has no features; name at least one in feature_names")
        if self.pooling not in ("sum", "mean"):
            raise ConfigError(f"table {self.name!r}: pooling {self.pooling!r} must be 'sum' or 'mean'")

    def row_group(self, *, width: int, num_rows: int | None, suffix: str = "") -> RowGroup:
        """A row group of this table; another table of the same name and config means the same rows."""
        return RowGroup(
            name=self.name + suffix,
            width=width,
            num_rows=num_rows,
            optimizer=self.optimizer,
            initial=self.initial,
            seed=self.seed,
            absent=self.absent,
            row_format=self.row_format,
        )

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> "TableConfig":
        """The width-1 companion for a model's linear part: same kind and sizes, starting from zero."""
        return replace(
            self,
            name=f"{self.name}.first_order",
            embedding_dim=1,
            initial=Initial(scale=0.0),
            optimizer=optimizer,
            **changes,
        )


class Table(nn.Module, ABC):
    """One embedding table, compressed or not. Subclasses set ``groups`` and write ``address`` and ``compose``.

    ``linear``: compose is linear and the same for every id of a feature, so that rows may be pooled before it.
    ``id_range``: what ``known`` says, in words.
    """

    linear: bool = False
    id_range: str = "int64"
    groups: tuple[RowGroup, ...]

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """Row keys of ids: int64 (N, K) by row group. Pure: the same in every process, creates nothing."""

    @abstractmethod
    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """Vectors (N, D) from the rows found at ``address``'s keys; differentiable in rows and parameters."""

    def known(self, feature: str, ids_N: Tensor) -> Tensor | None:
        """Which ids the table can hold: bool (N,), or None for all; the others are left out of their bags."""
        return None

    def penalty(self) -> Tensor:
        """A term for the loss; none by default."""
        return torch.zeros(())


def identity(rows_NKW: Mapping[str, Tensor]) -> Tensor:
    """The one row of each id, as it is."""
    (rows,) = rows_NKW.values()
    return rows[:, 0, :]


def require(config: TableConfig, name: str, remedy: str) -> Any:
    """A field that must be set and at least 1."""
    value = getattr(config, name)
    if value is None or value < 1:
        raise ConfigError(f"table {config.name!r} (kind={config.kind}): {name} is {value}; {remedy}")
    return value
