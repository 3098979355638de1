"""What a model is given, and what it may ask for: the seam between the recommender and every model.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M, N ids of one bag
feature, P pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from recsys.errors import ConfigError, unknown
from recsys.fields import AtLeast, Below

Count = Annotated[int, AtLeast(1)]
Probability = Annotated[float, AtLeast(0), Below(1)]  # of dropping a unit


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The shape of what comes: sparse features by name and in order, their embeddings' width, and how many numbers.

    ``targets`` maps each bag or sequence feature to the id feature that reads the same table (the history of films
    liked to the film that is shown), or to None.
    """

    feature_names: tuple[str, ...]
    embedding_dim: int
    num_numbers: int = 0
    targets: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def num_features(self) -> int:
        """F."""
        return len(self.feature_names)

    @property
    def num_flat(self) -> int:
        """I: how wide ``flat`` is."""
        return self.num_features * self.embedding_dim + self.num_numbers

    @property
    def num_pairs(self) -> int:
        """F (F - 1) / 2."""
        return self.num_features * (self.num_features - 1) // 2

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The places i < j of all pairs of features, (0, 1), (0, 2), …; ConfigError where there is none."""
        if self.num_features < 2:
            raise ConfigError(
                f"the model crosses pairs of features, and {list(self.feature_names)} makes none; declare another "
                "feature of kind id or bag, or choose a model that needs no pairs (model=dnn)"
            )
        first_P, second_P = torch.triu_indices(self.num_features, self.num_features, offset=1)
        return first_P, second_P

    def place(self, feature: str) -> int:
        """Where a sparse feature stands; ConfigError for another name."""
        if feature not in self.feature_names:
            raise unknown("feature of the model", feature, self.feature_names)
        return self.feature_names.index(feature)


class BagVectors(NamedTuple):
    """The vectors of one bag feature before pooling: vector n belongs to example ``examples_N[n]``, in its order."""

    vectors_ND: Tensor
    examples_N: Tensor  # int64, rising


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model asks of the recommender. Most ask for the tables' own embeddings and nothing else."""

    kind: str

    @property
    def needs_first_order(self) -> bool:
        """Whether ``forward`` wants a first-order value per feature; if not, it is given a (B, 0) tensor."""
        return False

    @property
    def needs_bag_vectors(self) -> bool:
        """Whether ``forward`` takes a fourth argument: BagVectors by the name of every bag and sequence feature."""
        return False

    def row_dim(self, inputs: Inputs) -> int:
        """How wide embeddings the tables must give, of ``inputs.embedding_dim`` as configured; 0: no tables at all."""
        return inputs.embedding_dim


class WithLinearPart:
    """Mixed into the config of a model whose first-order part is always there."""

    @property
    def needs_first_order(self) -> bool:
        """See ModelConfig."""
        return True


def flat(embeddings_BFD: Tensor, numbers_BM: Tensor) -> Tensor:
    """[v_1 … v_F, numbers]: (B, I), what an MLP reads.

    >>> flat(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[5.0]])).tolist()
    [[1.0, 2.0, 3.0, 4.0, 5.0]]
    """
    return torch.cat([embeddings_BFD.flatten(start_dim=1), numbers_BM], dim=1)
