"""``cce``: sums of two rows, of which one is found by clustering (CCE, Tsang and Ahle 2023, algorithm 3).

A vector is cut into chunks. A chunk is the sum of a row of a first table and a row of a second one; at first both are
found by hash. Once trained, the chunks of all ids are clustered (k-means): an id's row of the first table is then its
cluster's, which starts at the centroid, its row of the second one is by a new hash, and starts at zero. Ids that the
clustering did not know stay with a hash in both.

Shape suffixes: N ids, C chunks, S width of a chunk, D = C · S embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import AtLeast
from recsys.hashing import Keys
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.code_map import CodeMap, IdCodes, MixedCodes, bits_of
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Form, Table, TableConfig, require

_TABLES = 2  # a chunk is the sum of a row of each


@dataclass(frozen=True, kw_only=True)
class CCEConfig(TableConfig):
    """``num_clusters`` rows of each table of each chunk; ``clusters`` of the ids after ``round`` clusterings, or None.

    ``counts_map`` is False of a companion, which reads the first chunk's clusters of its table's map.
    """

    kind: ClassVar[str] = "cce"
    num_clusters: int | None = None
    num_chunks: int = 4
    round: int = 0
    clusters: IdCodes | MixedCodes | None = None
    counts_map: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_dim % self.num_chunks:
            raise ConfigError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} must be a multiple of num_chunks "
                f"{self.num_chunks}"
            )

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, num_chunks=1, counts_map=False, **changes)


@dataclass(frozen=True, kw_only=True)
class CCEPlan(TablePlan):
    """``num_clusters``, or what a budget allows. Ids are clustered ``rounds`` times.

    ``map`` and ``round``: the clusters that the last of them left, as JSON or a file; jobs.train says both.
    """

    num_clusters: Annotated[int, AtLeast(2)] | None = None
    num_chunks: Count = 4
    rounds: Count = 1
    round: Annotated[int, AtLeast(0)] = 0
    map: Path | Mapping[str, Any] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> CCEConfig:
        """See TablePlan.table: ``size`` is the number of clusters, less 1."""
        clusters = None if self._clusters is None else self._clusters.tables.get(shared["name"])
        num_clusters = self.num_clusters or (None if size is None else size + 1)
        if clusters is not None:
            num_clusters = clusters.num_centroids
            if clusters.num_subspaces != self.num_chunks:
                raise ConfigError(
                    f"table.num_chunks={self.num_chunks}, and table.map has clusters of {clusters.num_subspaces} for "
                    f"{shared['name']!r}; give the num_chunks that the map was made for"
                )
        return CCEConfig(
            num_clusters=num_clusters, num_chunks=self.num_chunks, round=self.round, clusters=clusters, **shared
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_clusters is not None

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size: no more clusters than ids."""
        return max(1, (num_ids(features) or 2**40) - 1)

    @cached_property
    def _clusters(self) -> CodeMap | None:
        return None if self.map is None else CodeMap.given(self.map)


class CCE(Table):
    """Rows of all tables of all chunks lie in one group: table t of chunk c from row (2 c + t) · num_clusters on."""

    stages = ("hashed", "clustered")
    linear = True

    def __init__(self, config: CCEConfig) -> None:
        super().__init__(config)
        self.num_clusters = require(
            config, "num_clusters", "set num_clusters, or compression with the feature's num_embeddings"
        )
        self.num_ids = require(config, "num_ids", "set the feature's num_embeddings or vocabulary")
        self.num_chunks, self._clusters, self.counts_map = config.num_chunks, config.clusters, config.counts_map
        self._salts = [
            hashing.seed_of(config.seed, config.name, "hash", chunk, table, config.round if table else 0)
            for chunk in range(self.num_chunks)
            for table in range(_TABLES)
        ]
        initial = Initial(scale=config.initial.scale / np.sqrt(_TABLES))  # the sum's deviation is a full table's
        num_rows = self.num_chunks * _TABLES * self.num_clusters
        self.groups = (
            config.row_group(width=config.embedding_dim // self.num_chunks, num_rows=num_rows, initial=initial),
        )

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: the clusters of all ids; before they are found, what they will take in serving."""
        if not self.counts_map:
            return 0
        if self._clusters is not None:
            return self._clusters.nbytes
        codes = PackedCodes.bytes_of(self.num_ids * self.num_chunks, bits_of(self.num_clusters))
        return codes if form == "serving" else 0

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        ids = ids_N.numpy()
        keys = np.stack([hashing.hash_to_range(ids, self.num_clusters, salt) for salt in self._salts], axis=1)
        if self._clusters is not None:
            is_known_N = (ids >= 0) & (ids < self._clusters.num_ids)
            keys[is_known_N, ::_TABLES] = self._clusters.at(ids[is_known_N])[:, : self.num_chunks]
        keys += self.num_clusters * np.arange(keys.shape[1])
        return {self.config.name: torch.from_numpy(keys)}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        (rows,) = rows_NKW.values()
        return rows.unflatten(1, (self.num_chunks, _TABLES)).sum(2).flatten(1)

    def rows_of(self, vectors_ND: Tensor, clusters_NC: Keys) -> Tensor:
        """The group's rows when ids of these vectors have been put into clusters, (rows, S).

        A cluster's is the mean of its ids' chunks, zeros where it has none; so are all those found by hash.
        """
        rows_CTKS = torch.zeros(self.num_chunks, _TABLES, self.num_clusters, vectors_ND.shape[1] // self.num_chunks)
        for chunk, chunks_NS in enumerate(vectors_ND.chunk(self.num_chunks, dim=1)):
            clusters_N = torch.from_numpy(np.ascontiguousarray(clusters_NC[:, chunk]))
            sizes_K = torch.bincount(clusters_N, minlength=self.num_clusters).clamp(min=1)
            rows_CTKS[chunk, 0].index_add_(0, clusters_N, chunks_NS)
            rows_CTKS[chunk, 0] /= sizes_K[:, None]
        return rows_CTKS.flatten(0, 2)
