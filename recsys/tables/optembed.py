"""``optembed``: thresholds that prune rows while they are trained, widths drawn at random (OptEmbed, Lyu et al. 2022).

This is the supernet. A row whose norm is not above its table's threshold t reads zeros; in training each
example reads the first i of D numbers, i drawn anew, so that every width is trained. What is pruned, and which
width each table needs, is decided after training (``recsys.training.stages``); what is retrained and served is the kind
``pruned``.

A threshold is a row, of one number: it has plain SGD at a rate of its own, as the paper's has, and lives on the
parameter server like any other. Rows die by weight decay far more than by thresholds, which hardly move: without
``optimizer.rows.weight_decay`` nothing is pruned.

Shape suffixes: N ids, K keys an id, B examples, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.fields import Above, AtLeast, Between
from recsys.rows.initial import Initial
from recsys.rows.optimizers import SGD, Optimizer
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Shrinks, Table, TableConfig, require

Norm = Literal["l1", "l2"]


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """How widths are searched (OptEmbed): ``generations`` of ``mutations`` and ``crossovers`` candidates.

    Those come of the best ``parents`` of the generation before; ``mutation_probability`` is that of each width.
    """

    generations: Count = 30
    mutations: Count = 10
    crossovers: Count = 10
    parents: Count = 15
    mutation_probability: Annotated[float, Between(0, 1)] = 0.1


@dataclass(frozen=True, kw_only=True)
class OptEmbedConfig(TableConfig):
    """``num_embeddings`` rows; ``threshold_rate`` is the learning rate of t, ``alpha`` the weight of exp(−t).

    ``prunes`` is False of a companion: a row that starts from zero has no norm to be judged by.
    """

    kind: ClassVar[str] = "optembed"
    num_embeddings: int | None = None
    norm: Norm = "l1"
    threshold_rate: float = 1e-4
    alpha: float = 1e-5
    prunes: bool = True

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed; it is pruned with its table, when that is."""
        return super().narrowed(optimizer, prunes=False, **changes)


