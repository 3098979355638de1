"""``autodim``: the width of each table's rows, weighed in training (AutoDim, Zhao et al. 2021).

A vector is a sum of what the candidate widths make of an id's row, each reading its first numbers through a projection
of its own (weight-sharing, section 3.2), weighed by a Gumbel-softmax over a logit for each width. When training is over
each table takes its likeliest width, or a narrower one where a target asks it, and is trained anew: the kind ``mde``.

Logits are a row, learned on the valid part in turns with the rest. Otherwise than in the paper the temperature stays,
and candidates are not batch-normalised: projections start such that all are of the same variance.

Shape suffixes: N ids, C candidate widths, K keys an id, W row width, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import Above
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Adam, Optimizer
from recsys.tables.mde import first_projection
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Shrinks, Table, TableConfig, require


@dataclass(frozen=True, kw_only=True)
class AutoDimConfig(TableConfig):
    """``num_embeddings`` rows; ``widths`` are the candidates, one of a companion."""

    kind: ClassVar[str] = "autodim"
    num_embeddings: int | None = None
    widths: tuple[int, ...]
    temperature: float = 1.0
    logit_rate: float = 0.01

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, widths=(1,), **changes)


@dataclass(frozen=True, kw_only=True)
class AutoDimPlan(TablePlan):
    """``least_width``: candidates are this, twice that, … and embedding_dim; ``temperature`` is the Gumbel-softmax's.

    ``logit_rate``: learning rate of the logits, by an Adam of their own.
    ``compression`` or ``budget`` is a target: what is chosen may not take more as it is served.
    """

    least_width: Count = 2
    temperature: Annotated[float, Above(0)] = 1.0
    logit_rate: Annotated[float, Above(0)] = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_width > self.embedding_dim:
            raise ConfigError(f"least_width {self.least_width} must be at most embedding_dim {self.embedding_dim}")

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> AutoDimConfig:
        """See TablePlan.table."""
        return AutoDimConfig(
            num_embeddings=num_ids(features),
            widths=candidate_widths(self.least_width, self.embedding_dim),
            temperature=self.temperature,
            logit_rate=self.logit_rate,
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized: what is weighed has one size, and a budget is for what comes of it."""
        return True


class AutoDim(Table):
    """The id is the key of its row, and the logits are at key 0; an id outside [0, num_embeddings) is unknown."""

    shrinks: ClassVar[Shrinks] = "serving"
    streams = False
    stages = ("weigh", "choose", "retrain")

    def __init__(self, config: AutoDimConfig) -> None:
        super().__init__(config)
        self._num_embeddings = require(config, "num_embeddings", "set the feature's num_embeddings or vocabulary")
        self.id_range = f"[0, {self._num_embeddings})"
        self.widths, self._temperature = config.widths, config.temperature
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self._num_embeddings),)
        self._step_seed: int | None = None
        if self.chooses:
            logits = config.row_group(
                width=len(self.widths), num_rows=None, suffix=".logits", initial=Initial(scale=0.0)
            )
            adam = Adam(learning_rate=config.logit_rate)
            self.groups = (*self.groups, replace(logits, optimizer=adam, row_format="float32"))
            self.held_out_groups = (logits.name,)
            narrow = [width for width in self.widths if width < config.embedding_dim]
            self.projections = nn.ParameterList([nn.Parameter(first_projection(config, width)) for width in narrow])

    @property
    def logit_group(self) -> str:
        """The row group of the logits."""
        return self.groups[1].name

    @property
    def chooses(self) -> bool:
        """Whether there is more than one width."""
        return len(self.widths) > 1

    def begin_step(self, seed: int) -> None:
        """See Table.begin_step."""
        self._step_seed = seed

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys = {self.config.name: ids_N[:, None]}
        return {**keys, self.logit_group: torch.zeros_like(ids_N)[:, None]} if self.chooses else keys

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows_ND = rows_NKW[self.config.name][:, 0]
        if not self.chooses or not len(rows_ND):
            return rows_ND
        *narrow, last = self._weights_C(rows_NKW[self.logit_group][0, 0]).unbind()
        made_ND = last * rows_ND  # the widest needs no projection
        for weight, projection_WD in zip(narrow, self.projections, strict=True):
            made_ND = made_ND + rows_ND[:, : len(projection_WD)] @ (weight * projection_WD)
        return made_ND

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return (ids_N >= 0) & (ids_N < self._num_embeddings)

    def probabilities(self, logits_C: Tensor) -> dict[int, float]:
        """How likely each width is, without noise."""
        return dict(zip(self.widths, torch.softmax(logits_C, 0).tolist(), strict=True))

    def _weights_C(self, logits_C: Tensor) -> Tensor:
        """What each width counts: in a step of training with Gumbel noise, drawn by the step's seed."""
        if self.training and self._step_seed is not None and torch.is_grad_enabled():
            seed = hashing.seed_of(self._step_seed, self.config.name, "gumbel")
            drawn_C = (hashing.uniform(np.arange(len(self.widths)), 1, seed)[:, 0] + 1) / 2
            logits_C = logits_C - torch.from_numpy(-np.log(np.clip(drawn_C, 1e-7, 1 - 1e-7))).log()
        return torch.softmax(logits_C / self._temperature, 0)


def candidate_widths(least: int, most: int) -> tuple[int, ...]:
    """Powers of two times the least, and the most.

    >>> candidate_widths(2, 16), candidate_widths(2, 10)
    ((2, 4, 8, 16), (2, 4, 8, 10))
    """
    widths = []
    while least < most:
        widths.append(least)
        least *= 2
    return (*widths, most)
