"""``graphhash``: ids that a bucket map puts together share a row (GraphHash, Wu et al. 2024, section 4).

The map says who: clusters of the user-item graph are GraphHash; ids by count or by hash are what it is compared with
(``recsys.graphs``, ``jobs.cluster``). An id without a bucket, new in a stream say, is hashed into the same rows.

Shape suffixes: N ids, K keys an id, D embedding dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import Optimizer
from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.tables.full import FullConfig
from recsys.tables.plan import TablePlan, num_ids
from recsys.tables.table import Form, Table, TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class GraphHashConfig(TableConfig):
    """``buckets``: a row each, and which of them an id reads."""

    kind: ClassVar[str] = "graphhash"
    buckets: Buckets


@dataclass(frozen=True, kw_only=True)
class GraphHashPlan(TablePlan):
    """``map``: the file of a bucket map, or the map itself as JSON: what ``with_map`` makes of the file.

    A table that the map does not speak of has a row for each of its ids.
    """

    map: Path | Mapping[str, Any] | None = None

    config: ClassVar[type[GraphHashConfig]] = GraphHashConfig

    def tables(
        self,
        features: Sequence[Feature],
        *,
        optimizer: Optimizer,
        seed: int,
        bytes_of: Callable[[TableConfig], int],
        with_first_order: bool = False,
    ) -> list[TableConfig]:
        """See TablePlan.tables; ConfigError where the map speaks of none of them, or asks for more than is allowed."""
        spoken = self._bucket_map.tables
        if not any(feature.table_name in spoken for feature in features):
            raise ConfigError(
                f"table.map speaks of {', '.join(spoken)}, the features' tables are "
                f"{', '.join(self.grouped(features))}; make a map of those with python -m jobs.cluster"
            )
        made = super().tables(
            features, optimizer=optimizer, seed=seed, bytes_of=bytes_of, with_first_order=with_first_order
        )
        narrow = [config.narrowed(optimizer) for config in made] if with_first_order else []
        self._check_allowed(sum(map(bytes_of, [*made, *narrow])), self._full_bytes(features, with_first_order))
        return made

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized: the map says it."""
        return True

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> TableConfig:
        """See TablePlan.table."""
        buckets = self._bucket_map.tables.get(shared["name"])
        if buckets is None:
            return FullConfig(num_embeddings=num_ids(features), **shared)
        return self.config(buckets=buckets, **shared)

    def _full_bytes(self, features: Sequence[Feature], with_first_order: bool) -> int:
        ids = [num_ids(users) or 0 for users in self.grouped(features).values()]
        return 4 * sum(ids) * (self.embedding_dim + with_first_order)

    def _check_allowed(self, num_bytes: int, full_bytes: int) -> None:
        """A map is as large as it was made: a budget can only refuse it."""
        if self.budget is None and self.compression is None:
            return
        allowed, asked = self._allowed(full_bytes)
        if num_bytes > allowed:
            raise ConfigError(
                f"{asked} allows {int(allowed):,} bytes, and these tables take {num_bytes:,} at least; give "
                f"budget={num_bytes} or more, or make a map of fewer buckets with python -m jobs.cluster"
            )

    @cached_property
    def _bucket_map(self) -> BucketMap:
        if self.map is None:
            raise ConfigError(f"table.map is not given (kind={self.kind}); make one with python -m jobs.cluster")
        if isinstance(self.map, Mapping):
            return BucketMap.from_json(self.map)
        from recsys.tables.bucket_files import read_map  # needs safetensors, which serving does without

        return read_map(self.map)


class GraphHash(Table):
    """key = the id's bucket; a hash of it where it has none."""

    linear = True

    def __init__(self, config: GraphHashConfig) -> None:
        super().__init__(config)
        self._buckets = config.buckets
        self._salt = hashing.seed_of(config.seed, config.name, "graphhash")
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=config.buckets.num_buckets),)

    @property
    def num_ids(self) -> int:
        """Ids that the map speaks of: 0 … num_ids − 1."""
        return self._buckets.num_ids

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: in training and serving alike."""
        return self._buckets.nbytes

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys_N = self._buckets.keys(ids_N.numpy(), self._salt)
        return {self.config.name: torch.from_numpy(keys_N)[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
