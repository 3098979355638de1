"""Recall and NDCG against a loop over sorted lists; ties are broken by chance, not by id."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.graphs.bipartite import Bipartite
from recsys.training.ranking import judge, popularity

USERS, ITEMS = 6, 30


def graph_of(pairs: list[tuple[int, int]]) -> Bipartite:
    users, items = np.array(pairs).T
    return Bipartite.of(users, items, USERS, ITEMS)


pairs = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), min_size=1, max_size=60)


def by_loop(users: np.ndarray, items: np.ndarray, wanted: Bipartite, seen: list[Bipartite], k: int) -> list[float]:
    """Scores are distinct, so that there is one ranking."""
    sums, num = np.zeros(3), 0
    for user in range(USERS):
        there = set(wanted.items_E[wanted.users_E == user].tolist())
        if not there:
            continue
        masked = {int(item) for graph in seen for item in graph.items_E[graph.users_E == user]}
        ranked = sorted(set(range(ITEMS)) - masked, key=lambda item: -float(users[user] @ items[item]))[:k]
        gains = [1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in there]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(there))))
        sums += [len(gains) / len(there), len(gains) / min(k, len(there)), sum(gains) / ideal]
        num += 1
    return [*(sums / num).tolist(), num]


@settings(max_examples=40)
@given(pairs, pairs, pairs, st.integers(0, 5), st.sampled_from([1, 5, 20]))
def test_metrics_are_those_of_a_loop(
    wanted: list[tuple[int, int]], one: list[tuple[int, int]], two: list[tuple[int, int]], seed: int, k: int
) -> None:
    random = np.random.default_rng(seed)
    users, items = random.standard_normal((USERS, 4), np.float32), random.standard_normal((ITEMS, 4), np.float32)
    graphs = graph_of(wanted), [graph_of(one), graph_of(two)]
    found = judge(users, items, *graphs, k=k)
    expected = by_loop(users, items, *graphs, k)
    assert [found.recall, found.recall_capped, found.ndcg, found.num_users] == pytest.approx(expected)


def test_all_tied_every_item_is_as_likely() -> None:
    """200 users want item 0, the lowest id; by chance a twentieth of a half is in the first twenty of 40."""
    wanted = Bipartite.of(np.arange(200), np.zeros(200, int), 200, 40)
    seen = Bipartite.of(np.array([0]), np.array([39]), 200, 40)
    users, items = np.ones((200, 2), np.float32), np.ones((40, 2), np.float32)
    recalls = [judge(users, items, wanted, [seen], k=20, seed=seed).recall for seed in range(40)]
    assert set(recalls) <= {0.0, 0.995, 1.0, 0.005}  # one order a seed, but for what a user has seen
    assert np.mean(recalls) == pytest.approx(0.5, abs=0.25)
    assert recalls == [judge(users, items, wanted, [seen], k=20, seed=seed).recall for seed in range(40)]


def test_users_asked_for_and_popularity() -> None:
    train = graph_of([(0, 3), (1, 3), (2, 3), (1, 5), (2, 5), (3, 7)])
    wanted = graph_of([(0, 5), (3, 7), (4, 3), (5, 9)])
    vectors = popularity(train)
    found = judge(*vectors, wanted, [train], k=1, users=np.array([0, 1, 4, 5]))
    assert (found.num_users, found.recall) == (3, pytest.approx(2 / 3))  # user 1 wants nothing; 0 has seen item 3


def test_where_fewer_items_are_left_than_places_the_rest_is_empty() -> None:
    train = graph_of([(0, item) for item in range(ITEMS - 2)])
    wanted = graph_of([(0, ITEMS - 1)])
    found = judge(*popularity(train), wanted, [train], k=20)
    assert found.recall == 1.0
