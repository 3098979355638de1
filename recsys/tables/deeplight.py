"""``deeplight``: the smallest weights of all tables read zeros, ever more of them (DeepLight, Deng et al. 2021).

After t steps the part S (1 − D^(t / Ω)) of the weights is below the threshold, which is one for all tables and found
anew every few steps (``recsys.training.magnitudes``). A pruned weight learns on, by the gradient of what it would be,
and comes back where it has grown: DeepLight's, set to zero, do so from there. When training is over the largest stay,
and are trained on by themselves: the kind ``sparse``.

The threshold is a statistic as batch normalisation's are, so that it goes with the rows, wherever those are.

Shape suffixes: N ids, K keys an id, W row width, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from recsys.features.declarations import Feature
from recsys.fields import Above, Below
from recsys.tables.plan import Count, num_ids
from recsys.tables.table import Form, identity
from recsys.tables.weights import PrunedWeights, PrunedWeightsConfig, PrunedWeightsPlan

_SPARSITY = 0.9


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """The part of the weights that is pruned after a step: ``sparsity`` · (1 − ``damping`` ^ (step / Ω)).

    Ω is ``damping_steps``; thresholds are found anew ``every_steps``.

    >>> paper = Pruning(sparsity=1.0)
    >>> round(paper.rate(10_000), 3), 1 - paper.rate(68_732) < 1e-3 < 1 - paper.rate(68_700)
    (0.634, True)
    """

    sparsity: float = _SPARSITY
    damping: float = 0.99
    damping_steps: int = 100
    every_steps: int = 10

    def rate(self, step: int) -> float:
        """The part that is pruned after ``step`` steps (DeepLight, section 3.3)."""
        return self.sparsity * (1 - float(self.damping ** (step / self.damping_steps)))


@dataclass(frozen=True, kw_only=True)
class DeepLightConfig(PrunedWeightsConfig):
    """``pruning``: how fast how much goes."""

    kind: ClassVar[str] = "deeplight"
    pruning: Pruning = Pruning()


@dataclass(frozen=True, kw_only=True)
class DeepLightPlan(PrunedWeightsPlan):
    """``sparsity`` is S; see Pruning for the others."""

    damping: Annotated[float, Above(0), Below(1)] = 0.99
    damping_steps: Count = 100
    every_steps: Count = 10

    default_sparsity: ClassVar[float] = _SPARSITY

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> DeepLightConfig:
        """See TablePlan.table."""
        pruning = Pruning(
            sparsity=self.wanted_sparsity,
            damping=self.damping,
            damping_steps=self.damping_steps,
            every_steps=self.every_steps,
        )
        return DeepLightConfig(num_embeddings=num_ids(features), pruning=pruning, **shared)


class DeepLight(PrunedWeights):
    """The id is the key of its row."""

    stages = ("prune", "mask", "go_on")

    threshold: Tensor

    def __init__(self, config: DeepLightConfig) -> None:
        super().__init__(config)
        self.pruning = config.pruning
        if config.prunes:
            self.register_buffer("threshold", torch.zeros(()))

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: the threshold."""
        return 4 if self.prunes else 0

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose: pruned weights read zero forward, and are as they are backward."""
        rows_ND = identity(rows_NKW)
        if not self.prunes or not self.threshold:
            return rows_ND
        return rows_ND - (rows_ND * (rows_ND.abs() <= self.threshold)).detach()
