"""FwFM: a field-weighted factorization machine (Pan et al. 2018, doi 10.1145/3178876.3186040)::

    logit = bias + linear + uᵀ numbers + Σ_{i<j} r_ij ⟨v_i, v_j⟩
    linear = Σ_f w_f[id]                       linear: weight          (LW)
           = Σ_f ⟨v_f, w_f[id]⟩                linear: id_vector       (FeLV, BARS)
           = Σ_f ⟨v_f, w_f⟩                    linear: feature_vector  (FiLV)

FeLV has a second vector an id. It lies behind the first in the same row: the model asks for rows twice as wide, and
cuts.

Shape suffixes: B examples, F sparse features, D embedding width, P pairs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, ModelConfig
from recsys.models.layers import linear


@dataclass(frozen=True, kw_only=True)
class FwFMConfig(ModelConfig):
    """Fields of an FwFM: what its linear term is."""

    kind: Literal["fwfm"] = "fwfm"
    linear: Literal["weight", "id_vector", "feature_vector"] = "id_vector"

    @property
    def needs_first_order(self) -> bool:
        """See ModelConfig."""
        return self.linear == "weight"

    def row_dim(self, inputs: Inputs) -> int:
        """Two vectors an id where the linear term has its own."""
        return inputs.embedding_dim * (2 if self.linear == "id_vector" else 1)


class FwFM(nn.Module):
    """All pairs' dot products, each pair with a weight, and a linear term."""

    Config: ClassVar[type] = FwFMConfig

    def __init__(self, config: FwFMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self._dim = inputs.embedding_dim
        self._first_P, self._second_P = inputs.pairs()
        self.pair_weights = linear(inputs.num_pairs, 1, generator=generator)  # its bias is the logit's
        self.number_weights = nn.Parameter(torch.zeros(inputs.num_numbers))
        self.feature_vectors = (
            linear(inputs.num_features * self._dim, 1, bias=False, generator=generator)
            if config.linear == "feature_vector"
            else None
        )

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values ((B, 0) unless linear is weight), and numbers."""
        crossed_BFD, own_BFD = embeddings_BFD[..., : self._dim], embeddings_BFD[..., self._dim :]
        dots_BP = (crossed_BFD[:, self._first_P] * crossed_BFD[:, self._second_P]).sum(dim=2)
        logits_B = self.pair_weights(dots_BP).squeeze(1) + numbers_BM @ self.number_weights
        if self.config.linear == "weight":
            assert first_order_BF.shape[1] > 0, "linear=weight needs a first-order value per feature"
            linear_B = first_order_BF.sum(dim=1)
        elif self.feature_vectors is not None:
            linear_B = self.feature_vectors(crossed_BFD.flatten(start_dim=1)).squeeze(1)
        else:
            linear_B = (crossed_BFD * own_BFD).sum(dim=(1, 2))
        return logits_B + linear_B
