"""DLRM: numbers through a bottom MLP, dot products of everything, a top MLP (Naumov et al. 2019, arXiv 1906.00091)::

    n     = MLP_bottom(numbers), as wide as an embedding
    logit = wᵀ MLP([n, ⟨e_i, e_j⟩ for i < j of e = n, v_1 … v_F]) + b        interaction: dot
    logit = wᵀ MLP([n, v_1 … v_F]) + b                                       interaction: cat

Where readings differ, this one takes:

- *Without numbers* there is no n: torchrec's and Facebook's can not do without, BARS's can. Its "DLRM" on Frappe is
  ``cat`` without numbers: a plain DNN.
- *Pairs.* Each once and none with itself (Facebook's default); the order is torchrec's.
- *Bottom.* ReLU after its last layer too, as in torchrec and Facebook's; batch normalisation and dropout are the top's.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, V vectors crossed, P pairs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Count, Inputs
from recsys.models.layers import MLP, DeepConfig, Tower


@dataclass(frozen=True, kw_only=True)
class DLRMConfig(DeepConfig):
    """Fields of a DLRM: what goes into its top MLP, that one's fields, and the bottom's layers before the last."""

    kind: Literal["dlrm"] = "dlrm"
    interaction: Literal["dot", "cat"] = "dot"
    bottom_hidden_sizes: tuple[Count, ...] = (64,)


class DotInteraction(nn.Module):
    """Dot products of all pairs of vectors: (B, V, D) → (B, P)."""

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        self._first_P, self._second_P = torch.triu_indices(num_vectors, num_vectors, offset=1)

    def forward(self, vectors_BVD: Tensor) -> Tensor:
        dots_BVV = vectors_BVD @ vectors_BVD.transpose(1, 2)
        return dots_BVV[:, self._first_P, self._second_P]


class DLRM(nn.Module):
    """Bottom MLP, interaction, top MLP."""

    Config: ClassVar[type] = DLRMConfig

    def __init__(self, config: DLRMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        dim, self.bottom = inputs.embedding_dim, None
        num_bottom = dim if inputs.num_numbers else 0
        if inputs.num_numbers:
            self.bottom = MLP(inputs.num_numbers, (*config.bottom_hidden_sizes, dim), generator=generator)
        if config.interaction == "cat":
            self.dots, num_interactions = None, inputs.num_features * dim
        else:
            num_vectors = inputs.num_features + (self.bottom is not None)
            self.dots = DotInteraction(num_vectors)
            num_interactions = num_vectors * (num_vectors - 1) // 2
            if not num_interactions:
                inputs.pairs()  # says that one vector makes no pair
        self.tower = Tower(num_bottom + num_interactions, config, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        bottom_BD = numbers_BM if self.bottom is None else self.bottom(numbers_BM)
        if self.dots is None:
            interactions_BI = embeddings_BFD.flatten(start_dim=1)
        elif self.bottom is None:
            interactions_BI = self.dots(embeddings_BFD)
        else:
            interactions_BI = self.dots(torch.cat([bottom_BD[:, None], embeddings_BFD], dim=1))
        logits_B: Tensor = self.tower(torch.cat([bottom_BD, interactions_BI], dim=1))
        return logits_B
