"""DNN: an MLP over embeddings and numbers, and nothing else (Covington et al. 2016, doi 10.1145/2959100.2959190)::

    logit = wᵀ MLP([v_1 … v_F, numbers]) + b

BARS's "DNN" counts two such MLPs over the same embeddings; this is one.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, flat
from recsys.models.layers import DeepConfig, Tower


@dataclass(frozen=True, kw_only=True)
class DNNConfig(DeepConfig):
    """Fields of a DNN: its MLP's."""

    kind: Literal["dnn"] = "dnn"


class DNN(nn.Module):
    """An MLP over everything side by side."""

    Config: ClassVar[type] = DNNConfig

    def __init__(self, config: DNNConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(inputs.num_flat, config, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        logits_B: Tensor = self.tower(flat(embeddings_BFD, numbers_BM))
        return logits_B
