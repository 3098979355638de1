"""LR: logistic regression over ids and numbers (Richardson et al. 2007, doi 10.1145/1242572.1242643)::

    logit = bias + Σ_f w_f[id] + uᵀ numbers

It has no embeddings: the tables' only rows are its weights, of width 1, and the kind of table is that of ``table``. A
bag adds its weights' mean or sum, as ``table.pooling`` says.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, ModelConfig, WithLinearPart
from recsys.models.layers import FirstOrder


@dataclass(frozen=True, kw_only=True)
class LRConfig(WithLinearPart, ModelConfig):
    """An LR has no fields."""

    kind: Literal["lr"] = "lr"

    def row_dim(self, inputs: Inputs) -> int:
        """No tables but those of the weights."""
        return 0


class LR(nn.Module):
    """One weight an id, one a number, and a bias."""

    Config: ClassVar[type] = LRConfig

    def __init__(self, config: LRConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from first-order values and numbers; the embeddings, of width 0, say nothing."""
        logits_B: Tensor = self.first_order(first_order_BF, numbers_BM)
        return logits_B
