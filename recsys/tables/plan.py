"""From five lines of YAML to the tables of all features.

``table: {kind: hash, embedding_dim: 16, compression: 4}`` says how tables are made; the features say which there
are, and how many ids each has.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.fields import AtLeast
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.rows.store import RowFormat
from recsys.tables.table import Absent, Pooling, TableConfig

Count = Annotated[int, AtLeast(1)]
Compression = Annotated[float, AtLeast(1)]  # 4: a quarter of the full table's bytes


@dataclass(frozen=True, kw_only=True)
class TablePlan(ABC):
    """The YAML fields of every kind. A kind adds its own, and says what table they make for some features."""

    kind: str
    embedding_dim: Count = 16
    pooling: Pooling = "mean"
    absent: Absent = "initial"
    row_format: RowFormat = "float32"
    initial_scale: Annotated[float, AtLeast(0)] = 0.05

    def tables(self, features: Sequence[Feature], *, optimizer: Optimizer, seed: int) -> list[TableConfig]:
        """The tables of sparse features; ConfigError for a size that can not be found."""
        return [
            self.table(
                users,
                name=name,
                feature_names=tuple(feature.name for feature in users),
                seed=hashing.seed_of(seed, name),
                embedding_dim=self.embedding_dim,
                pooling=self.pooling,
                absent=self.absent,
                row_format=self.row_format,
                initial=Initial(scale=self.initial_scale),
                optimizer=optimizer,
            )
            for name, users in self.grouped(features).items()
        ]

    def grouped(self, features: Sequence[Feature]) -> Mapping[str, Sequence[Feature]]:
        """Features by the table they read; those that name the same table share it, unless a kind says otherwise."""
        groups: dict[str, list[Feature]] = {}
        for feature in features:
            groups.setdefault(feature.table_name, []).append(feature)
        return groups

    @abstractmethod
    def table(self, features: Sequence[Feature], **shared: Any) -> TableConfig:
        """The kind's config for ``features``: ``shared`` are the fields of TableConfig, sizes are the kind's own."""


def num_ids(features: Sequence[Feature]) -> int | None:
    """How many ids the features of one table have: the largest size declared; None where none is."""
    return max((feature.size for feature in features if feature.size is not None), default=None)
