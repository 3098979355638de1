"""``codes``: vectors read out of codebooks by codes that a map holds: what ``dpq`` serves.

There are no rows but those of companions: codes go with the blueprint, codebooks are dense parameters. An id that the
map does not hold is unknown.

Shape suffixes: N ids, M sub-spaces, K centroids, S width of a sub-space, D = M · S embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.tables.code_map import CodeMap, IdCodes, MixedCodes
from recsys.tables.dpq import first_codebooks, read_codes
from recsys.tables.full import FullConfig
from recsys.tables.plan import TablePlan, num_ids
from recsys.tables.table import Form, Table, TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class CodesConfig(TableConfig):
    """``codes`` of each id; ``quantizes`` is False of a companion, which has rows."""

    kind: ClassVar[str] = "codes"
    codes: IdCodes | MixedCodes
    quantizes: bool = True

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, quantizes=False, **changes)


@dataclass(frozen=True, kw_only=True)
class CodesPlan(TablePlan):
    """``map``: the file of a map of codes, or the map itself as JSON. A budget can only refuse it.

    A table that the map does not speak of has a row for each of its ids.
    """

    map: Path | Mapping[str, Any] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> TableConfig:
        """See TablePlan.table; ConfigError where embedding_dim can not be cut into the map's sub-spaces."""
        codes = self._code_map.tables.get(shared["name"])
        if codes is None:
            return FullConfig(num_embeddings=num_ids(features), **shared)
        if self.embedding_dim % codes.num_subspaces:
            raise ConfigError(
                f"table.embedding_dim={self.embedding_dim} is no multiple of the {codes.num_subspaces} sub-spaces of "
                f"table.map for {shared['name']!r}; give the embedding_dim that the map was made for"
            )
        return CodesConfig(codes=codes, **shared)

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: there is one."""
        return 1

    @cached_property
    def _code_map(self) -> CodeMap:
        if self.map is None:
            raise ConfigError("table.map is not given (kind=codes); python -m jobs.train table=dpq makes one")
        return CodeMap.given(self.map)


class Codes(Table):
    """Addresses nothing; a companion has the id's row."""

    streams = False

    def __init__(self, config: CodesConfig) -> None:
        super().__init__(config)
        self._codes, self._quantizes = config.codes, config.quantizes
        self.id_range = f"[0, {config.codes.num_ids})"
        if self._quantizes:
            self.groups = ()
            self.codebooks = nn.Parameter(
                first_codebooks(config, config.codes.num_subspaces, config.codes.num_centroids)
            )
        else:
            self.groups = (config.row_group(width=config.embedding_dim, num_rows=config.codes.num_ids),)

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: the codes, in training and serving alike."""
        return self._codes.nbytes if self._quantizes else 0

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {} if self._quantizes else {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        if not self._quantizes:
            return identity(rows_NKW)
        return read_codes(self.codebooks, torch.from_numpy(self._codes.at(ids_N.numpy())))

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return (ids_N >= 0) & (ids_N < self._codes.num_ids)
