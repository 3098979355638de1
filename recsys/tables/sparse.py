"""``sparse``: single weights of rows, by a map of those that stay (what deeplight, pep and autosrh leave).

Numbers that stay lie end to end, by id and column, in an array of rows as wide as an embedding; a bit each says which
those are (compressed sparse rows, bits in place of column numbers). So an id's numbers are in one row of the array, or
in one and the next, and what Redis holds is that array: no zeros, and no key of an id that has nothing left. Bits go
with the blueprint. Ids of which nothing is left are unknown, as in ``pruned``.

A row of the array has numbers of some ids: an optimizer whose rows move without a gradient (momentum, Adam) moves
those of an id's neighbours too, as a dense run does.

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
from recsys.hashing import Floats, Keys
from recsys.rows.optimizers import Optimizer
from recsys.tables.full import FullConfig
from recsys.tables.plan import TablePlan, num_ids
from recsys.tables.sparse_map import SparseIds, SparseMap
from recsys.tables.table import Form, Table, TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class SparseConfig(TableConfig):
    """``weights``: which numbers stay. A companion ``borrows`` the map: it has a number of each id that has any."""

    kind: ClassVar[str] = "sparse"
    weights: SparseIds
    borrows: bool = False

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, borrows=True, **changes)


@dataclass(frozen=True, kw_only=True)
class SparsePlan(TablePlan):
    """``map``: the file of a map of weights, or the map itself as JSON. A budget can only refuse it.

    A table that the map does not speak of has a row for each of its ids.
    """

    map: Path | Mapping[str, Any] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> TableConfig:
        """See TablePlan.table."""
        weights = self._sparse_map.tables.get(shared["name"])
        if weights is None:
            return FullConfig(num_embeddings=num_ids(features), **shared)
        return SparseConfig(weights=weights, **shared)

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: there is one."""
        return 1

    @cached_property
    def _sparse_map(self) -> SparseMap:
        if self.map is None:
            raise ConfigError("table.map is not given (kind=sparse); python -m jobs.train table=deeplight makes one")
        return SparseMap.given(self.map)


class Sparse(Table):
    """Two keys an id: the row of the array where its numbers begin, and the one where they end, often the same."""

    streams = False

    def __init__(self, config: SparseConfig) -> None:
        super().__init__(config)
        self._weights, self._borrows = config.weights, config.borrows
        self.id_range = f"the {self._weights.num_kept} ids of [0, {self._weights.num_ids}) of which something is left"
        self._width = 1 if config.borrows else self._weights.width
        num_numbers = self._weights.num_kept if config.borrows else self._weights.num_weights
        self._num_rows = max(1, -(-num_numbers // self._width))
        self.groups = (config.row_group(width=self._width, num_rows=self._num_rows),)

    @property
    def prunes(self) -> bool:
        """Whether single numbers have gone, and not whole rows alone."""
        return not self._borrows

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: the bits, once for a table and its companion."""
        return 0 if self._borrows else self._weights.nbytes

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = np.where(self._weights.holds(ids_N.numpy()), ids_N.numpy(), 0)  # others are left out of their bags before
        if self._borrows:
            firsts_N = self._weights.ranks(ids)[:, None]
            return {self.config.name: torch.from_numpy(np.minimum(firsts_N, self._num_rows - 1))}
        starts_N, counts_N = self._weights.starts(ids), self._weights.masks(ids).sum(axis=1)
        keys_N2 = np.stack([starts_N, starts_N + np.maximum(counts_N, 1) - 1], axis=1) // self._width
        return {self.config.name: torch.from_numpy(np.minimum(keys_N2, self._num_rows - 1))}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        if self._borrows:
            return identity(rows_NKW)
        masks_ND = torch.from_numpy(self._weights.masks(ids_N.numpy()))
        offsets_N = torch.from_numpy(self._weights.starts(np.maximum(ids_N.numpy(), 0)) % self._width)
        places_ND = offsets_N[:, None] + (masks_ND.cumsum(1) - 1).clamp_min(0)
        vectors_ND = rows_NKW[self.config.name].flatten(1).gather(1, places_ND) * masks_ND
        # a model that asks for wider rows than embedding_dim is planned twice, and had its weights chosen among those
        return functional.pad(vectors_ND, (0, self.config.embedding_dim - self._width))

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return torch.from_numpy(self._weights.holds(ids_N.numpy()))

    def packed(self, vectors_ID: Floats) -> tuple[Keys, Floats]:
        """Keys and rows of the array, of the vectors of all ids: zeros after the last."""
        everyone = np.arange(self._weights.num_ids)
        kept = self._weights.holds(everyone)[:, None] if self._borrows else self._weights.masks(everyone)
        numbers = np.zeros(self._num_rows * self._width, np.float32)
        numbers[: int(kept.sum())] = vectors_ID[kept]
        return np.arange(self._num_rows), numbers.reshape(self._num_rows, self._width)
