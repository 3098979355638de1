"""``full``: one row an id, ids 0 … num_embeddings − 1. What every compressed table is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from recsys.features.declarations import Feature
from recsys.tables.plan import TablePlan, num_ids
from recsys.tables.table import Shrinks, Table, TableConfig, identity, require


@dataclass(frozen=True, kw_only=True)
class FullConfig(TableConfig):
    """``num_embeddings`` rows, as ``torchrec.EmbeddingBagConfig``."""

    kind: ClassVar[str] = "full"
    num_embeddings: int | None = None


@dataclass(frozen=True, kw_only=True)
class FullPlan(TablePlan):
    """A row for each id that the features declare; a budget can only refuse it."""

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> FullConfig:
        """See TablePlan.table."""
        return FullConfig(num_embeddings=num_ids(features), **shared)

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: there is one."""
        return 1


class Full(Table):
    """The id is the key; an id outside [0, num_embeddings) is unknown."""

    shrinks: ClassVar[Shrinks] = "nothing"
    streams = False
    linear = True

    def __init__(self, config: FullConfig) -> None:
        super().__init__(config)
        self._num_embeddings = require(
            config, "num_embeddings", "set the feature's num_embeddings or vocabulary, or use another kind"
        )
        self.id_range = f"[0, {self._num_embeddings})"
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self._num_embeddings),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return (ids_N >= 0) & (ids_N < self._num_embeddings)
