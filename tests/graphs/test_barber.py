"""Barber's modularity by its closed forms, by a double sum, and move by move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.graphs.barber import best_cluster, degree_sums, joining_gain, modularity
from recsys.graphs.bipartite import Bipartite


def blocks(count: int, users: int, items: int) -> Bipartite:
    """``count`` disjoint complete bipartite graphs."""
    pairs = [(c * users + u, c * items + i) for c in range(count) for u in range(users) for i in range(items)]
    users_E, items_E = np.array(pairs).T
    return Bipartite.of(users_E, items_E, count * users, count * items)


def by_double_sum(graph: Bipartite, users: np.ndarray, items: np.ndarray, gamma: float) -> float:
    m, total = graph.num_edges, 0.0
    dense = graph.matrix_UI.toarray()
    for u in range(graph.num_users):
        for i in range(graph.num_items):
            if users[u] == items[i] and users[u] >= 0:
                total += dense[u, i] - gamma * dense[u].sum() * dense[:, i].sum() / m
    return total / m


@st.composite
def clustered_graphs(draw: st.DrawFn) -> tuple[Bipartite, np.ndarray, np.ndarray, float]:
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pair = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1))
    users_E, items_E = np.array(draw(st.lists(pair, min_size=1, max_size=20))).T
    users, items = (
        np.array(draw(st.lists(st.integers(-1, 3), min_size=num, max_size=num))) for num in (num_users, num_items)
    )
    return Bipartite.of(users_E, items_E, num_users, num_items), users, items, draw(st.floats(0.1, 10))


@given(clustered_graphs())
def test_modularity_is_the_double_sum(drawn: tuple[Bipartite, np.ndarray, np.ndarray, float]) -> None:
    graph, users, items, gamma = drawn
    assert modularity(graph, users, items, gamma) == pytest.approx(by_double_sum(graph, users, items, gamma), abs=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_closed_forms(gamma: float) -> None:
    graph = blocks(4, 3, 2)
    alone = modularity(graph, np.arange(12), 12 + np.arange(8), gamma)
    together = modularity(graph, np.zeros(12, int), np.zeros(8, int), gamma)
    apart = modularity(graph, np.arange(12) // 3, np.arange(8) // 2, gamma)
    assert (alone, together, apart) == (0.0, pytest.approx(1 - gamma), pytest.approx(1 - gamma / 4))


def best_of_all(graph: Bipartite) -> float:
    """The largest modularity of any clustering, by trying all."""
    num = graph.num_users + graph.num_items
    labels = np.stack(np.meshgrid(*[np.arange(num)] * num, indexing="ij"), axis=-1).reshape(-1, num)
    return max(modularity(graph, one[: graph.num_users], one[graph.num_users :]) for one in labels)


def test_the_best_of_a_path_of_four_nodes_is_two_ninths() -> None:
    path = Bipartite.of(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2)
    assert best_of_all(path) == pytest.approx(2 / 9)


def test_two_squares_and_a_bridge() -> None:
    squares = blocks(2, 2, 2)
    users_E, items_E = np.append(squares.users_E, 0), np.append(squares.items_E, 2)
    bridged = Bipartite.of(users_E, items_E, 4, 4)
    assert modularity(bridged, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])) == pytest.approx(32 / 81)


@given(clustered_graphs(), st.data())
def test_every_move_gains_what_it_says(
    drawn: tuple[Bipartite, np.ndarray, np.ndarray, float], data: st.DataObject
) -> None:
    graph, users, items, gamma = drawn
    user, target = data.draw(st.integers(0, graph.num_users - 1)), data.draw(st.integers(0, 3))
    item_sums = degree_sums(items, graph.item_degrees_I, 4)
    neighbours = items[graph.items_E[graph.users_E == user]]

    def joining(cluster: int) -> float:
        if cluster < 0:
            return 0.0
        links, degree = int((neighbours == cluster).sum()), int(graph.user_degrees_U[user])
        return joining_gain(links, degree, item_sums[cluster], graph.num_edges, gamma)

    moved = users.copy()
    moved[user] = target
    difference = modularity(graph, moved, items, gamma) - modularity(graph, users, items, gamma)
    assert joining(target) - joining(users[user]) == pytest.approx(difference, abs=1e-9)


def test_the_best_cluster_is_the_largest_gain_or_none() -> None:
    sums = np.array([4.0, 1.0, 1.0])
    found, gain = best_cluster(np.array([0, 1, 2]), np.array([2, 1, 1]), 4.0, sums, num_edges=8, gamma=1.0)
    assert (found, gain) == (1, joining_gain(1, 4.0, 1.0, 8, 1.0))  # 2/8 − 16/64 = 0 < 1/8 − 4/64; of two, the first
    assert best_cluster(np.array([0]), np.array([2]), 4.0, sums, num_edges=8, gamma=1.0) == (-1, 0.0)
    assert best_cluster(np.array([], int), np.array([], int), 4.0, sums, num_edges=8, gamma=1.0) == (-1, 0.0)


def test_a_pair_of_two_lone_nodes_merges_where_their_degrees_are_below_edges_by_gamma() -> None:
    for gamma in (1.9, 2.1):  # degrees 2 and 2 among 8 edges: 4 < 8/γ
        gain = joining_gain(1, 2, 2, 8, gamma)
        assert (gain > 0) == (8 / gamma > 2 * 2)
