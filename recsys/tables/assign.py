"""Bucket maps out of a graph: one function for all methods."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from recsys.errors import ConfigError
from recsys.graphs.assignments import by_frequency, by_hash, by_likeness, by_remainder
from recsys.graphs.bipartite import Bipartite
from recsys.graphs.louvain import Bucketed, Clusters, cluster_to, louvain
from recsys.graphs.methods import Method
from recsys.graphs.online import OnlineClusters, Side
from recsys.hashing import Keys, seed_of
from recsys.tables.bucket_map import BucketMap, Buckets

Told = Callable[[float, float], None]  # of each try: gamma, size
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
    on_try: Told = lambda gamma, size: None,
) -> BucketMap:
    """GraphHash's map: at a ``gamma``; or with at most ``num_buckets`` rows, or ``budget_bytes`` of rows and map.

    ``own_fraction`` of the buckets (of ``num_buckets``, or of the rows that the bytes hold) go to the users and items
    with the most edges, in proportion to how many users and items there are. ConfigError unless exactly one size is
    given, or where it can not be met.
    """
    if [gamma, num_buckets, budget_bytes].count(None) != 2:
        raise ConfigError("give one of gamma, num_buckets and budget_bytes")
    if gamma is not None:
        if own_fraction:
            raise ConfigError(f"own_fraction={own_fraction} is a part of num_buckets or budget_bytes; give one of them")
        return _clustered(graph, data, louvain(graph, gamma).buckets(), (0, 0))
    rows = num_buckets if num_buckets is not None else (budget_bytes or 0) // row_bytes
    num_own = shares(graph, int(own_fraction * rows)) if own_fraction else (0, 0)

    def size_of(bucketed: Bucketed) -> float:
        return bucketed.num_buckets if num_buckets else row_bytes * bucketed.num_buckets + _map_bytes(bucketed)

    most = float(num_buckets or budget_bytes or 0)
    return _clustered(graph, data, cluster_to(graph, size_of, most, num_own=num_own, on_try=on_try), num_own)


def uneven_map(
    graph: Bipartite,
    data: str,
    *,
    num_buckets: int,
    item_fraction: float,
    own_fraction: float = 0.0,
    on_try: Told = lambda gamma, size: None,
) -> BucketMap:
    """A map of which items have ``item_fraction`` of the rows: each side is clustered at a resolution of its own.

    ``own_fraction`` of each side's rows go to its ids with the most edges. What ranks is items: those that share a row
    tie, so finer items and coarser users find more in as many rows.
    """
    num_items = round(item_fraction * num_buckets)
    sizes = num_buckets - num_items, num_items
    own = int(own_fraction * sizes[0]), int(own_fraction * sizes[1])
    users = cluster_to(graph, lambda found: found.num_users, sizes[0], num_own=own, on_try=on_try)
    items = cluster_to(graph, lambda found: found.num_items, sizes[1], num_own=own, on_try=on_try)
    joined = replace(items, users_U=users.users_U, num_users=users.num_users)
    return replace(_clustered(graph, data, joined, own), user_gamma=users.clusters.gamma, labels=None)


def grown_map(graph: Bipartite, before: BucketMap) -> tuple[BucketMap, int]:
    """A map to which ids without a bucket have been added, each to the cluster by which modularity gains most.

    Those that are in a bucket stay, and there are no buckets more. Pairs of known ids count first, then the others as
    ``graph`` has them. Returns (map, how many joined); ConfigError for a map without clusters.
    """
    if before.labels is None or before.gamma is None:
        raise ConfigError(
            f"a map by method={before.method} has no clusters of users and items together, which later ids could join; "
            "give one of python -m jobs.cluster method=graphhash, without item_fraction"
        )
    sides: dict[Side, Keys] = {"user": graph.user_degrees_U, "item": graph.item_degrees_I}
    buckets = {side: before.tables[side].buckets(np.arange(len(degrees_N))) for side, degrees_N in sides.items()}
    is_old_E = (buckets["user"][graph.users_E] >= 0) & (buckets["item"][graph.items_E] >= 0)
    known = Bipartite(graph.users_E[is_old_E], graph.items_E[is_old_E], graph.num_users, graph.num_items)
    clusters = {side: _labels_of(before.labels[side], buckets[side]) for side in sides}
    online = OnlineClusters(known, Clusters(clusters["user"], clusters["item"], before.gamma, 0.0))
    joined = online.add(graph.users_E[~is_old_E], graph.items_E[~is_old_E])
    for side in sides:
        bucket_of = {label: bucket for bucket, label in enumerate(before.labels[side]) if label >= 0}
        new = {id_: cluster for id_, cluster in joined[side].items() if buckets[side][id_] < 0}
        buckets[side][list(new)] = [bucket_of[cluster] for cluster in new.values()]
        joined[side] = new
    tables: dict[str, Buckets] = {
        side: Buckets.of(buckets[side], before.tables[side].num_buckets, before.tables[side].num_own) for side in sides
    }
    grown = replace(before, fingerprint=graph.fingerprint, modularity=None, tables=tables)
    return grown, sum(map(len, joined.values()))


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


def _clustered(graph: Bipartite, data: str, bucketed: Bucketed, num_own: tuple[int, int]) -> BucketMap:
    return BucketMap(
        method="graphhash",
        data=data,
        fingerprint=graph.fingerprint,
        seed=0,
        gamma=bucketed.clusters.gamma,
        modularity=bucketed.clusters.modularity,
        tables=_tables(bucketed, num_own),
        labels={
            USER: _bucket_labels(bucketed.clusters.users_U, bucketed.users_U, bucketed.num_users, num_own[0]),
            ITEM: _bucket_labels(bucketed.clusters.items_I, bucketed.items_I, bucketed.num_items, num_own[1]),
        },
    )


def _bucket_labels(clusters_N: Keys, buckets_N: Keys, num_buckets: int, num_own: int) -> list[int]:
    """The cluster of each bucket; -1 of the first ``num_own``, which are of one id each."""
    labels = np.full(num_buckets, -1, np.int64)
    shares_one_N = buckets_N >= num_own
    labels[buckets_N[shares_one_N]] = clusters_N[shares_one_N]
    found: list[int] = labels.tolist()
    return found


def _labels_of(labels: Sequence[int], buckets_N: Keys) -> Keys:
    """The cluster of each id, by its bucket; -1 of those without."""
    return np.where(buckets_N < 0, -1, np.array([*labels, -1])[buckets_N])


def _tables(bucketed: Bucketed, num_own: tuple[int, int]) -> dict[str, Buckets]:
    return {
        USER: Buckets.of(bucketed.users_U, bucketed.num_users, num_own[0]),
        ITEM: Buckets.of(bucketed.items_I, bucketed.num_items, num_own[1]),
    }


def _map_bytes(bucketed: Bucketed) -> int:
    return sum(buckets.nbytes for buckets in _tables(bucketed, (0, 0)).values())
