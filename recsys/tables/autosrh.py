"""``autosrh``: gates on the columns of ids that are about as frequent (AutoSrh, Kong et al. 2022).

A vector is its row times the gates of its group, a number for each column; groups, by how often ids occur in training,
are found by a stage of their own. An L1 term draws gates to zero. When training is over the largest products of weight
and gate stay, and are trained on by themselves: the kind ``sparse``.

Gates are learned on the valid part, in turns with the rows.

Shape suffixes: N ids, G groups of ids, K keys an id, W row width, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import Above, AtLeast
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Adam
from recsys.tables.code_map import CodeMap, IdCodes, MixedCodes
from recsys.tables.plan import num_ids
from recsys.tables.table import Form, a_place_of_each
from recsys.tables.weights import PrunedWeights, PrunedWeightsConfig, PrunedWeightsPlan


@dataclass(frozen=True, kw_only=True)
class AutoSrhConfig(PrunedWeightsConfig):
    """``frequencies``: the group of each id; None, and all ids have the same gates."""

    kind: ClassVar[str] = "autosrh"
    frequencies: IdCodes | None = None
    gate_rate: float = 0.001
    gate_l1: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class AutoSrhPlan(PrunedWeightsPlan):
    """``num_groups`` of as many ids each, by frequency; ``gate_rate`` is the learning rate of the gates.

    ``gate_l1``: weight of their absolute values in the loss. ``map``: the groups, which a stage finds.
    """

    num_groups: Annotated[int, AtLeast(2)] = 6
    gate_rate: Annotated[float, Above(0)] = 0.001
    gate_l1: Annotated[float, AtLeast(0)] = 1e-5
    map: Path | Mapping[str, Any] | None = None

    default_sparsity: ClassVar[float] = 0.9

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> AutoSrhConfig:
        """See TablePlan.table."""
        groups = None if self._code_map is None else self._code_map.tables.get(shared["name"])
        if isinstance(groups, MixedCodes):
            raise ConfigError(f"table {shared['name']!r}: its map has codes of two lengths, of kind mgqe; give groups")
        return AutoSrhConfig(
            num_embeddings=num_ids(features),
            frequencies=groups,
            gate_rate=self.gate_rate,
            gate_l1=self.gate_l1,
            **shared,
        )

    @cached_property
    def _code_map(self) -> CodeMap | None:
        return None if self.map is None else CodeMap.given(self.map)


class AutoSrh(PrunedWeights):
    """The id is the key of its row, its group that of its gates, which are kept as differences from 1."""

    stages = ("count", "gates", "mask", "go_on")

    def __init__(self, config: AutoSrhConfig) -> None:
        super().__init__(config)
        self._frequencies, self._l1 = config.frequencies, config.gate_l1
        if config.prunes:
            gates = config.row_group(
                width=config.embedding_dim, num_rows=None, suffix=".gates", initial=Initial(scale=0.0)
            )
            adam = Adam(learning_rate=config.gate_rate)
            self.groups = (*self.groups, replace(gates, optimizer=adam, row_format="float32"))
            self.held_out_groups = (gates.name,)
        self._penalties: list[Tensor] = []

    @property
    def gate_group(self) -> str:
        """The row group of the gates."""
        return self.groups[1].name

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: the groups of the ids."""
        return self._frequencies.nbytes if self._frequencies is not None and self.prunes else 0

    def begin_step(self, seed: int) -> None:
        """See Table.begin_step."""
        self._penalties = []

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        keys = super().address(feature, ids_N)
        return {**keys, self.gate_group: self._groups_of(ids_N)[:, None]} if self.prunes else keys

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows_ND = rows_NKW[self.config.name][:, 0]
        if not self.prunes:
            return rows_ND
        gates_ND = 1 + rows_NKW[self.gate_group][:, 0]
        if self.training and torch.is_grad_enabled():
            groups_G, inverse_N = torch.unique(self._groups_of(ids_N), return_inverse=True)
            first_G = a_place_of_each(inverse_N, len(groups_G))
            self._penalties.append(self._l1 * gates_ND.index_select(0, first_G).abs().sum())
        return rows_ND * gates_ND

    def penalty(self) -> Tensor:
        """See Table.penalty: L1 of the gates that this step has read, each once a feature."""
        return torch.stack(self._penalties).sum() if self._penalties else torch.zeros(())

    def _groups_of(self, ids_N: Tensor) -> Tensor:
        """The group of each id, int64 (N,)."""
        if self._frequencies is None:
            return torch.zeros_like(ids_N)
        return torch.from_numpy(self._frequencies.at(ids_N.numpy())[:, 0])
