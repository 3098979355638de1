"""Clusters of users and items together by Louvain's method (Blondel et al. 2008) on Barber's modularity.

scikit-network's, as GraphHash's authors use it: nodes in their order, so that the same graph gives the same clusters.

Shape suffixes: U users, I items, N ids of one side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsys.errors import ConfigError
from recsys.graphs.barber import modularity
from recsys.graphs.bipartite import Bipartite
from recsys.hashing import Keys

_LEAST_GAMMA, _MOST_GAMMA = 1e-3, 1e9
_CLOSE = 0.995  # of the buckets asked for: near enough
_MOST_TRIES = 30


@dataclass(frozen=True)
class Clusters:
    """Clusters of both sides, numbered alike; −1 for ids without an edge."""

    users_U: Keys
    items_I: Keys
    gamma: float
    modularity: float

    def buckets(self, own_users: Keys | None = None, own_items: Keys | None = None) -> "Bucketed":
        """Each side's clusters as buckets of its own, after buckets of one id each for the ids in ``own_…``."""
        return Bucketed(*_buckets(self.users_U, own_users), *_buckets(self.items_I, own_items), clusters=self)


@dataclass(frozen=True)
class Bucketed:
    """Buckets 0 … num − 1 of each side; −1 for ids without an edge."""

    users_U: Keys
    num_users: int
    items_I: Keys
    num_items: int
    clusters: Clusters

    @property
    def num_buckets(self) -> int:
        """Of both sides."""
        return self.num_users + self.num_items


def louvain(graph: Bipartite, gamma: float) -> Clusters:
    """The clusters that Louvain finds at a resolution."""
    from sknetwork.clustering import Louvain

    found = Louvain(resolution=gamma, shuffle_nodes=False).fit(graph.matrix_UI, force_bipartite=True)
    users_U = np.where(graph.user_degrees_U > 0, found.labels_row_, -1).astype(np.int64)
    items_I = np.where(graph.item_degrees_I > 0, found.labels_col_, -1).astype(np.int64)
    return Clusters(users_U, items_I, gamma, modularity(graph, users_U, items_I, gamma))


def cluster_to(
    graph: Bipartite,
    size_of: Callable[[Bucketed], float],
    most: float,
    *,
    num_own: tuple[int, int] = (0, 0),
    on_try: Callable[[float, float], None] = lambda gamma, size: None,
) -> Bucketed:
    """The finest clusters that bisection on log γ finds of which ``size_of`` is at most ``most``.

    ``num_own`` users and items with the most edges get buckets of their own. Sizes grow with γ but for little steps
    back, so what is found may be a fraction of a percent below the best. ``on_try`` is told (gamma, size). ConfigError
    where the coarsest clusters are too large.
    """
    own = heaviest(graph.user_degrees_U, num_own[0]), heaviest(graph.item_degrees_I, num_own[1])

    def tried(gamma: float) -> tuple[Bucketed, float]:
        bucketed = louvain(graph, gamma).buckets(*own)
        size = size_of(bucketed)
        on_try(gamma, size)
        return bucketed, size

    low, high = _LEAST_GAMMA, 1.0
    best, smallest = tried(low)
    if smallest > most:
        raise ConfigError(f"the coarsest clusters need {smallest:,.0f}, allowed are {most:,.0f}; allow that")
    while high < _MOST_GAMMA:
        bucketed, size = tried(high)
        if size > most:
            break
        best, low, high = bucketed, high, high * 10
    for _ in range(_MOST_TRIES):
        middle = float(np.sqrt(low * high))
        bucketed, size = tried(middle)
        if size > most:
            high = middle
        else:
            best, low = bucketed, middle
        if most * _CLOSE <= size <= most or high / low < 1.002:
            break
    return best


def heaviest(degrees_N: Keys, num: int) -> Keys:
    """The ids of the largest degrees, the lowest id first of equal ones.

    >>> heaviest(np.array([1, 5, 5, 7]), 2).tolist()
    [3, 1]
    """
    return np.argsort(-degrees_N, kind="stable")[:num]


def _buckets(clusters_N: Keys, own: Keys | None) -> tuple[Keys, int]:
    """Buckets of one side, and how many there are."""
    rest_N = clusters_N.copy()
    num_own = 0 if own is None else len(own)
    if own is not None:
        rest_N[own] = -1
    labels, places_N = np.unique(rest_N, return_inverse=True)
    first = int(labels[0] == -1)
    buckets_N = np.where(rest_N < 0, -1, num_own + places_N - first)
    if own is not None:
        buckets_N[own] = np.arange(num_own)
    return buckets_N, num_own + len(labels) - first
