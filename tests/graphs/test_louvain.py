"""Louvain over the user-item graph: planted blocks are found, sizes are reached, scikit-network is what we think."""

import networkx
import numpy as np
import pytest
import scipy.sparse
from sknetwork.clustering import Louvain, get_modularity

from recsys.errors import ConfigError
from recsys.graphs.assignments import by_frequency, by_hash, by_likeness, by_remainder
from recsys.graphs.barber import modularity
from recsys.graphs.bipartite import Bipartite
from recsys.graphs.louvain import cluster_to, louvain
from recsys.tables.assign import assigned_map, clustered_map, uneven_map


def planted(num_blocks: int = 12, users: int = 10, items: int = 8, noise: int = 20, seed: int = 0) -> Bipartite:
    """Blocks of users and items with most of the edges, and some edges between them; one user and item have none."""
    random = np.random.default_rng(seed)
    within = [
        (b * users + u, b * items + i)
        for b in range(num_blocks) for u in range(users) for i in range(items) if random.random() < 0.8
    ]  # fmt: skip
    across = np.stack([random.integers(0, num_blocks * users, noise), random.integers(0, num_blocks * items, noise)], 1)
    users_E, items_E = np.concatenate([np.array(within), across]).T
    return Bipartite.of(users_E, items_E, num_blocks * users + 1, num_blocks * items + 1)


def karate_like_ring(cliques: int, size: int) -> scipy.sparse.csr_matrix:
    """Cliques in a ring, one edge from each to the next."""
    matrix = np.kron(np.eye(cliques), np.ones((size, size)) - np.eye(size))
    for c in range(cliques):
        one, two = c * size, (c + 1) % cliques * size + 1
        matrix[one, two] = matrix[two, one] = 1
    return scipy.sparse.csr_matrix(matrix)


def test_scikit_network_finds_a_ring_of_cliques() -> None:
    ring = karate_like_ring(8, 5)
    labels = Louvain().fit_predict(ring)
    assert len(np.unique(labels)) == 8
    assert get_modularity(ring, labels) == pytest.approx(1 - 1 / 11 - 1 / 8)


def test_planted_blocks_are_found() -> None:
    graph = planted()
    found = louvain(graph, gamma=1.0)
    for labels, size in ((found.users_U[:-1], 10), (found.items_I[:-1], 8)):
        assert len(np.unique(labels)) == 12
        assert (labels.reshape(12, size) == labels.reshape(12, size)[:, :1]).all()
    assert (found.users_U[-1], found.items_I[-1]) == (-1, -1)  # no edge, no cluster
    assert (found.users_U[:-1].reshape(12, 10)[:, 0] == found.items_I[:-1].reshape(12, 8)[:, 0]).all()
    again = louvain(graph, gamma=1.0)
    assert (again.users_U == found.users_U).all() and again.modularity == found.modularity > 0.7


def test_buckets_are_each_side_s_own_from_zero_on() -> None:
    bucketed = louvain(planted(), gamma=1.0).buckets(own_users=np.array([5, 7]))
    assert (bucketed.num_users, bucketed.num_items) == (2 + 12, 12)
    assert bucketed.users_U[[5, 7]].tolist() == [0, 1] and bucketed.users_U[-1] == -1
    assert set(bucketed.users_U) == set(range(-1, 14)) and set(bucketed.items_I) == set(range(-1, 12))


@pytest.mark.parametrize("most", [30, 60, 120])
def test_bisection_comes_close_from_below(most: int) -> None:
    tries: list[tuple[float, float]] = []
    found = cluster_to(planted(), lambda b: b.num_buckets, most, on_try=lambda g, s: tries.append((g, s)))
    assert 0.8 * most <= found.num_buckets <= most
    assert found.num_buckets == max(size for _, size in tries if size <= most)
    larger = [size for _, size in sorted(tries)]
    assert larger[0] < larger[-1]


def test_a_size_below_the_coarsest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the coarsest clusters need .*, allowed are 1; allow that"):
        cluster_to(planted(), lambda b: b.num_buckets, 1)


def test_a_budget_counts_rows_and_map() -> None:
    graph = planted()
    made = clustered_map(graph, "planted", budget_bytes=5000, row_bytes=64)
    assert 4000 <= 64 * made.num_buckets + made.nbytes <= 5000
    assert made.gamma is not None and made.modularity is not None
    with pytest.raises(ConfigError, match="give one of gamma, num_buckets and budget_bytes"):
        clustered_map(graph, "planted", gamma=1.0, num_buckets=4)


