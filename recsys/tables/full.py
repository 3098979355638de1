"""``full``: one row an id, ids 0 … num_embeddings − 1. What every compressed table is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recsys.tables.table import Table, TableConfig, identity, require


@dataclass(frozen=True, kw_only=True)
class FullConfig(TableConfig):
    """``num_embeddings`` rows, as ``torchrec.EmbeddingBagConfig``."""

    kind: ClassVar[str] = "full"
    num_embeddings: int | None = None


class Full(Table):
    """The id is the key; an id outside [0, num_embeddings) is a DataError of the row store."""

    linear = True

    def __init__(self, config: FullConfig) -> None:
        super().__init__(config)
        rows = require(config, "num_embeddings", "set the feature's num_embeddings or vocabulary, or use another kind")
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=rows),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
