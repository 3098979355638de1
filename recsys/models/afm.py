"""AFM: an attentional factorization machine (Xiao et al. 2017, arXiv 1708.04617)::

    a_ij  = softmax over pairs of hᵀ ReLU(W (v_i ⊙ v_j) + b)
    logit = bias + Σ_f w_f[id] + uᵀ numbers + pᵀ Σ_{i<j} a_ij (v_i ⊙ v_j)

Dropout stands, as in the paper and in BARS, on the pooled vector; in BARS on the attention weights too (without
rescaling their sum to 1 again).

Shape suffixes: B examples, F sparse features, D embedding width, P pairs, A attention size.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Count, Inputs, ModelConfig, Probability, WithLinearPart
from recsys.models.layers import FirstOrder, linear


@dataclass(frozen=True, kw_only=True)
class AFMConfig(WithLinearPart, ModelConfig):
    """Fields of an AFM: its attention network's size, and dropout on its weights and on what they pool."""

    kind: Literal["afm"] = "afm"
    attention_size: Count = 16
    attention_dropout: Probability = 0.0
    dropout: Probability = 0.0


class AFM(nn.Module):
    """First order, and all pairs' products, pooled by attention."""

    Config: ClassVar[type] = AFMConfig

    def __init__(self, config: AFMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self._first_P, self._second_P = inputs.pairs()
        self.first_order = FirstOrder(inputs.num_numbers)
        self.attention = nn.Sequential(
            linear(inputs.embedding_dim, config.attention_size, generator=generator),
            nn.ReLU(),
            linear(config.attention_size, 1, bias=False, generator=generator),
        )
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.output = linear(inputs.embedding_dim, 1, bias=False, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        products_BPD = embeddings_BFD[:, self._first_P] * embeddings_BFD[:, self._second_P]
        weights_BP1 = self.attention_dropout(self.attention(products_BPD).softmax(dim=1))
        pooled_BD = self.dropout((weights_BP1 * products_BPD).sum(dim=1))
        logits_B: Tensor = self.first_order(first_order_BF, numbers_BM)
        return logits_B + self.output(pooled_BD).squeeze(1)
