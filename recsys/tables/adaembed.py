"""``adaembed``: rows for the ids that matter most, as many as a budget has room for (AdaEmbed, Lai et al. 2023).

What an id matters is the norm of its gradients, over all its occurrences: the row store sums it (``rows/importance``),
gives rows to those that matter more than others, and takes them from these. An id without a row reads its initial value
(or zeros: ``absent``), which is also what its row begins with, so that nothing jumps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor

from recsys.features.declarations import Feature
from recsys.fields import AtLeast
from recsys.rows.policies import SKETCH_BUCKET_BYTES, SKETCH_CELLS, Eviction, ImportanceAdmission
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, identity, require


@dataclass(frozen=True, kw_only=True)
class AdaEmbedConfig(TableConfig):
    """``max_rows`` at most, of the ids that ``admission`` finds the most important."""

    kind: ClassVar[str] = "adaembed"
    max_rows: int | None = None
    admission: ImportanceAdmission


@dataclass(frozen=True, kw_only=True)
class ImportancePlan(TablePlan):
    """What kinds of important ids share; see ImportanceAdmission.

    ``sketch_bytes``: of the ids that wait, in training alone; by default for twice as many as there are rows.
    """

    threshold: Annotated[float, AtLeast(0)] = 0.0
    half_life_steps: Count | None = 10_000
    sketch_bytes: Annotated[int, AtLeast(SKETCH_BUCKET_BYTES)] | None = None

    def admission(self, num_rows: int | None) -> ImportanceAdmission:
        """The store's, for so many rows."""
        wanted = self.sketch_bytes or SKETCH_BUCKET_BYTES * 2 * (num_rows or 1) // SKETCH_CELLS
        return ImportanceAdmission(
            threshold=self.threshold,
            half_life_steps=self.half_life_steps,
            max_bytes=SKETCH_BUCKET_BYTES * max(1, wanted // SKETCH_BUCKET_BYTES),
        )


@dataclass(frozen=True, kw_only=True)
class AdaEmbedPlan(ImportancePlan):
    """``max_rows``, or what a budget allows, or as many as there are ids."""

    max_rows: Count | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> AdaEmbedConfig:
        """See TablePlan.table: ``size`` is the number of rows."""
        max_rows = self.max_rows or size or num_ids(features)
        return AdaEmbedConfig(max_rows=max_rows, admission=self.admission(max_rows), **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.max_rows is not None


class AdaEmbed(Table):
    """The id, any int64, is the key."""

    linear = True

    def __init__(self, config: AdaEmbedConfig) -> None:
        super().__init__(config)
        max_rows = require(config, "max_rows", "set max_rows, or compression with the feature's num_embeddings")
        eviction = Eviction(kind="importance", max_rows=max_rows)
        group = config.row_group(width=config.embedding_dim, num_rows=None)
        self.groups = (replace(group, admission=config.admission, eviction=eviction),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)
