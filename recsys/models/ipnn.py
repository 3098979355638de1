"""IPNN: an MLP over embeddings and all pairs' dot products (Qu et al. 2016, arXiv 1611.00144)::

    logit = wᵀ MLP([v_1 … v_F, numbers, ⟨v_1, v_2⟩ … ⟨v_{F-1}, v_F⟩]) + b

The paper sends embeddings and products through a product layer of its own, whose weights for the products it
factorises; here, as in BARS, the first hidden layer takes the products as they are.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, P pairs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, flat
from recsys.models.layers import DeepConfig, Tower


@dataclass(frozen=True, kw_only=True)
class IPNNConfig(DeepConfig):
    """Fields of an IPNN: its MLP's."""

    kind: Literal["ipnn"] = "ipnn"


class IPNN(nn.Module):
    """An MLP over everything and all pairs' dot products."""

    Config: ClassVar[type] = IPNNConfig

    def __init__(self, config: IPNNConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self._first_P, self._second_P = inputs.pairs()
        self.tower = Tower(inputs.num_flat + inputs.num_pairs, config, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        dots_BP = (embeddings_BFD[:, self._first_P] * embeddings_BFD[:, self._second_P]).sum(dim=2)
        logits_B: Tensor = self.tower(torch.cat([flat(embeddings_BFD, numbers_BM), dots_BP], dim=1))
        return logits_B
