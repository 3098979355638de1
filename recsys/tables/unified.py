"""``unified``: all features share one table, each id reading several narrow rows (Coleman et al. 2023).

A feature's embedding is the concatenation of its chunks: chunk k of id v is row ``hash(v; salt of (feature, k))``.
Salts come from the feature's *name*, so that adding, removing or reordering features moves no other's rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
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
