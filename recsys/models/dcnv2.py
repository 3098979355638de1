"""DCN-V2: a full-rank cross network and an MLP, side by side or one after the other.

Wang et al. 2021, arXiv 2008.13535::

    x_0     = [v_1 … v_F, numbers]
    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l             (its eq. 1)
    logit   = wᵀ [x_L, MLP(x_0)] + b                  structure: parallel
    logit   = wᵀ MLP(x_L) + b                         structure: stacked

Where readings of the paper differ, this one takes:

- *Version.* V1 (DCN, 2017) has a vector w_l: x_0 (w_lᵀ x_l) + b_l + x_l. torchrec's ``CrossNet`` is V2 though
  it cites V1; its ``VectorCrossNet`` is V1. The low-rank and mixture forms are not offered.
- *Structure.* The paper's Figure 1 has both, and which is better depends on the data. Parallel is the
  default, as in BARS; the MLP of the stacked form reads x_L alone.
- *First order.* The paper has no separate linear term, since the cross network passes x_0 on. ``first_order``
  adds Σ_f first_order_f + uᵀ numbers for those who want a wide part.
- *Batch normalisation.* In the MLP only, and off by default; the BARS recipe turns it on.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M inputs.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.fields import AtLeast, Below, NotEmpty
from recsys.models.layers import MLP, linear


@dataclass(frozen=True, kw_only=True)
class DCNv2Config:
    """Fields of a DCN-V2: how cross network and MLP are joined, their sizes, and a linear term."""

    kind: Literal["dcnv2"] = "dcnv2"
    structure: Literal["parallel", "stacked"] = "parallel"
    num_cross_layers: Annotated[int, AtLeast(1)] = 3
    hidden_sizes: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty()] = (400, 400, 400)
    dropout: Annotated[float, AtLeast(0), Below(1)] = 0.0  # the probability of dropping a unit
    batch_norm: bool = False
    first_order: bool = False

    @property
    def needs_first_order(self) -> bool:
        """Whether ``forward`` wants a first-order value per feature; if not, it is given a (B, 0) tensor."""
        return self.first_order


class CrossNetwork(nn.Module):
    """``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l``, layer upon layer: (B, I) → (B, I)."""

    def __init__(self, num_inputs: int, num_layers: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(num_inputs, num_inputs, generator=generator) for _ in range(num_layers))

    def forward(self, x0_BI: Tensor) -> Tensor:
        x_BI = x0_BI
        for layer in self.layers:
            x_BI = x0_BI * layer(x_BI) + x_BI
        return x_BI


class DCNv2(nn.Module):
    """Cross network and MLP over the concatenated embeddings and numbers, into one logit per example.

    >>> model = DCNv2(
    ...     DCNv2Config(hidden_sizes=(4,), structure="stacked"),
    ...     num_features=2, embedding_dim=3, num_numbers=1, generator=torch.Generator().manual_seed(0),
    ... )
    >>> model(torch.zeros(5, 2, 3), torch.zeros(5, 0), torch.zeros(5, 1)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    Config: ClassVar[type] = DCNv2Config

    def __init__(
        self,
        config: DCNv2Config,
        *,
        num_features: int,
        embedding_dim: int,
        num_numbers: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        num_inputs = num_features * embedding_dim + num_numbers
        self.cross = CrossNetwork(num_inputs, config.num_cross_layers, generator=generator)
        self.mlp = MLP(
            num_inputs,
            config.hidden_sizes,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
            generator=generator,
        )
        num_joined = self.mlp.num_outputs + (num_inputs if config.structure == "parallel" else 0)
        self.output = linear(num_joined, 1, generator=generator)
        self.number_weights = nn.Parameter(torch.zeros(num_numbers)) if config.first_order else None

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values ((B, 0) unless configured), and numbers."""
        x0_BI = torch.cat([embeddings_BFD.flatten(start_dim=1), numbers_BM], dim=1)
        crossed_BI = self.cross(x0_BI)
        if self.config.structure == "parallel":
            joined_BI = torch.cat([crossed_BI, self.mlp(x0_BI)], dim=1)
        else:
            joined_BI = self.mlp(crossed_BI)
        logits_B = self.output(joined_BI).squeeze(1)
        if self.number_weights is None:
            return logits_B
        assert first_order_BF.shape == embeddings_BFD.shape[:2], "first_order needs one value per feature"
        return logits_B + first_order_BF.sum(dim=1) + numbers_BM @ self.number_weights
