"""``mde``: narrow rows for large vocabularies, projected to embedding_dim (mixed dimensions; Ginart et al. 2019).

A vocabulary of n ids has rows of λ · n^−α numbers: those of many rare ids have little to learn from. α = 0 gives all
the full width. A budget says λ; widths are whole numbers, and what they take is counted, not rounded to powers of two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import Between
from recsys.rows.optimizers import Optimizer
from recsys.tables.budget import Sized, share_out
from recsys.tables.plan import TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, identity, require

_STEPS = 1 << 16  # in which a budget tries λ


@dataclass(frozen=True, kw_only=True)
class MDEConfig(TableConfig):
    """``num_embeddings`` rows of ``row_width``."""

    kind: ClassVar[str] = "mde"
    num_embeddings: int | None = None
    row_width: int

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; width 1 has nothing to project."""
        return super().narrowed(optimizer, row_width=1, **changes)


@dataclass(frozen=True, kw_only=True)
class MDEPlan(TablePlan):
    """``alpha``: how much faster than its number of ids a vocabulary's rows become narrow.

    Without a budget λ is embedding_dim. ``widths``, by table, go before both: what table=autodim finds.
    """

    alpha: Annotated[float, Between(0, 1)] = 0.3
    widths: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, width in (self.widths or {}).items():
            if not isinstance(width, int) or width < 1:
                raise ConfigError(f"widths of {name!r} is {width!r}, and must be a whole number from 1 on")

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> MDEConfig:
        """See TablePlan.table: ``size`` is the width of the rows."""
        ids = num_ids(features)
        width = self._given_width(shared["name"]) or size or self._width(self.embedding_dim, ids or 1)
        if ids is not None and width * (ids + self.embedding_dim) >= ids * self.embedding_dim:
            width = self.embedding_dim  # of so few ids, the projection would take what narrow rows save
        return MDEConfig(num_embeddings=ids, row_width=width, **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.widths is not None

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size."""
        return self.embedding_dim

    def _sizes(self, tables: Sequence[Sized], num_bytes: float, asked: str) -> Mapping[str, int]:
        """One λ for all vocabularies: the largest within the budget."""
        share_out(tables, num_bytes, asked)  # refuses what can not be
        largest = max(table.full_bytes for table in tables)  # as many times the ids of others as it is larger

        def widths(step: int) -> dict[str, int]:
            of_largest = self.embedding_dim * step / _STEPS
            return {table.name: self._width(of_largest, table.full_bytes / largest) for table in tables}

        def bytes_at(step: int) -> int:
            found = widths(step)
            return sum(table.bytes_at(found[table.name]) for table in tables)

        return widths(Sized("all", largest, _STEPS, bytes_at).largest_within(num_bytes))

    def _given_width(self, name: str) -> int | None:
        """What ``widths`` says: a model that asks for wider rows than embedding_dim had them searched among those."""
        return None if self.widths is None or name not in self.widths else min(self.widths[name], self.embedding_dim)

    def _width(self, base: float, ids: float) -> int:
        """base · ids^−α, as a whole number that can be."""
        return max(1, min(self.embedding_dim, math.floor(base * ids**-self.alpha + 1e-9)))


class MDE(Table):
    """The id is the key of a narrow row; an id outside [0, num_embeddings) is unknown."""

    streams = False
    linear = True

    def __init__(self, config: MDEConfig) -> None:
        super().__init__(config)
        self._num_embeddings = require(config, "num_embeddings", "set the feature's num_embeddings or vocabulary")
        self.id_range = f"[0, {self._num_embeddings})"
        self.groups = (config.row_group(width=config.row_width, num_rows=self._num_embeddings),)
        if config.row_width < config.embedding_dim:
            self.projection = nn.Parameter(first_projection(config, config.row_width))

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows = identity(rows_NKW)
        return rows @ self.projection if rows.shape[1] < self.config.embedding_dim else rows

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return (ids_N >= 0) & (ids_N < self._num_embeddings)


def first_projection(config: TableConfig, row_width: int) -> Tensor:
    """(row_width, embedding_dim), of the variance 1 / row_width: a projected row is as large as a full one."""
    seed = hashing.seed_of(config.seed, config.name, "projection")
    drawn = hashing.uniform(np.arange(row_width), config.embedding_dim, seed)
    return torch.from_numpy(drawn * np.float32(math.sqrt(3 / row_width)))
