"""What a retrieval model is: how embeddings become the vectors that are multiplied.

Shape suffixes: U users, I items, D embedding dimension.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from recsys.graphs.bipartite import Bipartite


class Retriever(nn.Module, ABC):
    """``whole``: it needs the embeddings of all users and items at every step, not those of a batch alone."""

    Config: ClassVar[type[Any]]
    whole: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, config: Any, graph: Bipartite) -> None:
        """A model of what is learned from ``graph``."""
        super().__init__()

    @abstractmethod
    def forward(self, users_UD: Tensor, items_ID: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of the users and of the items whose embeddings are given, of all where ``whole``."""
