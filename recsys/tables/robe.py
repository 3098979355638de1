"""``robe``: pieces of one array, found by hashing, with signs (ROBE; Desai et al. 2022).

An embedding is cut into blocks of ``block_size`` numbers. A block of an id starts anywhere in an array of
num_rows × block_size numbers and is read on from there, around the array's end; each number has the sign that another
hash says. As rows: a block lies in one row of the array, or in two that follow each other.

Shape suffixes: N ids, C blocks an embedding, Z block size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.hashing import Keys
from recsys.rows.optimizers import Optimizer
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, require

_BITS = 64  # signs out of one hash


@dataclass(frozen=True, kw_only=True)
class RobeConfig(TableConfig):
    """``num_rows`` rows of ``block_size`` numbers, one array; blocks as long as an embedding where it is None."""

    kind: ClassVar[str] = "robe"
    num_rows: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is not None and self.embedding_dim % self.block_size:
            raise ConfigError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} must be a multiple of block_size "
                f"{self.block_size}"
            )

    @property
    def block(self) -> int:
        """Numbers of a block."""
        return self.block_size or self.embedding_dim

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; as many rows, of one number."""
        return super().narrowed(optimizer, block_size=1, **changes)


@dataclass(frozen=True, kw_only=True)
class RobePlan(TablePlan):
    """``num_rows`` rows a table; without it, as many as a budget allows, or as hold a full table's numbers."""

    num_rows: Count | None = None
    block_size: Count | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> RobeConfig:
        """See TablePlan.table: ``size`` is the number of rows."""
        ids = num_ids(features)
        full = None if ids is None else ids * (self.embedding_dim // (self.block_size or self.embedding_dim))
        return RobeConfig(num_rows=self.num_rows or size or full, block_size=self.block_size, **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_rows is not None


class Robe(Table):
    """Two keys a block: the row where it starts, and the next (the same one, where it ends with the row)."""

    def __init__(self, config: RobeConfig) -> None:
        super().__init__(config)
        self._num_rows = require(config, "num_rows", "set num_rows, or compression with the feature's num_embeddings")
        self._block = config.block
        num_blocks = config.embedding_dim // self._block
        self._seeds_C = [hashing.seed_of(config.seed, config.name, "block", at) for at in range(num_blocks)]
        num_hashes = -(-config.embedding_dim // _BITS)
        self._sign_seeds = [hashing.seed_of(config.seed, config.name, "signs", at) for at in range(num_hashes)]
        self.groups = (config.row_group(width=self._block, num_rows=self._num_rows),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        rows_NC, offsets_NC = np.divmod(self._starts(ids_N), self._block)
        next_NC = np.where(offsets_NC > 0, (rows_NC + 1) % self._num_rows, rows_NC)
        keys_NC2 = np.stack([rows_NC, next_NC], axis=2)
        return {self.config.name: torch.from_numpy(keys_NC2.reshape(len(ids_N), 2 * len(self._seeds_C)))}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        (rows,) = rows_NKW.values()
        pairs_NCW = rows.reshape(len(rows), len(self._seeds_C), 2 * self._block)
        offsets_NC = torch.from_numpy(self._starts(ids_N) % self._block)
        places_NCZ = offsets_NC[:, :, None] + torch.arange(self._block)
        return pairs_NCW.gather(2, places_NCZ).flatten(1) * self.signs(ids_N)

    def signs(self, ids_N: Tensor) -> Tensor:
        """+1 or −1 for each number of each id's embedding, (N, D)."""
        hashes = np.stack([hashing.mix64(ids_N.numpy(), seed) for seed in self._sign_seeds], axis=1)
        bits = np.unpackbits(hashes.astype("<u8").view(np.uint8), axis=1, bitorder="little")
        return torch.from_numpy(bits[:, : self.config.embedding_dim].astype(np.float32)) * 2 - 1

    def _starts(self, ids_N: Tensor) -> Keys:
        """Where in the array each block begins, (N, C)."""
        ids, length = ids_N.numpy(), self._num_rows * self._block
        return np.stack([hashing.hash_to_range(ids, length, seed) for seed in self._seeds_C], axis=1)
