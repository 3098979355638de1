"""Retrieval models: vectors of users and of items whose products rank the items for a user.

A model is one file: a frozen dataclass of its fields and the ``Retriever`` that names it as ``Config``. One line in
``RETRIEVERS`` makes it known to YAML.

Shape suffixes: B pairs of a batch, U users, I items, D embedding dimension.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recsys.fields import build, choose
from recsys.graphs.bipartite import Bipartite
from recsys.models.lightgcn import LightGCN
from recsys.models.mf import MF
from recsys.models.retriever import Retriever

RETRIEVERS: dict[str, type[Retriever]] = {
    "mf": MF,
    "lightgcn": LightGCN,
}


def build_retriever_config(fields: Mapping[str, Any], where: str = "retriever") -> Any:
    """The config of the retriever that ``fields["kind"]`` names; ConfigError for what can not be.

    >>> build_retriever_config({"kind": "lightgcn"}).num_layers
    2
    """
    return build(RETRIEVERS[choose(where, fields, RETRIEVERS)].Config, fields, where)


def build_retriever(fields: Mapping[str, Any], graph: Bipartite) -> Retriever:
    """The retriever that ``fields`` describe, of what is learned from ``graph``; errors as of its config."""
    config = build_retriever_config(fields)
    return RETRIEVERS[config.kind](config, graph)


def bpr_loss(users_BD: Tensor, liked_BD: Tensor, other_BD: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): −log σ(score of the liked − score of the other), the mean.

    >>> round(bpr_loss(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2)).item(), 6)  # log(1 + e⁻²)
    0.126928
    """
    margins_B = (users_BD * (liked_BD - other_BD)).sum(1)
    return functional.softplus(-margins_B).mean()


def half_squares(*vectors_BD: Tensor) -> Tensor:
    """½ Σ |v|² of each batch member's vectors, the mean: what LightGCN's regularisation multiplies."""
    return torch.stack([(vectors**2).sum() for vectors in vectors_BD]).sum() / (2 * len(vectors_BD[0]))
