"""From five lines of YAML to the tables of all features.

``table: {kind: hash, embedding_dim: 16, compression: 4}`` says how tables are made; the features say which there
are, and how many ids each has. ``compression`` or ``budget`` says how large they may be, all together.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import AtLeast
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.rows.store import RowFormat
from recsys.tables.budget import Sized, share_out
from recsys.tables.table import Absent, Pooling, TableConfig

Count = Annotated[int, AtLeast(1)]
Compression = Annotated[float, AtLeast(1)]  # 4: a quarter of the full table's bytes


@dataclass(frozen=True, kw_only=True)
class TablePlan(ABC):
    """The YAML fields of every kind. A kind adds its own, and says what table they make for some features.

    ``compression`` (of a row of float32 for each id) or ``budget`` (in bytes) bounds what the tables of a model take in
    the form that is served, the width-1 companions counted. Sizes that a kind's own fields give go before them.
    """

    kind: str
    embedding_dim: Count = 16
    pooling: Pooling = "mean"
    absent: Absent = "initial"
    row_format: RowFormat = "float32"
    initial_scale: Annotated[float, AtLeast(0)] = 0.05
    compression: Compression | None = None
    budget: Count | None = None

    def __post_init__(self) -> None:
        if self.compression is not None and self.budget is not None:
            raise ConfigError(
                f"compression={self.compression:g} and budget={self.budget} are both given; set one to null"
            )

    def tables(
        self,
        features: Sequence[Feature],
        *,
        optimizer: Optimizer,
        seed: int,
        bytes_of: Callable[[TableConfig], int],
        with_first_order: bool = False,
    ) -> list[TableConfig]:
        """The tables of sparse features; ConfigError for a size that can not be found, or a budget that is too small.

        ``bytes_of``: what a table takes in serving; ``with_first_order``: each of them brings its width-1 companion.
        """

        def config(users: Sequence[Feature], name: str, size: int | None) -> TableConfig:
            shared = self._shared(users, name, optimizer, hashing.seed_of(seed, name))
            return self.table(users, size, **shared)

        def sized(users: Sequence[Feature], name: str) -> Sized:
            def bytes_at(size: int) -> int:
                made = config(users, name, size)
                return bytes_of(made) + (bytes_of(made.narrowed(optimizer)) if with_first_order else 0)

            full = 4 * self._required_ids(users, alone=len(groups) == 1) * (self.embedding_dim + with_first_order)
            return Sized(name, full, self.largest_size(users), bytes_at)

        groups = self.grouped(features)
        sizes: Mapping[str, int] = {}
        if not self.is_sized and (self.compression or self.budget):
            tables = [sized(users, name) for name, users in groups.items()]
            sizes = self._sizes(tables, *self._allowed(sum(table.full_bytes for table in tables)))
        return [config(users, name, sizes.get(name)) for name, users in groups.items()]

    def grouped(self, features: Sequence[Feature]) -> Mapping[str, Sequence[Feature]]:
        """Features by the table they read; those that name the same table share it, unless a kind says otherwise."""
        return by_vocabulary(features)

    @abstractmethod
    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> TableConfig:
        """The kind's config for ``features``: ``shared`` are the fields of TableConfig, sizes are the kind's own.

        ``size``, from 1 on, is the one number that a budget decides (rows, a rank, a width): more is larger. None where
        there is no budget, or the plan's own fields say it.
        """

    @property
    def is_sized(self) -> bool:
        """Whether the plan's own fields give the tables' sizes, so that a budget decides nothing."""
        return False

    def largest_size(self, features: Sequence[Feature]) -> int:
        """The largest ``size`` that means anything."""
        return 2**40

    def _shared(self, users: Sequence[Feature], name: str, optimizer: Optimizer, seed: int) -> dict[str, Any]:
        return {
            "name": name,
            "feature_names": tuple(feature.name for feature in users),
            "num_ids": num_ids(users),
            "seed": seed,
            "embedding_dim": self.embedding_dim,
            "pooling": self.pooling,
            "absent": self.absent,
            "row_format": self.row_format,
            "initial": Initial(scale=self.initial_scale),
            "optimizer": optimizer,
        }

    def _sizes(self, tables: Sequence[Sized], num_bytes: float, asked: str) -> Mapping[str, int]:
        """Sizes of tables that take no more than ``num_bytes``; an error names what was ``asked``."""
        return share_out(tables, num_bytes, asked)

    def _allowed(self, full_bytes: int) -> tuple[float, str]:
        """How many bytes all tables may take, where full ones take ``full_bytes``, and who says so."""
        if self.budget is not None:
            return self.budget, f"table.budget={self.budget}"
        assert self.compression is not None
        return full_bytes / self.compression, f"table.compression={self.compression:g}"

    def _required_ids(self, users: Sequence[Feature], *, alone: bool) -> int:
        """How many ids a table is for; ConfigError where that is not known. A lone table has all of a budget: 1."""
        found = num_ids(users)
        if found is None and not (alone and self.budget is not None):
            raise ConfigError(
                f"table kind={self.kind}: num_embeddings of {', '.join(unsized(users))} is not known; declare it, or "
                "give the table's own sizes in place of compression or budget"
            )
        return found or 1


def by_vocabulary(features: Sequence[Feature]) -> Mapping[str, list[Feature]]:
    """Features that name the same table are about the same ids."""
    groups: dict[str, list[Feature]] = {}
    for feature in features:
        groups.setdefault(feature.table_name, []).append(feature)
    return groups


def unsized(features: Sequence[Feature]) -> list[str]:
    """Vocabularies of which no feature says how many ids there are."""
    return [name for name, users in by_vocabulary(features).items() if all(user.size is None for user in users)]


def num_ids(features: Sequence[Feature]) -> int | None:
    """How many ids the features of one table have: the largest size declared for each vocabulary; None if unknown."""
    if unsized(features):
        return None
    return sum(
        max(feature.size for feature in users if feature.size is not None) for users in by_vocabulary(features).values()
    )
