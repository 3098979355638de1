"""``dedup``: a full table whose blocks of rows, where they are nearly equal, are stored once (Zhou et al. 2022).

First every id has its row. Once trained, rows are taken in blocks of neighbouring ids; blocks that lie near each other
share their mean, and all is trained on. Companions keep a row an id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.rows.sizes import row_bytes
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.code_map import CodeMap, IdCodes, MixedCodes, bits_of
from recsys.tables.full import Full, FullConfig, FullPlan
from recsys.tables.plan import Count, num_ids
from recsys.tables.table import Bytes, Form, Shrinks, TableConfig

_LEAST = 2  # blocks of a table: codes need two to tell apart


@dataclass(frozen=True, kw_only=True)
class DedupConfig(FullConfig):
    """Blocks of ``block_rows``, of which ``num_blocks`` stay; ``stored`` of each block, where that has been found."""

    kind: ClassVar[str] = "dedup"
    block_rows: int = 16
    num_blocks: int | None = None
    stored: IdCodes | MixedCodes | None = None

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, num_blocks=None, stored=None, **changes)


@dataclass(frozen=True, kw_only=True)
class DedupPlan(FullPlan):
    """``num_blocks`` that stay of each table, or what a budget allows, or all.

    ``map``: which block each one reads, as JSON or a file; jobs.train says it.
    """

    block_rows: Count = 16
    num_blocks: Count | None = None
    map: Path | Mapping[str, Any] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> DedupConfig:
        """See TablePlan.table: ``size`` is the number of blocks."""
        stored = None if self._stored is None else self._stored.tables.get(shared["name"])
        num_blocks = self.num_blocks or size
        if stored is not None:
            num_blocks = stored.num_centroids
        return DedupConfig(
            num_embeddings=num_ids(features),
            block_rows=self.block_rows,
            num_blocks=num_blocks,
            stored=stored,
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_blocks is not None

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: a block each."""
        return max(1, -(-(num_ids(features) or 2**40) // self.block_rows))

    @cached_property
    def _stored(self) -> CodeMap | None:
        return None if self.map is None else CodeMap.given(self.map)


class Dedup(Full):
    """As Full; once blocks share, an id's key is its place in the block that its own one reads."""

    shrinks: ClassVar[Shrinks] = "serving"
    stages = ("whole", "shared")

    def __init__(self, config: DedupConfig) -> None:
        super().__init__(config)
        self.num_embeddings, self.block_rows, self.stored = self._num_embeddings, config.block_rows, config.stored
        self.num_blocks = -(-self.num_embeddings // self.block_rows)
        self.num_stored = min(max(_LEAST, config.num_blocks or self.num_blocks), self.num_blocks)
        if self.stored is not None:
            self.num_stored = self.stored.num_centroids
            if self.stored.num_ids != self.num_blocks:
                raise ConfigError(
                    f"table {config.name!r}: table.map is of {self.stored.num_ids} blocks, and there are "
                    f"{self.num_blocks} of {self.block_rows} rows; give the block_rows that it was made with"
                )
            num_rows = self.num_stored * self.block_rows
            self.groups = (config.row_group(width=config.embedding_dim, num_rows=num_rows),)

    @property
    def shares(self) -> bool:
        """Whether fewer blocks are to be stored than there are."""
        return self.num_stored < self.num_blocks

    def nbytes(self, form: Form, num_rows: Mapping[str, int] | None = None) -> Bytes:
        """See Table.nbytes; what is served are the blocks that are stored, and which of them each one reads."""
        if form == "training" or self.stored is not None or not self.shares:
            return super().nbytes(form, num_rows)
        (group,) = self.groups
        codes = PackedCodes.bytes_of(self.num_blocks, bits_of(self.num_stored))
        return Bytes(rows=self.num_stored * self.block_rows * row_bytes(group), dense=0, maps=codes)

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes."""
        return 0 if self.stored is None else self.stored.nbytes

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        if self.stored is None:
            return super().address(feature, ids_N)
        stored_N = torch.from_numpy(self.stored.at((ids_N // self.block_rows).numpy())[:, 0])
        return {self.config.name: (stored_N * self.block_rows + ids_N % self.block_rows)[:, None]}
