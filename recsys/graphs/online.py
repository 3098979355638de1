"""A clustering that goes on: ids that come later join a cluster, and rows are carried into a new clustering.

Shape suffixes: E edges, N ids of one side, M buckets, W row width.
"""

from typing import Literal

import numpy as np

from recsys.errors import DataError
from recsys.graphs.barber import best_cluster, degree_sums
from recsys.graphs.bipartite import Bipartite
from recsys.graphs.louvain import Clusters
from recsys.hashing import Floats, Keys

Side = Literal["user", "item"]


class OnlineClusters:
    """Clusters of a graph that grows: known ids stay where they are, new ones join where modularity gains most.

    A new id is alone (cluster −1: its table hashes it) until an edge ties it to a cluster that it gains by joining.
    Numbers of clusters do not change: there is a row for each of them, and no other.

    >>> graph = Bipartite.of(np.array([0, 1]), np.array([0, 1]), 2, 2)
    >>> online = OnlineClusters(graph, Clusters(np.array([0, 1]), np.array([0, 1]), gamma=1.0, modularity=0.5))
    >>> online.add(np.array([2, 2]), np.array([1, 1]))  # a new user of a known item
    {'user': {2: 1}, 'item': {}}
    """

    def __init__(self, graph: Bipartite, clusters: Clusters) -> None:
        self.gamma = clusters.gamma
        self._pairs = set(zip(graph.users_E.tolist(), graph.items_E.tolist(), strict=True))
        self._clusters: dict[Side, Keys] = {"user": clusters.users_U.copy(), "item": clusters.items_I.copy()}
        self._degrees: dict[Side, Keys] = {"user": graph.user_degrees_U.copy(), "item": graph.item_degrees_I.copy()}
        num_clusters = 1 + max(int(labels_N.max(initial=-1)) for labels_N in self._clusters.values())
        self._sums = {
            side: degree_sums(self._clusters[side], self._degrees[side], num_clusters) for side in self._clusters
        }
        self._labels = {side: np.unique(labels_N[labels_N >= 0]) for side, labels_N in self._clusters.items()}
        self._waiting: dict[Side, dict[int, set[int]]] = {"user": {}, "item": {}}  # neighbours of those that are alone

    @property
    def num_edges(self) -> int:
        """Pairs so far."""
        return len(self._pairs)

    @property
    def graph(self) -> Bipartite:
        """All pairs so far: what a new clustering starts from."""
        pairs_E2 = np.array(sorted(self._pairs), np.int64).reshape(-1, 2)
        return Bipartite.of(pairs_E2[:, 0], pairs_E2[:, 1], len(self._clusters["user"]), len(self._clusters["item"]))

    def clusters(self, side: Side) -> Keys:
        """The cluster of every id so far, int64 (N,); −1 of those that are alone."""
        return self._clusters[side].copy()

    def buckets(self, side: Side) -> Keys:
        """The bucket of every id so far, as ``Clusters.buckets`` numbers them; −1 of those that are alone."""
        labels_N = self._clusters[side]
        return np.where(labels_N < 0, -1, np.searchsorted(self._labels[side], labels_N))

    def add(self, users_E: Keys, items_E: Keys) -> dict[Side, dict[int, int]]:
        """Take new pairs, pairs known already once; returns the ids that joined a cluster by them, and which.

        Each pair is taken with those before it: first both ends count, then a lone end moves, the user first.
        """
        joined: dict[Side, dict[int, int]] = {"user": {}, "item": {}}
        for user, item in zip(users_E.tolist(), items_E.tolist(), strict=True):
            if user < 0 or item < 0:
                raise DataError(f"pair ({user}, {item}): ids of a bucket map are 0 and more; leave the pair out")
            if (user, item) in self._pairs:
                continue
            self._pairs.add((user, item))
            self._count("user", user, item)
            self._count("item", item, user)
            for side, id_ in (("user", user), ("item", item)):
                if (cluster := self._moved(side, id_)) >= 0:  # type: ignore[arg-type]
                    joined[side][id_] = cluster  # type: ignore[index]
        return joined

    def _count(self, side: Side, id_: int, neighbour: int) -> None:
        """One edge more at an id, which may be new."""
        self._grow(side, id_ + 1)
        self._degrees[side][id_] += 1
        cluster = self._clusters[side][id_]
        if cluster >= 0:
            self._sums[side][cluster] += 1
        else:
            self._waiting[side].setdefault(id_, set()).add(neighbour)

    def _grow(self, side: Side, num_ids: int) -> None:
        if (more := num_ids - len(self._clusters[side])) > 0:
            self._clusters[side] = np.concatenate([self._clusters[side], np.full(more, -1, np.int64)])
            self._degrees[side] = np.concatenate([self._degrees[side], np.zeros(more, np.int64)])

    def _moved(self, side: Side, id_: int) -> int:
        """The cluster that a lone id joins now; −1 where it is not alone, or stays so."""
        if id_ not in self._waiting[side]:
            return -1
        other: Side = "item" if side == "user" else "user"
        around = self._clusters[other][sorted(self._waiting[side][id_])]
        has_row = np.isin(around, self._labels[side])  # a cluster without an id of this side has no row for one
        neighbours_C, links_C = np.unique(around[has_row], return_counts=True)
        degree = float(self._degrees[side][id_])
        cluster, _ = best_cluster(neighbours_C, links_C, degree, self._sums[other], self.num_edges, self.gamma)
        if cluster >= 0:
            self._clusters[side][id_] = cluster
            self._sums[side][cluster] += degree
            del self._waiting[side][id_]
        return cluster


def carried_rows(old_rows_MW: Floats, old_keys_N: Keys, new_keys_N: Keys, num_buckets: int) -> tuple[Keys, Floats]:
    """Rows for a new clustering: each the mean of the old rows of its members, every member counting once.

    ``old_keys_N`` and ``new_keys_N`` are the rows that each id read and will read. Returns (keys, rows) of the buckets
    that have members; the others start as new rows do.

    >>> keys, rows = carried_rows(np.array([[0.0], [3.0]], np.float32), np.array([0, 1, 1]), np.array([2, 2, 2]), 3)
    >>> keys.tolist(), rows.tolist()
    ([2], [[2.0]])
    """
    counts_M = np.bincount(new_keys_N, minlength=num_buckets)
    sums_MW = np.zeros((num_buckets, old_rows_MW.shape[1]), np.float64)
    np.add.at(sums_MW, new_keys_N, old_rows_MW[old_keys_N])
    keys = np.flatnonzero(counts_M)
    return keys, (sums_MW[keys] / counts_M[keys, None]).astype(np.float32)
