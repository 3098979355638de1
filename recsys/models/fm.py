"""FM: a factorization machine (Rendle 2010, doi 10.1109/ICDM.2010.127, eq. 1)::

    logit = bias + Σ_f w_f[id] + uᵀ numbers + Σ_{i<j} ⟨v_i, v_j⟩

Numbers have a linear weight and no vector. A bag is crossed with others as its pooled embedding; the values within one
bag are not crossed.

Shape suffixes: B examples, F sparse features, P of them, D embedding width, M numeric features, Q of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, ModelConfig
from recsys.models.layers import FirstOrder, fm_second_order


@dataclass(frozen=True, kw_only=True)
class FMConfig(ModelConfig):
    """Its rank is the tables' embedding_dim. Without ``first_order`` ids have no weights of their own.

    Of a user and an item, that is matrix factorisation.
    """

    kind: Literal["fm"] = "fm"
    first_order: bool = True

    @property
    def needs_first_order(self) -> bool:
        """See ModelConfig."""
        return self.first_order


class FM(nn.Module):
    """First order and all pairs' dot products."""

    Config: ClassVar[type] = FMConfig

    def __init__(self, config: FMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        if self.config.first_order:
            linear_B: Tensor = self.first_order(first_order_BF, numbers_BM)
        else:
            assert self.first_order.bias is not None
            linear_B = numbers_BM @ self.first_order.number_weights + self.first_order.bias
        return linear_B + fm_second_order(embeddings_BFD)

    def side(
        self, embeddings_BPD: Tensor, first_order_BP: Tensor, numbers_BQ: Tensor, number_places: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """What P of the sparse features and Q of the numbers bring: vectors (B, D), and logits of their own (B,).

        Pairs within one side, pairs within the other, and pairs across, which are one product of sums (Lemma 3.1, by
        sides): the logit of both together is bias + own + own' + ⟨vector, vector'⟩. So an FM retrieves by products.
        """
        weights_Q = self.first_order.number_weights[list(number_places)]
        own_B = first_order_BP.sum(dim=1) + numbers_BQ @ weights_Q + fm_second_order(embeddings_BPD)
        return embeddings_BPD.sum(dim=1), own_B
