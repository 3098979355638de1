"""What table kinds share that prune single weights: rows that are whole in training, of which a part is served.

Which part is one question for all: the vectors that a trained table makes have zeros where it pruned, and where a
target leaves less room, the largest numbers stay (``recsys.training.magnitudes``). What is served is the kind
``sparse``.

Shape suffix: N ids.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from recsys.fields import Above, Below
from recsys.rows.optimizers import Optimizer
from recsys.tables.plan import Count, TablePlan
from recsys.tables.table import Shrinks, Table, TableConfig, require


@dataclass(frozen=True, kw_only=True)
class PrunedWeightsConfig(TableConfig):
    """``num_embeddings`` rows; ``prunes`` is False of a companion, which loses the ids that its table loses."""

    num_embeddings: int | None = None
    prunes: bool = True

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, prunes=False, **changes)


@dataclass(frozen=True, kw_only=True)
class PrunedWeightsPlan(TablePlan):
    """``sparsity``: the part of all weights that goes; or what ``compression`` says, or the kind's own.

    ``compression`` or ``budget`` is a target for what is served: of the weights as many stay as it has room for.
    ``prune_epochs``: how long the stage before the choice trains, whatever validations say.
    """

    sparsity: Annotated[float, Above(0), Below(1)] | None = None
    prune_epochs: Count = 10

    default_sparsity: ClassVar[float] = 0.0

    @property
    def wanted_sparsity(self) -> float:
        """The part that goes, at least."""
        if self.sparsity is not None:
            return self.sparsity
        return self.default_sparsity if self.compression is None else 1 - 1 / self.compression

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized: what is trained has one size, and a budget is for what comes of it."""
        return True


class PrunedWeights(Table):
    """A row for each id; an id outside [0, num_embeddings) is unknown."""

    shrinks: ClassVar[Shrinks] = "serving"
    streams = False

    def __init__(self, config: PrunedWeightsConfig) -> None:
        super().__init__(config)
        self.num_embeddings: int = require(config, "num_embeddings", "set the feature's num_embeddings or vocabulary")
        self.id_range = f"[0, {self.num_embeddings})"
        self.prunes = config.prunes
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self.num_embeddings),)

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return (ids_N >= 0) & (ids_N < self.num_embeddings)
