"""BPR's gradient by hand, LightGCN against a dense reading."""

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.graphs.bipartite import Bipartite
from recsys.models.retrieval import bpr_loss, build_retriever, half_squares

GRAPH = Bipartite.of(np.array([0, 0, 1, 3]), np.array([0, 1, 1, 2]), 4, 4)  # user 2 and item 3 have no edge


def vectors(num: int, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def test_gradients_of_bpr_are_those_of_the_paper() -> None:
    users, liked, other = (vectors(5, seed=seed) for seed in range(3))
    bpr_loss(users, liked, other).backward()
    with torch.no_grad():
        margins = (users * (liked - other)).sum(1)
        slopes = (-torch.sigmoid(-margins) / 5)[:, None]  # Rendle et al. 2009, section 4.1: −e^−x / (1 + e^−x) ∂x
        torch.testing.assert_close(users.grad, slopes * (liked - other))
        torch.testing.assert_close(liked.grad, slopes * users)
        torch.testing.assert_close(other.grad, -slopes * users)


def test_half_squares_are_a_mean_over_the_batch() -> None:
    assert half_squares(torch.ones(2, 3), 2 * torch.ones(2, 3)).item() == (3 + 12) / 2


def test_mf_takes_embeddings_as_they_are() -> None:
    users, items = vectors(4), vectors(4, seed=1)
    found = build_retriever({"kind": "mf"}, GRAPH)(users, items)
    assert found[0] is users and found[1] is items


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_lightgcn_is_the_mean_of_powers_of_the_normalised_adjacency(num_layers: int) -> None:
    users, items = vectors(4), vectors(4, seed=1)
    model = build_retriever({"kind": "lightgcn", "num_layers": num_layers}, GRAPH)
    found = torch.cat(model(users, items))
    adjacency = np.zeros((8, 8), np.float32)
    adjacency[:4, 4:] = GRAPH.matrix_UI.toarray()
    adjacency[4:, :4] = adjacency[:4, 4:].T
    degrees = np.maximum(adjacency.sum(1), 1)
    smooth = torch.from_numpy(adjacency / np.sqrt(degrees[:, None] * degrees[None, :]))
    start = torch.cat([users, items]).detach().requires_grad_()
    layers = [start]
    for _ in range(num_layers):
        layers.append(smooth @ layers[-1])
    expected = torch.stack(layers).mean(0)
    torch.testing.assert_close(found, expected)
    weights = vectors(8, seed=2).detach()
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(torch.cat([users.grad, items.grad]), start.grad)


def test_an_unknown_retriever_is_told() -> None:
    with pytest.raises(ConfigError, match=r"unknown retriever\.kind 'gcn'; known: mf, lightgcn"):
        build_retriever({"kind": "gcn"}, GRAPH)
