"""``unified``: all features share one table, each id reading several narrow rows (Coleman et al. 2023).

A feature's embedding is the concatenation of its chunks: chunk k of id v is row ``hash(v; salt of (feature, k))``.
Salts come from the feature's *name*, so that adding, removing or reordering features moves no other's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys import hashing
from recsys.errors import ConfigError, unknown
from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.tables.plan import Count, TablePlan, num_ids, unsized
from recsys.tables.table import Table, TableConfig, require


@dataclass(frozen=True, kw_only=True)
class UnifiedConfig(TableConfig):
    """``num_rows`` rows shared by all features; each embedding is ``num_chunks`` of them side by side.

    ``chunks``: how many a feature reads that needs fewer (the paper's multi-size); the rest of its embedding is zeros.
    ``salts`` names the vocabulary a feature belongs to where that is not the feature itself: two features over the
    same ids (the item shown, the items liked) read the same rows.
    """

    kind: ClassVar[str] = "unified"
    num_rows: int | None = None
    num_chunks: int = 2
    chunks: Mapping[str, int] | None = None
    salts: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_chunks < 1 or self.embedding_dim % self.num_chunks:
            raise ConfigError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} must be a multiple of num_chunks "
                f"{self.num_chunks}"
            )
        for feature, chunks in (self.chunks or {}).items():
            if feature not in self.feature_names:
                raise unknown(f"feature of table {self.name!r} in chunks:", feature, self.feature_names)
            if chunks > self.num_chunks:
                raise ConfigError(
                    f"table {self.name!r}: chunks.{feature}={chunks} is more than num_chunks={self.num_chunks}, which "
                    "is all of an embedding; give fewer, or raise num_chunks"
                )

    @property
    def row_width(self) -> int:
        """The width of a chunk."""
        return self.embedding_dim // self.num_chunks

    def chunk_seeds(self, feature: str) -> list[int]:
        """What the ids of a feature are hashed with, for each of its chunks."""
        salt = (self.salts or {}).get(feature, feature)
        num_chunks = (self.chunks or {}).get(feature, self.num_chunks)
        return [hashing.seed_of(self.seed, salt, chunk) for chunk in range(num_chunks)]

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; one chunk is all that width 1 has."""
        return super().narrowed(optimizer, num_chunks=1, chunks=None, **changes)


@dataclass(frozen=True, kw_only=True)
class UnifiedPlan(TablePlan):
    """``num_rows`` rows; without it, as many as a budget allows, or as fit into the bytes of the full tables."""

    num_rows: Count | None = None
    num_chunks: Count = 2
    chunks: Mapping[str, Count] | None = None

    def grouped(self, features: Sequence[Feature]) -> Mapping[str, Sequence[Feature]]:
        """See TablePlan.grouped: one table over all."""
        return {"unified": features}

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> UnifiedConfig:
        """See TablePlan.table: ``size`` is the number of rows."""
        return UnifiedConfig(
            num_rows=self.num_rows or size or self._rows_for(features),
            num_chunks=self.num_chunks,
            chunks=self.chunks,
            salts={feature.name: feature.table_name for feature in features},
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_rows is not None

    def _rows_for(self, features: Sequence[Feature]) -> int:
        """Rows are num_chunks times narrower than an embedding, so as many more fit into the same bytes."""
        total = num_ids(features)
        if total is None:
            raise ConfigError(
                f"table kind=unified: num_embeddings of {', '.join(unsized(features))} is not known; set table.num_rows"
            )
        return self.num_chunks * total


class Unified(Table):
    """K = a feature's chunks, W = embedding_dim / num_chunks."""

    linear = True

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self._num_rows = require(config, "num_rows", "set num_rows, or compression with every feature's num_embeddings")
        self._seeds_K = {feature: config.chunk_seeds(feature) for feature in config.feature_names}
        self.groups = (config.row_group(width=config.row_width, num_rows=self._num_rows),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = ids_N.numpy()
        keys_NK = np.stack(
            [hashing.hash_to_range(ids, self._num_rows, seed) for seed in self._seeds_K[feature]], axis=1
        )
        return {self.config.name: torch.from_numpy(keys_NK)}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        (rows,) = rows_NKW.values()
        side_by_side = rows.flatten(1)
        missing = self.config.embedding_dim - side_by_side.shape[1]
        return functional.pad(side_by_side, (0, missing)) if missing else side_by_side
