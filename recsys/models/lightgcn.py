"""LightGCN: embeddings smoothed along the user-item graph, the mean of all layers (He et al. 2020, section 3.1)::

    u⁽ˡ⁺¹⁾ = Â i⁽ˡ⁾        i⁽ˡ⁺¹⁾ = Âᵀ u⁽ˡ⁾        Â_ui = B_ui / √(k_u d_i)

Shape suffixes: U users, I items, D embedding dimension.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from recsys.fields import AtLeast
from recsys.graphs.bipartite import Bipartite
from recsys.models.retriever import Retriever


@dataclass(frozen=True, kw_only=True)
class LightGCNConfig:
    """How many steps along the graph."""

    kind: Literal["lightgcn"] = "lightgcn"
    num_layers: Annotated[int, AtLeast(1)] = 2


class LightGCN(Retriever):
    """No parameters but the embeddings."""

    Config: ClassVar[type[Any]] = LightGCNConfig
    whole: ClassVar[bool] = True

    def __init__(self, config: LightGCNConfig, graph: Bipartite) -> None:
        super().__init__(config, graph)
        self._num_layers = config.num_layers
        self._to_users = normalised(graph)
        self._to_items = self._to_users.T.tocsr()

    def forward(self, users_UD: Tensor, items_ID: Tensor) -> tuple[Tensor, Tensor]:
        """See Retriever.forward."""
        users, items = [users_UD], [items_ID]
        for _ in range(self._num_layers):
            smoothed = (
                _Product.apply(items[-1], self._to_users, self._to_items),
                _Product.apply(users[-1], self._to_items, self._to_users),
            )
            users.append(smoothed[0])
            items.append(smoothed[1])
        return torch.stack(users).mean(0), torch.stack(items).mean(0)


def normalised(graph: Bipartite) -> scipy.sparse.csr_matrix:
    """Â, float32 (U, I); rows of nodes without an edge are zeros."""
    by_user = scipy.sparse.diags(_inverse_root(graph.user_degrees_U))
    by_item = scipy.sparse.diags(_inverse_root(graph.item_degrees_I))
    return (by_user @ graph.matrix_UI @ by_item).tocsr().astype(np.float32)


def _inverse_root(degrees_N: Any) -> Any:
    return np.where(degrees_N > 0, 1 / np.sqrt(np.maximum(degrees_N, 1)), 0.0)


class _Product(torch.autograd.Function):
    """A sparse matrix times vectors; torch's own sparse tensors warn of being in beta."""

    @staticmethod
    def forward(context: Any, vectors_ND: Tensor, matrix: Any, transposed: Any) -> Tensor:
        context.transposed = transposed
        return torch.from_numpy(matrix @ vectors_ND.numpy())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(context.transposed @ gradients[0].numpy()), None, None
