"""FiBiNET: features weighed by squeeze and excitation, crossed bilinearly (Huang et al. 2019, arXiv 1905.09433)::

    z_f  = mean_d v_fd;  a = ReLU(W_2 ReLU(W_1 z));  u_f = a_f v_f                (SENet)
    p_ij = (v_i W) ⊙ v_j,  q_ij = (u_i W) ⊙ u_j
    logit = Σ_f w_f[id] + wᵀ MLP([p, q, numbers]) + b                             (FuxiCTR's linear part)

Where readings differ, this one takes:

- *W.* ``bilinear``: one for all pairs ("field-all", BARS), one for each left feature ("field-each"), one for each pair
  ("field-interaction").
- *Sharing.* p and q share W, as in FuxiCTR and DeepCTR (BARS's counts say so too); the paper does not say.
- *Excitation.* ReLU after both of its layers, as in the paper, without biases; the narrow one has
  max(1, ⌊F / reduction_ratio⌋) units.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, P pairs, W matrices.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.fields import Above
from recsys.models.inputs import Inputs, WithLinearPart
from recsys.models.layers import DeepConfig, FirstOrder, Tower, linear, xavier


@dataclass(frozen=True, kw_only=True)
class FiBiNETConfig(WithLinearPart, DeepConfig):
    """Fields of a FiBiNET: which matrices cross its pairs, how narrow the excitation is, and its MLP's."""

    kind: Literal["fibinet"] = "fibinet"
    bilinear: Literal["all", "each", "interaction"] = "all"
    reduction_ratio: Annotated[float, Above(0)] = 3.0


class SENet(nn.Module):
    """Features weighed by what all of them say: (B, F, D) → (B, F, D)."""

    def __init__(self, num_features: int, reduction_ratio: float, *, generator: torch.Generator) -> None:
        super().__init__()
        num_narrow = max(1, int(num_features / reduction_ratio))
        self.excitation = nn.Sequential(
            linear(num_features, num_narrow, bias=False, generator=generator),
            nn.ReLU(),
            linear(num_narrow, num_features, bias=False, generator=generator),
            nn.ReLU(),
        )

    def forward(self, embeddings_BFD: Tensor) -> Tensor:
        weights_BF = self.excitation(embeddings_BFD.mean(dim=2))
        return weights_BF[:, :, None] * embeddings_BFD


class Bilinear(nn.Module):
    """(v_i W) ⊙ v_j of all pairs: (B, F, D) → (B, P, D)."""

    def __init__(self, inputs: Inputs, kind: str, *, generator: torch.Generator) -> None:
        super().__init__()
        self._first_P, self._second_P = inputs.pairs()
        num_pairs = inputs.num_pairs
        # which matrix a pair takes
        matrix_of = {
            "all": torch.zeros_like(self._first_P),
            "each": self._first_P,
            "interaction": torch.arange(num_pairs),
        }
        self._matrix_P = matrix_of[kind]
        num_matrices = int(self._matrix_P.max()) + 1
        self.weights_WDD = xavier(num_matrices, inputs.embedding_dim, inputs.embedding_dim, generator=generator)

    def forward(self, embeddings_BFD: Tensor) -> Tensor:
        left_BPD, right_BPD = embeddings_BFD[:, self._first_P], embeddings_BFD[:, self._second_P]
        if len(self.weights_WDD) == 1:
            return left_BPD @ self.weights_WDD[0] * right_BPD
        return torch.einsum("bpd,pde->bpe", left_BPD, self.weights_WDD[self._matrix_P]) * right_BPD


class FiBiNET(nn.Module):
    """First order, and an MLP over the bilinear products of raw and of weighed embeddings."""

    Config: ClassVar[type] = FiBiNETConfig

    def __init__(self, config: FiBiNETConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers, bias=False)
        self.senet = SENet(inputs.num_features, config.reduction_ratio, generator=generator)
        self.bilinear = Bilinear(inputs, config.bilinear, generator=generator)
        num_products = 2 * inputs.num_pairs * inputs.embedding_dim
        self.tower = Tower(num_products + inputs.num_numbers, config, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        raw_BPD, weighed_BPD = self.bilinear(embeddings_BFD), self.bilinear(self.senet(embeddings_BFD))
        deep_B: Tensor = self.tower(torch.cat([raw_BPD.flatten(1), weighed_BPD.flatten(1), numbers_BM], dim=1))
        return deep_B + self.first_order(first_order_BF, numbers_BM)
