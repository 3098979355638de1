"""DCN: a cross network of vectors beside an MLP (Wang et al. 2017, arXiv 1708.05123)::

    x_0     = [v_1 … v_F, numbers]
    x_{l+1} = x_0 (w_lᵀ x_l) + b_l + x_l              (its eq. 3)
    logit   = wᵀ [x_L, MLP(x_0)] + b

Without hidden layers (``hidden_sizes: []``) it is the cross network alone, BARS's "CrossNet". With matrices for the
vectors w_l it is DCN-V2 (``dcnv2.py``).

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M inputs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Count, Inputs, flat
from recsys.models.layers import DeepConfig, linear, mlp_of


@dataclass(frozen=True, kw_only=True)
class DCNConfig(DeepConfig):
    """Fields of a DCN: how many cross layers, and its MLP's, which may have none."""

    kind: Literal["dcn"] = "dcn"
    num_cross_layers: Count = 3
    hidden_sizes: tuple[Count, ...] = (400, 400, 400)


class VectorCrossNetwork(nn.Module):
    """``x_{l+1} = x_0 (w_lᵀ x_l) + b_l + x_l``, layer upon layer: (B, I) → (B, I)."""

    def __init__(self, num_inputs: int, num_layers: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.ModuleList(linear(num_inputs, 1, bias=False, generator=generator) for _ in range(num_layers))
        self.biases = nn.ParameterList(torch.zeros(num_inputs) for _ in range(num_layers))

    def forward(self, x0_BI: Tensor) -> Tensor:
        x_BI = x0_BI
        for weight, bias_I in zip(self.weights, self.biases, strict=True):
            x_BI = x0_BI * weight(x_BI) + bias_I + x_BI
        return x_BI


class DCN(nn.Module):
    """Cross network beside an MLP, into one logit per example."""

    Config: ClassVar[type] = DCNConfig

    def __init__(self, config: DCNConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.cross = VectorCrossNetwork(inputs.num_flat, config.num_cross_layers, generator=generator)
        num_joined, self.mlp = inputs.num_flat, None
        if config.hidden_sizes:
            self.mlp = mlp_of(config, inputs.num_flat, generator=generator)
            num_joined += self.mlp.num_outputs
        self.output = linear(num_joined, 1, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        x0_BI = flat(embeddings_BFD, numbers_BM)
        parts = [self.cross(x0_BI)] if self.mlp is None else [self.cross(x0_BI), self.mlp(x0_BI)]
        logits_B: Tensor = self.output(torch.cat(parts, dim=1)).squeeze(1)
        return logits_B
