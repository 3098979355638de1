"""EulerNet: feature products of learned orders, as sums of logarithms and phases (Tian et al. 2023, arXiv 2304.10711)::

    r_f, p_f = μ_f cos v_f, μ_f sin v_f
    λ, θ     = log √(r² + p²), atan2(p, r)                                  to polar form
    l_k, ψ_k = exp(Σ_f α_kf λ_f + δ_k), Σ_f α_kf θ_f + δ'_k                 explicit
    r'_k     = l_k cos ψ_k + ReLU(W [r] + b)_k                              and implicit
    p'_k     = l_k sin ψ_k + ReLU(W [p] + b)_k
    logit    = wᵀ r_L + b + wᵀ p_L + b (+ uᵀ numbers)

Where readings differ, this one takes:

- *Normalisation.* ``layer_norm`` normalises r' and p' over D after each layer, as an option, as in the authors' code.
- *Orders.* α begins as the identity where a layer keeps F, as in the authors' code; else near 1/F, each with its draw.
- *Sharing.* r and p share W and b, and w and b.
- *Numbers* have no phase: a linear weight each.
- 1e-8 is added to r² + p², whose logarithm may be of 0.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, K order vectors of a layer.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, ModelConfig, Probability
from recsys.models.layers import HiddenSizes, linear

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class EulerNetConfig(ModelConfig):
    """Fields of an EulerNet: how many order vectors each layer has, and its norms and dropouts."""

    kind: Literal["eulernet"] = "eulernet"
    order_sizes: HiddenSizes = (7,)
    layer_norm: bool = False
    explicit_dropout: Probability = 0.0  # of logarithms and phases
    implicit_dropout: Probability = 0.0  # of r and p before W


class EulerLayer(nn.Module):
    """One interaction layer: r and p (B, F, D) → r' and p' (B, K, D)."""

    def __init__(
        self, num_features: int, num_orders: int, dim: int, config: EulerNetConfig, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.orders_KF = nn.Parameter(_first_orders(num_orders, num_features, generator))
        self.log_bias_KD, self.phase_bias_KD = (
            nn.Parameter(torch.empty(num_orders, dim).normal_(std=0.01, generator=generator)) for _ in range(2)
        )
        self.implicit = linear(num_features * dim, num_orders * dim, generator=generator)
        self.explicit_dropout = nn.Dropout(config.explicit_dropout)
        self.implicit_dropout = nn.Dropout(config.implicit_dropout)
        self.real_norm, self.imaginary_norm = (
            nn.LayerNorm(dim) if config.layer_norm else nn.Identity() for _ in range(2)
        )

    def forward(self, r_BFD: Tensor, p_BFD: Tensor) -> tuple[Tensor, Tensor]:
        logs_BFD = self.explicit_dropout(0.5 * (r_BFD.square() + p_BFD.square() + _TINY).log())
        phases_BFD = self.explicit_dropout(torch.atan2(p_BFD, r_BFD))
        lengths_BKD = (self.orders_KF @ logs_BFD + self.log_bias_KD).exp()
        phases_BKD = self.orders_KF @ phases_BFD + self.phase_bias_KD
        r_BKD = lengths_BKD * phases_BKD.cos() + self._implicit(r_BFD)
        p_BKD = lengths_BKD * phases_BKD.sin() + self._implicit(p_BFD)
        return self.real_norm(r_BKD), self.imaginary_norm(p_BKD)

    def _implicit(self, part_BFD: Tensor) -> Tensor:
        mixed_BI = self.implicit(self.implicit_dropout(part_BFD.flatten(start_dim=1))).relu()
        return mixed_BI.unflatten(1, (len(self.orders_KF), -1))


class EulerNet(nn.Module):
    """Embeddings as phases, interaction layers, and one regression for both parts."""

    Config: ClassVar[type] = EulerNetConfig

    def __init__(self, config: EulerNetConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        dim = inputs.embedding_dim
        self.moduli_F1 = nn.Parameter(torch.ones(inputs.num_features, 1))
        self.layers = nn.ModuleList(
            EulerLayer(num_in, num_out, dim, config, generator=generator)
            for num_in, num_out in pairwise([inputs.num_features, *config.order_sizes])
        )
        self.output = linear(config.order_sizes[-1] * dim, 1, generator=generator)
        self.number_weights = nn.Parameter(torch.zeros(inputs.num_numbers))

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        r_BFD, p_BFD = self.moduli_F1 * embeddings_BFD.cos(), self.moduli_F1 * embeddings_BFD.sin()
        for layer in self.layers:
            r_BFD, p_BFD = layer(r_BFD, p_BFD)
        real_B1, imaginary_B1 = (self.output(part.flatten(start_dim=1)) for part in (r_BFD, p_BFD))
        logits_B: Tensor = (real_B1 + imaginary_B1).squeeze(1) + numbers_BM @ self.number_weights
        return logits_B


def _first_orders(num_orders: int, num_features: int, generator: torch.Generator) -> Tensor:
    if num_orders == num_features:
        return torch.eye(num_features)
    drawn_KF = torch.empty(num_orders, num_features).normal_(std=0.1, generator=generator)
    return drawn_KF.softmax(dim=1)
