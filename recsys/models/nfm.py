"""NFM: a neural factorization machine, an MLP over the pairs' summed products (He & Chua 2017, arXiv 1708.05027)::

    logit = bias + Σ_f w_f[id] + uᵀ numbers + hᵀ MLP([Σ_{i<j} v_i ⊙ v_j, numbers])

Where readings differ, this one takes:

- *Dropout and batch normalisation.* The paper has both on the pooled products too; BARS in the MLP alone, and so here.
  ``pooling_dropout`` is the paper's.
- *Bias.* One, in the linear part: the output layer has none, as in the paper.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, Probability, WithLinearPart
from recsys.models.layers import DeepConfig, FirstOrder, Tower, bi_interaction


@dataclass(frozen=True, kw_only=True)
class NFMConfig(WithLinearPart, DeepConfig):
    """Fields of an NFM: its MLP's, and dropout on the products before it."""

    kind: Literal["nfm"] = "nfm"
    pooling_dropout: Probability = 0.0


class NFM(nn.Module):
    """First order, and an MLP over the sum of all pairs' products."""

    Config: ClassVar[type] = NFMConfig

    def __init__(self, config: NFMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers)
        self.pooling_dropout = nn.Dropout(config.pooling_dropout)
        self.tower = Tower(inputs.embedding_dim + inputs.num_numbers, config, bias=False, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        pooled_BD = self.pooling_dropout(bi_interaction(embeddings_BFD))
        deep_B: Tensor = self.tower(torch.cat([pooled_BD, numbers_BM], dim=1))
        return deep_B + self.first_order(first_order_BF, numbers_BM)
