"""``alpt``: one row an id as ``full``, a byte a number, and a scale a row that is learned (ALPT, Li et al. 2023).

The scale, the *step*, is the last number of a row: there is no float32 copy of the others anywhere. A push updates the
row, moves the step by LSQ's gradient at the updated row, and rounds to codes of the new step at random. The gradient of
the vector is that of this batch; the paper spends a second pass over the batch on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from recsys.features.declarations import Feature
from recsys.fields import Above, AtLeast
from recsys.rows.optimizers import Optimizer
from recsys.rows.policies import LearnedStep
from recsys.tables.full import Full, FullConfig, FullPlan
from recsys.tables.plan import num_ids
from recsys.tables.table import TableConfig, identity


@dataclass(frozen=True, kw_only=True)
class AlptConfig(FullConfig):
    """``learned_step`` is None of a companion, whose rows of one number are float16."""

    kind: ClassVar[str] = "alpt"
    learned_step: LearnedStep | None = None

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; a step for each row of one number would be the number itself, and more."""
        return super().narrowed(optimizer, learned_step=None, row_format="float16", **changes)


@dataclass(frozen=True, kw_only=True)
class AlptPlan(FullPlan):
    """As FullPlan. A row's step is ``initial_step`` at first: codes reach to 127 of it; ``step_rate`` is its SGD's."""

    row_format: Literal["float32"] = "float32"  # of nothing: rows are codes, a companion's float16
    initial_step: Annotated[float, Above(0)] = 0.001
    step_rate: Annotated[float, AtLeast(0)] = 2e-5

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> AlptConfig:
        """See TablePlan.table."""
        step = LearnedStep(initial=self.initial_step, rate=self.step_rate)
        return AlptConfig(num_embeddings=num_ids(features), learned_step=step, **shared)


class Alpt(Full):
    """As Full; the row is one wider than the vector."""

    shrinks = "training"

    def __init__(self, config: AlptConfig) -> None:
        super().__init__(config)
        if config.learned_step is not None:
            (group,) = self.groups
            step = config.learned_step
            self.groups = (replace(group, width=config.embedding_dim + 1, row_format="lsq8", learned_step=step),)

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        return identity(rows_NKW)[:, : self.config.embedding_dim]
