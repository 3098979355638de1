"""FFM: a field-aware factorization machine (Juan et al. 2016, doi 10.1145/2959100.2959134)::

    logit = bias + Σ_f w_f[id] + uᵀ numbers + Σ_{i<j} ⟨v_i→j, v_j→i⟩

A feature has a vector for each *other* one, so its rows are (F - 1) · embedding_dim wide: the model asks the tables for
that, and cuts. Slice s of feature i is meant for feature s where s < i, else for s + 1.

Where readings differ, this one takes:

- *Linear part.* The paper leaves it out, libffm too; BARS has it, and so it is here.
- *Normalisation.* libffm scales each example to unit length; here, as in BARS, every value counts as it is.

Shape suffixes: B examples, F sparse features, D embedding width (of one slice), S = F - 1 slices, P pairs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.models.inputs import Inputs, ModelConfig, WithLinearPart
from recsys.models.layers import FirstOrder


@dataclass(frozen=True, kw_only=True)
class FFMConfig(WithLinearPart, ModelConfig):
    """An FFM has no fields: its rank is the tables' embedding_dim, each vector's of the F - 1."""

    kind: Literal["ffm"] = "ffm"

    def row_dim(self, inputs: Inputs) -> int:
        """A vector for each other feature."""
        inputs.pairs()  # or say that there is none
        return (inputs.num_features - 1) * inputs.embedding_dim


class FFM(nn.Module):
    """First order, and the dot products of what each two features keep for one another."""

    Config: ClassVar[type] = FFMConfig

    def __init__(self, config: FFMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self._num_slices, self._dim = inputs.num_features - 1, inputs.embedding_dim
        self._first_P, self._second_P = inputs.pairs()
        self.first_order = FirstOrder(inputs.num_numbers)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings of width (F - 1) · D, first-order values, and numbers."""
        sliced_BFSD = embeddings_BFD.unflatten(2, (self._num_slices, self._dim))
        to_second_BPD = sliced_BFSD[:, self._first_P, self._second_P - 1]  # i < j: slice j - 1 of i
        to_first_BPD = sliced_BFSD[:, self._second_P, self._first_P]
        logits_B: Tensor = self.first_order(first_order_BF, numbers_BM)
        return logits_B + (to_second_BPD * to_first_BPD).sum(dim=(1, 2))
