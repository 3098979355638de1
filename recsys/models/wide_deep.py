"""Wide&Deep: a linear part and an MLP, trained together (Cheng et al. 2016, arXiv 1606.07792)::

    logit = Σ_f w_f[id] + uᵀ numbers + wᵀ MLP([v_1 … v_F, numbers]) + b

The paper's wide part has hand-made products of ids; here, as in BARS, it is the ids alone (declare a feature of pairs
for more). One optimizer serves both parts unless ``optimizer.first_order`` says otherwise (the paper's: FTRL, AdaGrad).

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, WithLinearPart, flat
from recsys.models.layers import DeepConfig, FirstOrder, Tower


@dataclass(frozen=True, kw_only=True)
class WideDeepConfig(WithLinearPart, DeepConfig):
    """Fields of a Wide&Deep: its MLP's."""

    kind: Literal["wide_deep"] = "wide_deep"


class WideDeep(nn.Module):
    """First order beside an MLP."""

    Config: ClassVar[type] = WideDeepConfig

    def __init__(self, config: WideDeepConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers, bias=False)
        self.tower = Tower(inputs.num_flat, config, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        deep_B: Tensor = self.tower(flat(embeddings_BFD, numbers_BM))
        return deep_B + self.first_order(first_order_BF, numbers_BM)