@dataclass(frozen=True, kw_only=True)
class OptEmbedPlan(TablePlan):
    """The supernet's fields, and those of the ``search`` after it.

    ``compression`` or ``budget`` is a target: of the widths that are searched, none may take more.
    """

    norm: Norm = "l1"
    threshold_rate: Annotated[float, Above(0)] = 1e-4
    alpha: Annotated[float, AtLeast(0)] = 1e-5
    search: Evolution = field(default_factory=Evolution)

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> OptEmbedConfig:
        """See TablePlan.table."""
        return OptEmbedConfig(
            num_embeddings=num_ids(features),
            norm=self.norm,
            threshold_rate=self.threshold_rate,
            alpha=self.alpha,
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized: the supernet has one size, and a budget is for what comes of it."""
        return True


class OptEmbed(Table):
    """The id is the key of its row; a second group holds the threshold, at key 0.

    ``choose`` makes it what pruning and a width would leave of it, to be judged.
    """

    shrinks: ClassVar[Shrinks] = "serving"
    streams = False
    stages = ("supernet", "search", "retrain")

    def __init__(self, config: OptEmbedConfig) -> None:
        super().__init__(config)
        self.num_embeddings = require(config, "num_embeddings", "set the feature's num_embeddings or vocabulary")
        self.id_range = f"[0, {self.num_embeddings})"
        self.prunes, self._norm, self._alpha = config.prunes, config.norm, config.alpha
        rows = config.row_group(width=config.embedding_dim, num_rows=self.num_embeddings)
        threshold = config.row_group(width=1, num_rows=None, suffix=".threshold", initial=Initial(scale=0.0))
        sgd = SGD(learning_rate=config.threshold_rate)
        threshold = replace(threshold, optimizer=sgd, row_format="float32")
        self.groups = (rows, threshold) if config.prunes else (rows,)
        self._step_seed: int | None = None
        self._threshold_1 = torch.zeros(0)
        self._is_kept_N: Tensor | None = None
        self._width = config.embedding_dim

    @property
    def threshold_group(self) -> str:
        """The row group of the threshold."""
        return self.groups[1].name

    def choose(self, is_kept_N: Tensor | None, width: int) -> None:
        """Keep the ids that are marked alone, at a width; or, with None, go by the threshold again."""
        self._is_kept_N, self._width = is_kept_N, min(width, self.config.embedding_dim)

    def keeps(self, rows_ND: Tensor, threshold: Tensor) -> Tensor:
        """Which rows are above the threshold: bool (N,)."""
        return self._norms(rows_ND) - threshold > 0

    def begin_step(self, seed: int) -> None:
        """See Table.begin_step."""
        self._step_seed, self._threshold_1 = seed, torch.zeros(0)

    def drawn(self, feature: str, num_examples: int) -> Tensor | None:
        """See Table.drawn: the first i + 1 of D numbers, i uniform in 0 … D − 1."""
        if not (self.training and self.prunes) or self._step_seed is None:
            return None
        width = self.config.embedding_dim
        seed = hashing.seed_of(self._step_seed, self.config.name, feature)
        last_B = hashing.hash_to_range(np.arange(num_examples), width, seed)
        return (torch.arange(width) <= torch.from_numpy(last_B)[:, None]).float()

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys = {self.config.name: ids_N[:, None]}
        return {**keys, self.threshold_group: torch.zeros_like(ids_N)[:, None]} if self.prunes else keys

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows_ND = rows_NKW[self.config.name][:, 0]
        if not self.prunes:
            return rows_ND
        if self._is_kept_N is not None:  # ids that are not are left out before
            return rows_ND * (torch.arange(rows_ND.shape[1]) < self._width)
        threshold_N = rows_NKW[self.threshold_group][:, 0, 0]
        if len(threshold_N):
            self._threshold_1 = threshold_N[:1]
        return long_tailed_step(self._norms(rows_ND) - threshold_N)[:, None] * rows_ND

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        inside_N = (ids_N >= 0) & (ids_N < self.num_embeddings)
        if self._is_kept_N is None:
            return inside_N
        return inside_N & self._is_kept_N[torch.where(inside_N, ids_N, 0)]

    def penalty(self) -> Tensor:
        """See Table.penalty: α exp(−t), of the threshold that this step read."""
        return self._alpha * torch.exp(-self._threshold_1).sum()

    def _norms(self, rows_ND: Tensor) -> Tensor:
        norms_N: Tensor = torch.linalg.vector_norm(rows_ND, ord=1 if self._norm == "l1" else 2, dim=1)
        return norms_N


class _LongTailedStep(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, excess_N: Tensor) -> Tensor:
        """1 above zero, else 0."""
        context.save_for_backward(excess_N)
        return (excess_N > 0).to(excess_N.dtype)

    @staticmethod
    def backward(context: Any, *gradients_N: Tensor) -> Tensor:
        """What ``long_tailed_slope`` makes of the step."""
        (excess_N,) = context.saved_tensors
        return gradients_N[0] * long_tailed_slope(excess_N)


def long_tailed_step(excess_N: Tensor) -> Tensor:
    """1 where ``excess_N`` is above 0, else 0; its gradient is that of the long-tailed estimator."""
    stepped_N: Tensor = _LongTailedStep.apply(excess_N)
    return stepped_N


def long_tailed_slope(excess_N: Tensor) -> Tensor:
    """2 − 4|x| up to 0.4, then 0.4 up to 1, then 0: in place of a step's derivative (OptEmbed).

    >>> long_tailed_slope(torch.tensor([0.0, -0.1, 0.4, 0.41, 1.0, 1.01])).tolist()
    [2.0, 1.600000023841858, 0.3999999761581421, 0.4000000059604645, 0.4000000059604645, 0.0]
    """
    far_N = excess_N.abs()
    return torch.where(far_N <= 0.4, 2 - 4 * far_N, torch.where(far_N <= 1, 0.4, 0.0))
