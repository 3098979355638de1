"""``hash``: ids hashed into fewer rows; those that collide share one (Weinberger et al. 2009)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recsys import hashing
from recsys.tables.table import Table, TableConfig, identity, require


@dataclass(frozen=True, kw_only=True)
class HashConfig(TableConfig):
    """``num_buckets`` rows for however many ids."""

    kind: ClassVar[str] = "hash"
    num_buckets: int | None = None


class Hash(Table):
    """key = hash(id; the table's seed) mod num_buckets."""

    linear = True

    def __init__(self, config: HashConfig) -> None:
        super().__init__(config)
        self._num_buckets = require(
            config, "num_buckets", "set num_buckets, or compression with the feature's num_embeddings"
        )
        self._salt = hashing.seed_of(config.seed, config.name, "hash")
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self._num_buckets),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys_N = hashing.hash_to_range(ids_N.numpy(), self._num_buckets, self._salt)
        return {self.config.name: torch.from_numpy(keys_N)[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
