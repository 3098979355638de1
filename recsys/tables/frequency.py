"""``frequency``: ids that occur often have a row of their own, the others share hashed ones (AdaptEmb).

Which are hot is for the row store to say, as ids come: its admission counts them in a sketch, a hot row begins with the
N-th occurrence, and past ``hot_rows`` those used least leave for new ones. Their absence reads as NaN, and it is then
that an id reads the shared row. A hot row starts from its initial value, not from what the shared one had learned.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from recsys.features.declarations import Feature
from recsys.fields import AtLeast, Between
from recsys.rows.policies import FrequencyAdmission
from recsys.tables.hot import HotConfig, HotPlan, HotTable

_WAITING = 7  # ids that 64 bytes of the sketch count


@dataclass(frozen=True, kw_only=True)
class FrequencyConfig(HotConfig):
    """As HotConfig; an id is hot from the occurrence of number ``occurrences`` on."""

    kind: ClassVar[str] = "frequency"
    occurrences: int = 3
    sketch_bytes: int = 2**16


@dataclass(frozen=True, kw_only=True)
class FrequencyPlan(HotPlan):
    """As HotPlan.

    ``sketch_bytes``: of the counts of ids that wait, in training alone; by default for twice as many as hot rows.
    """

    occurrences: Annotated[int, Between(1, 255)] = 3
    sketch_bytes: Annotated[int, AtLeast(64)] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> FrequencyConfig:
        """See TablePlan.table: ``size`` is the number of rows, hot and shared."""
        hot_rows, num_buckets = self.sizes(features, size)
        return FrequencyConfig(
            hot_rows=hot_rows,
            num_buckets=num_buckets,
            occurrences=self.occurrences,
            sketch_bytes=self.sketch_bytes or 64 * math.ceil(2 * (hot_rows or 1) / _WAITING),
            **shared,
        )


class Frequency(HotTable):
    """As HotTable. Only the key that is read gets a gradient."""

    def __init__(self, config: FrequencyConfig) -> None:
        super().__init__(
            config, FrequencyAdmission(occurrences=config.occurrences, max_bytes=config.sketch_bytes), eviction="lfu"
        )

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        hot, shared = rows_NKW[self._hot.name][:, 0], rows_NKW[self._shared.name][:, 0]
        return torch.where(hot[:, :1].isnan(), shared, hot)
