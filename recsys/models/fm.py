"""FM: a factorization machine (Rendle 2010, doi 10.1109/ICDM.2010.127, eq. 1)::

    logit = bias + Σ_f w_f[id] + uᵀ numbers + Σ_{i<j} ⟨v_i, v_j⟩

Numbers have a linear weight and no vector. A bag is crossed with others as its pooled embedding; the values within one
bag are not crossed.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, ModelConfig, WithLinearPart
from recsys.models.layers import FirstOrder, fm_second_order


@dataclass(frozen=True, kw_only=True)
class FMConfig(WithLinearPart, ModelConfig):
    """An FM has no fields: its rank is the tables' embedding_dim."""

    kind: Literal["fm"] = "fm"


class FM(nn.Module):
    """First order and all pairs' dot products."""

    Config: ClassVar[type] = FMConfig

    def __init__(self, config: FMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        logits_B: Tensor = self.first_order(first_order_BF, numbers_BM)
        return logits_B + fm_second_order(embeddings_BFD)
