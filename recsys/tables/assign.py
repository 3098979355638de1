"""Bucket maps out of a graph: one function for all methods."""

from collections.abc import Callable

from recsys.errors import ConfigError
from recsys.graphs.assignments import by_frequency, by_hash, by_likeness, by_remainder
from recsys.graphs.bipartite import Bipartite
from recsys.graphs.louvain import Bucketed, cluster_to, louvain
from recsys.graphs.methods import Method
from recsys.hashing import Keys, seed_of
from recsys.tables.bucket_map import BucketMap, Buckets

USER, ITEM = "user", "item"  # what the two tables are called


def clustered_map(
    graph: Bipartite,
    data: str,
    *,
    gamma: float | None = None,
    num_buckets: int | None = None,
    budget_bytes: int | None = None,
    row_bytes: int = 0,
    own_fraction: float = 0.0,
    on_try: Callable[[float, float], None] = lambda gamma, size: None,
) -> BucketMap:
    """GraphHash's map: at a ``gamma``; or with at most ``num_buckets`` rows, or ``budget_bytes`` of rows and map.

    ``own_fraction`` of the buckets (of ``num_buckets``, or of the rows that the bytes hold) go to the users and items
    with the most edges, in proportion to how many users and items there are. ConfigError unless exactly one size is
    given, or where it can not be met.
    """
    if [gamma, num_buckets, budget_bytes].count(None) != 2:
        raise ConfigError("give one of gamma, num_buckets and budget_bytes")
    rows = num_buckets if budget_bytes is None else budget_bytes // row_bytes
    if gamma is not None:
        if own_fraction:
            raise ConfigError(f"own_fraction={own_fraction} is a part of num_buckets or budget_bytes; give one of them")
        bucketed, num_own = louvain(graph, gamma).buckets(), (0, 0)
    else:
        assert rows is not None
        num_own = shares(graph, int(own_fraction * rows)) if own_fraction else (0, 0)
        if budget_bytes is None:
            size_of: Callable[[Bucketed], float] = lambda bucketed: bucketed.num_buckets  # noqa: E731
        else:
            size_of = lambda bucketed: row_bytes * bucketed.num_buckets + _map_bytes(bucketed)  # noqa: E731
        bucketed = cluster_to(graph, size_of, float(num_buckets or budget_bytes or 0), num_own=num_own, on_try=on_try)
    return BucketMap(
        method="graphhash",
        data=data,
        fingerprint=graph.fingerprint,
        seed=0,
        gamma=bucketed.clusters.gamma,
        modularity=bucketed.clusters.modularity,
        tables=_tables(bucketed, num_own),
    )


def assigned_map(
    graph: Bipartite, data: str, method: Method, sizes: tuple[int, int], seed: int, own_fraction: float = 0.5
) -> BucketMap:
    """The map of a method without clusters, for ``sizes`` buckets of users and of items."""
    matrices = {USER: graph.matrix_UI, ITEM: graph.matrix_UI.T.tocsr()}
    degrees = {USER: graph.user_degrees_U, ITEM: graph.item_degrees_I}
    tables = {}
    for (name, degrees_N), size in zip(degrees.items(), sizes, strict=True):
        own, salt = 0, seed_of(seed, name, "assignment")
        if method == "random":
            buckets_N: Keys = by_remainder(len(degrees_N), size)
        elif method == "hash":
            buckets_N = by_hash(len(degrees_N), size, salt)
        elif method == "frequency":
            buckets_N, own = by_frequency(degrees_N, size, own_fraction)
        elif method == "lsh":
            buckets_N = by_likeness(matrices[name], size, salt)
        else:
            raise ConfigError(f"method {method!r} has no sizes of its own; use clustered_map")
        tables[name] = Buckets.of(buckets_N, size, own)
    return BucketMap(method=method, data=data, fingerprint=graph.fingerprint, seed=seed, tables=tables)


def shares(graph: Bipartite, num_buckets: int) -> tuple[int, int]:
    """Buckets shared out between users and items in proportion to their numbers, each at least one.

    >>> import numpy as np
    >>> shares(Bipartite.of(np.array([0]), np.array([0]), 30, 70), 10)
    (3, 7)
    """
    users = max(1, round(num_buckets * graph.num_users / (graph.num_users + graph.num_items)))
    return users, max(1, num_buckets - users)


def _tables(bucketed: Bucketed, num_own: tuple[int, int]) -> dict[str, Buckets]:
    return {
        USER: Buckets.of(bucketed.users_U, bucketed.num_users, num_own[0]),
        ITEM: Buckets.of(bucketed.items_I, bucketed.num_items, num_own[1]),
    }


def _map_bytes(bucketed: Bucketed) -> int:
    return sum(buckets.nbytes for buckets in _tables(bucketed, (0, 0)).values())
