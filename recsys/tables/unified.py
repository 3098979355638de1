"""``unified``: all features share one table, each id reading several narrow rows (Coleman et al. 2023).

A feature's embedding is the concatenation of its chunks: chunk k of id v is row ``hash(v; salt of (feature, k))``.
Salts come from the feature's *name*, so that adding, removing or reordering features moves no other's rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.tables.plan import Compression, Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, require


@dataclass(frozen=True, kw_only=True)
class UnifiedConfig(TableConfig):
    """``num_rows`` rows shared by all features; each embedding is ``num_chunks`` of them side by side.

    ``salts`` names the vocabulary a feature belongs to where that is not the feature itself: two features over the
    same ids (the item shown, the items liked) read the same rows.
    """

    kind: ClassVar[str] = "unified"
    num_rows: int | None = None
    num_chunks: int = 2
    salts: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_chunks < 1 or self.embedding_dim % self.num_chunks:
            raise ConfigError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} must be a multiple of num_chunks "
                f"{self.num_chunks}"
            )

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; one chunk is all that width 1 has."""
        return super().narrowed(optimizer, num_chunks=1, **changes)


@dataclass(frozen=True, kw_only=True)
class UnifiedPlan(TablePlan):
    """``num_rows`` rows; without it, as many as fit into the bytes of the full tables divided by ``compression``."""

    num_rows: Count | None = None
    num_chunks: Count = 2
    compression: Compression = 1.0

    def grouped(self, features: Sequence[Feature]) -> Mapping[str, Sequence[Feature]]:
        """See TablePlan.grouped: one table over all."""
        return {"unified": features}

    def table(self, features: Sequence[Feature], **shared: Any) -> UnifiedConfig:
        """See TablePlan.table."""
        return UnifiedConfig(
            num_rows=self._rows_for(features) if self.num_rows is None else self.num_rows,
            num_chunks=self.num_chunks,
            salts={feature.name: feature.table_name for feature in features},
            **shared,
        )

    def _rows_for(self, features: Sequence[Feature]) -> int:
        sizes = {name: num_ids(users) for name, users in super().grouped(features).items()}
        if missing := [name for name, size in sizes.items() if size is None]:
            raise ConfigError(
                f"table kind=unified: num_embeddings of {', '.join(missing)} is not known; set table.num_rows"
            )
        total = sum(size for size in sizes.values() if size is not None)
        # rows are num_chunks times narrower than an embedding, so as many more fit into the same bytes
        return math.ceil(self.num_chunks * total / self.compression)


class Unified(Table):
    """K = num_chunks keys an id, W = embedding_dim / num_chunks."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self._num_rows = require(config, "num_rows", "set num_rows, or compression with every feature's num_embeddings")
        salts = config.salts or {}
        self._salts_K = {
            feature: [
                hashing.seed_of(config.seed, salts.get(feature, feature), chunk) for chunk in range(config.num_chunks)
            ]
            for feature in config.feature_names
        }
        width = config.embedding_dim // config.num_chunks
        self.groups = (config.row_group(width=width, num_rows=self._num_rows),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = ids_N.numpy()
        keys_NK = np.stack(
            [hashing.hash_to_range(ids, self._num_rows, salt) for salt in self._salts_K[feature]], axis=1
        )
        return {self.config.name: torch.from_numpy(keys_NK)}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        (rows,) = rows_NKW.values()
        return rows.reshape(len(rows), self.config.embedding_dim)
