"""``pep``: thresholds that are learned, and taken off every weight (PEP, Liu et al. 2021).

A weight v reads sign(v) · max(0, |v| − σ(s)), by the threshold s of all, of its column, of its id, or its own. When
training is over the weights that do not read zero stay, and are trained anew from their initial values, as lottery
tickets are: the kind ``sparse``.

Thresholds are rows, as differences from where they start, with an Adam of their own. The loss's gradient reaches those
of weights that are alive. They rise by ``threshold_decay``, a term of the loss for the thresholds that a step reads;
rows that nothing reads fall below theirs by the weight decay of rows. (s of -150 has no gradient in float32.)

Shape suffixes: N ids, K keys an id, W row width, D embedding dimension.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from recsys.features.declarations import Feature
from recsys.fields import Above, AtLeast, Below
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Adam
from recsys.rows.store import RowGroup
from recsys.tables.plan import num_ids
from recsys.tables.weights import PrunedWeights, PrunedWeightsConfig, PrunedWeightsPlan

_LEAST = 1e-7  # of a threshold: below, σ has hardly a gradient
Granularity = Literal["global", "dimension", "feature", "feature_dimension"]


@dataclass(frozen=True, kw_only=True)
class PepConfig(PrunedWeightsConfig):
    """``granularity``: what has a threshold; ``initial_threshold`` is what weights lose at the start, σ(s)."""

    kind: ClassVar[str] = "pep"
    granularity: Granularity = "feature_dimension"
    initial_threshold: float = 3e-4
    threshold_rate: float = 0.01
    threshold_decay: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class PepPlan(PrunedWeightsPlan):
    """``granularity``: one threshold for all, for a column, for an id (PEP's feature), or for each of its numbers.

    ``threshold_rate``: learning rate of the thresholds; ``threshold_decay``: weight of s² / 2 in the loss.
    """

    granularity: Granularity = "feature_dimension"
    initial_threshold: Annotated[float, AtLeast(_LEAST), Below(1)] = 3e-4
    threshold_rate: Annotated[float, Above(0)] = 0.01
    threshold_decay: Annotated[float, AtLeast(0)] = 1e-5

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> PepConfig:
        """See TablePlan.table."""
        return PepConfig(
            num_embeddings=num_ids(features),
            granularity=self.granularity,
            initial_threshold=self.initial_threshold,
            threshold_rate=self.threshold_rate,
            threshold_decay=self.threshold_decay,
            **shared,
        )


class Pep(PrunedWeights):
    """The id is the key of its row, and of its thresholds where it has some; others are at key 0."""

    stages = ("thresholds", "mask", "restart")
    composes_once = True

    def __init__(self, config: PepConfig) -> None:
        super().__init__(config)
        self._is_of_id = config.granularity in ("feature", "feature_dimension")
        self._start, self._decay = _logit(config.initial_threshold), config.threshold_decay
        if config.prunes:
            self.groups = (*self.groups, _threshold_group(config, self.num_embeddings if self._is_of_id else None))
        self._penalties: list[Tensor] = []

    @property
    def threshold_group(self) -> str:
        """The row group of the thresholds."""
        return self.groups[1].name

    def begin_step(self, seed: int) -> None:
        """See Table.begin_step."""
        self._penalties = []

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys = super().address(feature, ids_N)
        if not self.prunes:
            return keys
        return {**keys, self.threshold_group: (ids_N if self._is_of_id else torch.zeros_like(ids_N))[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows_ND = rows_NKW[self.config.name][:, 0]
        if not self.prunes:
            return rows_ND
        thresholds_NW = self._start + rows_NKW[self.threshold_group][:, 0]
        if self.training and torch.is_grad_enabled():
            read_W = thresholds_NW if self._is_of_id else thresholds_NW[:1]  # each once
            self._penalties.append(self._decay / 2 * read_W.square().sum())
        return soft_thresholded(rows_ND, thresholds_NW)

    def penalty(self) -> Tensor:
        """See Table.penalty: of the thresholds that this step has read."""
        return torch.stack(self._penalties).sum() if self._penalties else torch.zeros(())


def soft_thresholded(rows_ND: Tensor, thresholds_NW: Tensor) -> Tensor:
    """sign(v) · max(0, |v| − σ(s)) (PEP, equation 5).

    >>> soft_thresholded(torch.tensor([[0.75, -0.75, 0.25]]), torch.zeros(1, 1)).tolist()
    [[0.25, -0.25, 0.0]]
    """
    return rows_ND.sign() * torch.relu(rows_ND.abs() - torch.sigmoid(thresholds_NW))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _threshold_group(config: PepConfig, num_rows: int | None) -> RowGroup:
    width = config.embedding_dim if config.granularity in ("dimension", "feature_dimension") else 1
    group = config.row_group(width=width, num_rows=num_rows, suffix=".threshold", initial=Initial(scale=0.0))
    return replace(group, optimizer=Adam(learning_rate=config.threshold_rate), row_format="float32")
