"""GDCN: a cross network whose every layer is gated, beside or under an MLP (Wang et al. 2023, arXiv 2311.04635)::

    c_0     = [v_1 … v_F, numbers]
    c_{l+1} = c_0 ⊙ (W_l c_l + b_l) ⊙ σ(G_l c_l) + c_l
    logit   = wᵀ [c_L, MLP(c_0)] + b                  structure: parallel   (GDCN-P)
    logit   = wᵀ MLP(c_L) + b                         structure: stacked    (GDCN-S)

The paper's field-level dimension optimisation is no part of this: embeddings have one width. The gates have no bias, as
in its equation and in FuxiCTR.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M inputs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Count, Inputs, flat
from recsys.models.layers import DeepConfig, linear, mlp_of


@dataclass(frozen=True, kw_only=True)
class GDCNConfig(DeepConfig):
    """Fields of a GDCN: how cross network and MLP are joined, and their sizes."""

    kind: Literal["gdcn"] = "gdcn"
    structure: Literal["parallel", "stacked"] = "parallel"
    num_cross_layers: Count = 3


class GatedCrossNetwork(nn.Module):
    """``c_{l+1} = c_0 ⊙ (W_l c_l + b_l) ⊙ σ(G_l c_l) + c_l``, layer upon layer: (B, I) → (B, I)."""

    def __init__(self, num_inputs: int, num_layers: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(num_inputs, num_inputs, generator=generator) for _ in range(num_layers))
        self.gates = nn.ModuleList(
            linear(num_inputs, num_inputs, bias=False, generator=generator) for _ in range(num_layers)
        )

    def forward(self, c0_BI: Tensor) -> Tensor:
        c_BI = c0_BI
        for layer, gate in zip(self.layers, self.gates, strict=True):
            c_BI = c0_BI * layer(c_BI) * gate(c_BI).sigmoid() + c_BI
        return c_BI


class GDCN(nn.Module):
    """Gated cross network and MLP over the concatenated embeddings and numbers."""

    Config: ClassVar[type] = GDCNConfig

    def __init__(self, config: GDCNConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.cross = GatedCrossNetwork(inputs.num_flat, config.num_cross_layers, generator=generator)
        self.mlp = mlp_of(config, inputs.num_flat, generator=generator)
        num_joined = self.mlp.num_outputs + (inputs.num_flat if config.structure == "parallel" else 0)
        self.output = linear(num_joined, 1, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        c0_BI = flat(embeddings_BFD, numbers_BM)
        crossed_BI = self.cross(c0_BI)
        if self.config.structure == "parallel":
            joined_BI = torch.cat([crossed_BI, self.mlp(c0_BI)], dim=1)
        else:
            joined_BI = self.mlp(crossed_BI)
        logits_B: Tensor = self.output(joined_BI).squeeze(1)
        return logits_B
