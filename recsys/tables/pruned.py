"""``pruned``: rows of the ids that a map keeps, each table's of a width of its own (what OptEmbed retrains and serves).

An id that is not kept is unknown: its bag goes without it, and reads zeros where nothing else is in it. Rows are keyed
by id, so they start from the very values that they had before anything was pruned (OptEmbed, after the lottery ticket).
A companion starts from zero, whatever its keys are: its rows lie one after the other, and need none.

Shape suffixes: N ids, K keys an id, W row width, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.tables.full import FullConfig
from recsys.tables.kept_map import KeptIds, KeptMap
from recsys.tables.plan import TablePlan, num_ids
from recsys.tables.table import Bytes, Form, Table, TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class PrunedConfig(TableConfig):
    """``kept``: which ids have rows, of ``row_width``. A companion ``borrows`` its table's map."""

    kind: ClassVar[str] = "pruned"
    kept: KeptIds
    row_width: int
    borrows: bool = False

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed: pruned as its table is."""
        return super().narrowed(optimizer, row_width=1, borrows=True, **changes)


@dataclass(frozen=True, kw_only=True)
class PrunedPlan(TablePlan):
    """``map``: the file of a map of kept ids, or the map itself as JSON. A budget can only refuse it.

    A table that the map does not speak of has a row for each of its ids.
    """

    map: Path | Mapping[str, Any] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> TableConfig:
        """See TablePlan.table."""
        kept = self._kept_map.tables.get(shared["name"])
        if kept is None:
            return FullConfig(num_embeddings=num_ids(features), **shared)
        # a model that asks for wider rows than embedding_dim is planned twice, and had its widths searched among those
        return PrunedConfig(kept=kept, row_width=min(kept.width, self.embedding_dim), **shared)

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: there is one."""
        return 1

    @cached_property
    def _kept_map(self) -> KeptMap:
        if self.map is None:
            raise ConfigError("table.map is not given (kind=pruned); python -m jobs.train table=optembed makes one")
        return KeptMap.given(self.map)


class Pruned(Table):
    """The id is the key of its row, of a companion how many kept ids are below it; zeros follow after a row's width."""

    streams = False
    linear = True

    def __init__(self, config: PrunedConfig) -> None:
        super().__init__(config)
        self._kept, self._borrows = config.kept, config.borrows
        self.id_range = f"the {config.kept.num_kept} ids of [0, {config.kept.num_ids}) that are kept"
        num_rows = max(1, config.kept.num_kept) if config.borrows else None
        self.groups = (config.row_group(width=config.row_width, num_rows=num_rows),)

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: a good bit an id, once for a table and its companion."""
        return 0 if self._borrows else self._kept.nbytes

    def nbytes(self, form: Form, num_rows: Mapping[str, int] | None = None) -> Bytes:
        """See Table.nbytes; without ``num_rows``, a row of each kept id."""
        return super().nbytes(form, {self.groups[0].name: self._kept.num_kept, **(num_rows or {})})

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        if not self._borrows:
            return {self.config.name: ids_N[:, None]}
        ids = np.where(self._kept.holds(ids_N.numpy()), ids_N.numpy(), 0)  # others are left out of their bags before
        keys_N = np.minimum(self._kept.ranks(ids), max(0, self._kept.num_kept - 1))
        return {self.config.name: torch.from_numpy(keys_N)[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows_NW = identity(rows_NKW)
        return functional.pad(rows_NW, (0, self.config.embedding_dim - rows_NW.shape[1]))

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return torch.from_numpy(self._kept.holds(ids_N.numpy()))
