"""Ids that come later join where modularity gains; rows go along into a new clustering."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.graphs.barber import modularity
from recsys.graphs.bipartite import Bipartite
from recsys.graphs.louvain import Clusters, louvain
from recsys.graphs.online import OnlineClusters, carried_rows

USERS, ITEMS = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 0, 1, 2, 3, 2, 3])


def two_squares() -> OnlineClusters:
    return OnlineClusters(
        Bipartite.of(USERS, ITEMS, 4, 4),
        Clusters(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), gamma=1.0, modularity=0.5),
    )


def test_new_ids_join_their_neighbours() -> None:
    online = two_squares()
    assert online.add(np.array([4]), np.array([2])) == {"user": {4: 1}, "item": {}}
    assert online.add(np.array([4, 0]), np.array([2, 0])) == {"user": {}, "item": {}}  # known already
    assert online.add(np.array([5]), np.array([4])) == {"user": {}, "item": {}}  # both are new: no cluster to join
    assert online.clusters("user").tolist() == [0, 0, 1, 1, 1, -1]
    assert online.add(np.array([5]), np.array([0])) == {"user": {5: 0}, "item": {}}
    assert online.add(np.array([1]), np.array([4])) == {"user": {}, "item": {4: 0}}
    assert online.buckets("item").tolist() == [0, 0, 1, 1, 0]
    assert online.num_edges == online.graph.num_edges == 12
    with pytest.raises(DataError, match=r"pair \(-1, 0\): ids of a bucket map are 0 and more"):
        online.add(np.array([-1]), np.array([0]))


def test_a_cluster_without_a_row_for_the_side_is_not_joined() -> None:
    graph = Bipartite.of(np.array([0, 1]), np.array([0, 1]), 2, 2)
    online = OnlineClusters(graph, Clusters(np.array([0, 0]), np.array([0, 1]), gamma=1.0, modularity=0.0))
    assert online.add(np.array([2]), np.array([1])) == {"user": {}, "item": {}}


def gains_of(online: OnlineClusters, labels: dict[str, np.ndarray], side: str, id_: int) -> dict[int, float]:
    """What modularity gains, counted anew, by a lone id joining each cluster."""
    before = modularity(online.graph, labels["user"], labels["item"], online.gamma)
    gains = {}
    for cluster in (0, 1):
        moved = {**labels, side: labels[side].copy()}
        moved[side][id_] = cluster
        gains[cluster] = modularity(online.graph, moved["user"], moved["item"], online.gamma) - before
    return gains


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=30), st.floats(0.2, 3))
def test_every_move_gains_the_most_counted_anew(pairs: list[tuple[int, int]], gamma: float) -> None:
    start = Clusters(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), gamma=gamma, modularity=0.0)
    online = OnlineClusters(Bipartite.of(USERS, ITEMS, 4, 4), start)
    for user, item in pairs:
        known = (user, item) in set(zip(online.graph.users_E.tolist(), online.graph.items_E.tolist(), strict=True))
        was = {"user": online.clusters("user"), "item": online.clusters("item")}
        joined = online.add(np.array([user]), np.array([item]))
        labels = {"user": online.clusters("user"), "item": online.clusters("item")}
        for side, id_ in (("item", item), ("user", user)):  # backwards, taking each move back
            if known or (id_ < len(was[side]) and was[side][id_] >= 0):
                continue
            chosen, alone = int(labels[side][id_]), labels[side].copy()
            alone[id_] = -1
            labels[side] = alone
            gains = gains_of(online, labels, side, id_)
            assert joined[side] == ({} if chosen < 0 else {id_: chosen})  # type: ignore[index]
            assert max(0.0, *gains.values()) == pytest.approx(max(0.0, gains.get(chosen, 0.0)), abs=1e-9)
            assert chosen < 0 or gains[chosen] > -1e-9


def test_a_lone_node_s_gain_is_the_difference_of_modularity() -> None:
    online = two_squares()
    online.add(np.array([4, 4]), np.array([2, 0]))
    graph, users, items = online.graph, online.clusters("user"), online.clusters("item")
    alone = users.copy()
    alone[4] = -1
    gained = modularity(graph, users, items) - modularity(graph, alone, items)
    assert users[4] == 1 and gained == pytest.approx(1 / 10 - 2 * 5 / 100)  # one of ten edges; degrees 2 and 2 + 2 + 1


def test_rows_are_carried_by_members() -> None:
    old = np.array([[1.0, 0.0], [5.0, 2.0]], np.float32)
    keys, rows = carried_rows(old, np.array([0, 0, 1, 1]), np.array([0, 2, 2, 2]), 4)
    assert keys.tolist() == [0, 2]
    np.testing.assert_allclose(rows, [[1.0, 0.0], [(1 + 5 + 5) / 3, 4 / 3]])
    same_keys, same = carried_rows(old, np.array([0, 1, 1]), np.array([0, 1, 1]), 2)
    assert same_keys.tolist() == [0, 1]
    np.testing.assert_array_equal(same, old)  # the same clustering: the same rows


def test_a_new_clustering_of_the_grown_graph_takes_the_new_ids() -> None:
    online = two_squares()
    online.add(np.array([4, 4]), np.array([2, 3]))
    again = louvain(online.graph, gamma=1.0)
    assert again.users_U[4] == again.users_U[2] == again.items_I[3] != again.users_U[0]
