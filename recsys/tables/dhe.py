"""``dhe``: no rows; an MLP makes the vector out of many hashes of the id (deep hash embedding; Kang et al. 2021).

k hashes give k numbers in [−1, 1), the code of an id: the same for ever, kept nowhere. Hidden layers are Linear,
LayerNorm, Mish, as many numbers as the paper's with BatchNorm, whose statistics over a batch no row store holds.

Shape suffixes: N ids, D embedding dimension.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import AtLeast
from recsys.tables.plan import Count, TablePlan
from recsys.tables.table import Table, TableConfig

_DEFAULT_HIDDEN = 64
_LEAST_HIDDEN = 4  # LayerNorm makes a constant of one number, and a sign of two
_SAMPLE = 512  # ids whose vectors say how large the last layer's weights are to start


@dataclass(frozen=True, kw_only=True)
class DHEConfig(TableConfig):
    """``num_hashes`` k, and ``num_layers`` hidden layers of ``hidden_size``."""

    kind: ClassVar[str] = "dhe"
    num_hashes: int = 64
    hidden_size: int = _DEFAULT_HIDDEN
    num_layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size < _LEAST_HIDDEN:
            raise ConfigError(
                f"table {self.name!r}: hidden_size {self.hidden_size} must be at least {_LEAST_HIDDEN}: LayerNorm "
                "leaves nothing of narrower layers"
            )


@dataclass(frozen=True, kw_only=True)
class DHEPlan(TablePlan):
    """``hidden_size``, or what a budget allows, or 64. The paper has 1024 hashes and 5 hidden layers."""

    num_hashes: Count = 64
    hidden_size: Annotated[int, AtLeast(_LEAST_HIDDEN)] | None = None
    num_layers: Count = 2

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> DHEConfig:
        """See TablePlan.table: ``size`` counts the width of the hidden layers from the least on."""
        hidden_size = self.hidden_size or (_DEFAULT_HIDDEN if size is None else _LEAST_HIDDEN - 1 + size)
        return DHEConfig(num_hashes=self.num_hashes, hidden_size=hidden_size, num_layers=self.num_layers, **shared)

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.hidden_size is not None


class DHE(Table):
    """Addresses nothing: all of it are dense parameters."""

    groups = ()
    composes_once = True

    def __init__(self, config: DHEConfig) -> None:
        super().__init__(config)
        self._num_hashes = config.num_hashes
        self._code_seed = hashing.seed_of(config.seed, config.name, "code")
        sizes = [config.num_hashes, *[config.hidden_size] * config.num_layers]
        hidden = [
            nn.Sequential(_linear(sizes[at], sizes[at + 1], config, at), nn.LayerNorm(sizes[at + 1]), nn.Mish())
            for at in range(config.num_layers)
        ]
        self._last = _linear(config.hidden_size, config.embedding_dim, config, len(hidden))
        self.layers = nn.Sequential(*hidden, self._last)
        self._scale_last()

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        vectors_ND: Tensor = self.layers(self.codes(ids_N))
        return vectors_ND

    def codes(self, ids_N: Tensor) -> Tensor:
        """k numbers in [−1, 1) an id, (N, k)."""
        return torch.from_numpy(hashing.uniform(ids_N.numpy(), self._num_hashes, self._code_seed))

    @torch.no_grad()
    def _scale_last(self) -> None:
        """Start vectors at the standard deviation of a full table's rows: uniform in ±s has s/√3."""
        vectors = self.layers(self.codes(torch.arange(_SAMPLE)))
        wanted = self.config.initial.scale / math.sqrt(3)
        self._last.weight *= wanted / float(vectors.std().clamp_min(1e-12))


def _linear(num_in: int, num_out: int, config: TableConfig, layer: int) -> nn.Linear:
    """Weights uniform with the variance 1 / num_in, by the table's seed; biases zero."""
    made = nn.utils.skip_init(nn.Linear, num_in, num_out)
    seed = hashing.seed_of(config.seed, config.name, "layer", layer)
    with torch.no_grad():
        drawn = hashing.uniform(np.arange(num_out), num_in, seed) * np.float32(math.sqrt(3 / num_in))
        made.weight.copy_(torch.from_numpy(drawn))
        made.bias.zero_()
    return made
