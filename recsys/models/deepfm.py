"""DeepFM: a factorization machine and an MLP over the same embeddings (Guo et al. 2017, arXiv 1703.04247)::

    logit = bias + Σ_f first_order_f + wᵀ numbers + ½ Σ_d ((Σ_f v_fd)² − Σ_f v_fd²) + MLP([v_1…v_F, numbers])

Where readings of the paper differ, this one takes:

- *Bias.* The paper's FM part has none and its MLP's output layer has one, so there is one here. A second in
  the linear part, as some libraries have, would only share its gradient.
- *Numbers.* The paper gives a continuous field an embedding scaled by its value, inside the FM. Here numbers
  have a linear weight and enter the MLP, but no second-order term, as in DeepCTR.
- *Bags.* A feature with several values enters as its pooled embedding: values within one bag are not crossed.
- *Batch normalisation.* Off by default; the BARS recipe (hidden_sizes 400-400-400) turns it on.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, WithLinearPart, flat
from recsys.models.layers import DeepConfig, fm_second_order, linear, mlp_of


@dataclass(frozen=True, kw_only=True)
class DeepFMConfig(WithLinearPart, DeepConfig):
    """Fields of a DeepFM: its MLP's."""

    kind: Literal["deepfm"] = "deepfm"


class DeepFM(nn.Module):
    """First order, FM second order and MLP, summed into one logit per example.

    >>> model = DeepFM(
    ...     DeepFMConfig(hidden_sizes=(4,)),
    ...     Inputs(feature_names=("user", "item"), embedding_dim=3),
    ...     generator=torch.Generator().manual_seed(0),
    ... )
    >>> model(torch.zeros(5, 2, 3), torch.ones(5, 2), torch.zeros(5, 0)).tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0]
    """

    Config: ClassVar[type] = DeepFMConfig

    def __init__(self, config: DeepFMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.bias = nn.Parameter(torch.zeros(()))
        self.number_weights = nn.Parameter(torch.zeros(inputs.num_numbers))
        self.mlp = mlp_of(config, inputs.num_flat, generator=generator)
        self.mlp_output = linear(self.mlp.num_outputs, 1, bias=False, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, pooled embeddings of width 1, and numbers; all float32."""
        assert first_order_BF.shape == embeddings_BFD.shape[:2], "DeepFM needs a first-order value per feature"
        first_order_B = first_order_BF.sum(dim=1) + numbers_BM @ self.number_weights
        deep_B = self.mlp_output(self.mlp(flat(embeddings_BFD, numbers_BM))).squeeze(1)
        return self.bias + first_order_B + fm_second_order(embeddings_BFD) + deep_B
