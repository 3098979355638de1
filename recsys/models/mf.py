"""Matrix factorisation: an embedding is the vector, as it is (Koren et al. 2009; with BPR, Rendle et al. 2009)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from recsys.graphs.bipartite import Bipartite
from recsys.models.retriever import Retriever


@dataclass(frozen=True, kw_only=True)
class MFConfig:
    """Nothing to choose."""

    kind: Literal["mf"] = "mf"


class MF(Retriever):
    """Nothing between embeddings and products."""

    Config: ClassVar[type[Any]] = MFConfig

    def __init__(self, config: MFConfig, graph: Bipartite) -> None:
        super().__init__(config, graph)

    def forward(self, users_UD: Tensor, items_ID: Tensor) -> tuple[Tensor, Tensor]:
        """See Retriever.forward."""
        return users_UD, items_ID