def test_own_rows_go_to_the_heaviest() -> None:
    graph = planted()
    made = clustered_map(graph, "planted", num_buckets=60, own_fraction=0.2)
    users, items = made.tables["user"], made.tables["item"]
    assert users.num_own + items.num_own == 12 and made.num_buckets <= 60
    heaviest = np.argsort(-graph.user_degrees_U, kind="stable")[: users.num_own]
    assert users.buckets(heaviest).tolist() == list(range(users.num_own))
    others = np.setdiff1d(np.arange(graph.num_users - 1), heaviest)
    assert (users.buckets(others) >= users.num_own).all()


def test_items_may_have_more_of_the_rows() -> None:
    graph = planted()
    made = uneven_map(graph, "planted", num_buckets=100, item_fraction=0.7, own_fraction=0.2)
    users, items = made.tables["user"], made.tables["item"]
    assert (users.num_own, items.num_own) == (6, 14)
    assert 20 <= users.num_buckets <= 30 and 50 <= items.num_buckets <= 70
    heaviest = np.argsort(-graph.item_degrees_I, kind="stable")[:14]
    assert items.buckets(heaviest).tolist() == list(range(14))
    assert made.user_gamma is not None and made.gamma is not None and made.user_gamma < made.gamma


def test_baselines_have_the_buckets_that_they_are_given() -> None:
    graph = planted()
    assert by_remainder(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    hashed = by_hash(1000, 1000, seed=4)
    assert len(np.unique(hashed)) == pytest.approx(632.3, abs=40)  # M(1 − (1 − 1/M)^N)
    assert not (hashed == by_hash(1000, 1000, seed=5)).all()
    buckets, num_own = by_frequency(np.array([3, 9, 1, 7, 5, 5]), num_buckets=4)
    assert num_own == 2 and buckets.tolist() == [2, 0, 2, 1, 2, 3]
    for method in ("random", "hash", "frequency", "lsh"):
        made = assigned_map(graph, "planted", method, (17, 13), seed=1)  # type: ignore[arg-type]
        assert {name: table.num_buckets for name, table in made.tables.items()} == {"user": 17, "item": 13}
        assert made.tables["user"].buckets(np.arange(graph.num_users)).max() < 17


def test_likeness_puts_equal_ids_together_and_nothing_with_its_opposite() -> None:
    rows = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [-1, -1, 0, 0], [0, 0, 1, 1]], np.float32)
    buckets = by_likeness(scipy.sparse.csr_matrix(rows), 256, seed=0)
    assert buckets[0] == buckets[1] and buckets[0] + buckets[2] == 255  # every bit the other way
    assert len(set(by_likeness(scipy.sparse.csr_matrix(rows), 3, seed=0)) | {0, 1, 2}) == 3


def test_scikit_network_on_the_karate_club() -> None:
    club = networkx.karate_club_graph()
    matrix = scipy.sparse.csr_matrix(networkx.to_numpy_array(club, weight=None))
    weighted = scipy.sparse.csr_matrix(networkx.to_numpy_array(club))
    split = np.array([int(club.nodes[node]["club"] == "Officer") for node in club])
    assert (matrix.shape[0], matrix.nnz // 2) == (34, 78)
    assert get_modularity(matrix, split) == pytest.approx(0.358235, abs=1e-6)
    assert get_modularity(weighted, split) == pytest.approx(0.391438, abs=1e-6)
    assert get_modularity(matrix, np.arange(34)) == pytest.approx(-0.049803, abs=1e-6)
    assert get_modularity(matrix, np.zeros(34, int)) == pytest.approx(0)
    for resolution, num_clusters in ((1, 4), (2, 7)):
        assert len(np.unique(Louvain(resolution=resolution).fit_predict(matrix))) == num_clusters


def davis() -> Bipartite:
    """18 women of the South at 14 events."""
    women = networkx.davis_southern_women_graph()
    names, events = women.graph["top"], women.graph["bottom"]
    pairs = [(names.index(one), events.index(two)) for one, two in women.edges]
    return Bipartite.of(*np.array(pairs).T, len(names), len(events))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_our_modularity_is_what_scikit_network_maximises(gamma: float) -> None:
    graph = davis()
    assert (graph.num_users, graph.num_items, graph.num_edges) == (18, 14, 89)
    found = louvain(graph, gamma)
    one_way = scipy.sparse.bmat([[scipy.sparse.csr_matrix((18, 18)), graph.matrix_UI], [None, np.zeros((14, 14))]])
    labels = np.concatenate([found.users_U, found.items_I])
    theirs = get_modularity(scipy.sparse.csr_matrix(one_way), labels, resolution=gamma)  # of edges from women to events
    assert found.modularity == pytest.approx(theirs, abs=1e-6)
    assert found.modularity >= modularity(graph, np.zeros(18, int), np.zeros(14, int), gamma)
