"""Barber's modularity of a bipartite graph (Barber 2007), with a resolution γ (GraphHash, section 4.1)::

    Q = 1/m Σ_ui (B_ui − γ k_u d_i / m) δ(c_u, c_i) = Σ_c [L_c / m − γ K_c D_c / m²]

m edges, L_c of them within cluster c, K_c and D_c the degrees of its users and of its items. A cluster's users and
items are one cluster; the larger γ, the smaller clusters are best.

Shape suffixes: U users, I items, E edges, C clusters.
"""

import numpy as np

from recsys.graphs.bipartite import Bipartite
from recsys.hashing import Keys


def modularity(graph: Bipartite, user_clusters_U: Keys, item_clusters_I: Keys, gamma: float = 1.0) -> float:
    """Q of the clusters of users and items, numbered alike from 0; a node in cluster −1 is alone.

    >>> path = Bipartite.of(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2)  # user, item, user, item in a row
    >>> round(modularity(path, np.array([0, 1]), np.array([0, 1])), 6)
    0.222222
    """
    num_clusters = 1 + max(int(user_clusters_U.max(initial=-1)), int(item_clusters_I.max(initial=-1)))
    ours_E, theirs_E = user_clusters_U[graph.users_E], item_clusters_I[graph.items_E]
    num_within = int(((ours_E == theirs_E) & (ours_E >= 0)).sum())
    user_sums_C = degree_sums(user_clusters_U, graph.user_degrees_U, num_clusters)
    item_sums_C = degree_sums(item_clusters_I, graph.item_degrees_I, num_clusters)
    num_edges = graph.num_edges
    return num_within / num_edges - gamma * float((user_sums_C * item_sums_C).sum()) / num_edges**2


def degree_sums(clusters_N: Keys, degrees_N: Keys, num_clusters: int) -> np.ndarray:
    """The degrees of each cluster's nodes together, float64 (C,)."""
    inside_N = clusters_N >= 0
    return np.bincount(clusters_N[inside_N], degrees_N[inside_N], minlength=num_clusters).astype(np.float64)


def joining_gain(num_links: float, degree: float, other_degrees: float, num_edges: float, gamma: float) -> float:
    """What Q gains when a node that is alone joins a cluster.

    It has ``num_links`` edges into the cluster and ``degree`` in all; ``other_degrees`` is the sum over the cluster's
    nodes of the other side. Leaving a cluster gains the negative, the node itself not being counted.

    >>> joining_gain(num_links=1, degree=1, other_degrees=1, num_edges=3, gamma=1.0)
    0.2222222222222222
    """
    return num_links / num_edges - gamma * degree * other_degrees / num_edges**2


def best_cluster(
    neighbours_C: Keys, links_C: Keys, degree: float, other_sums: np.ndarray, num_edges: float, gamma: float
) -> tuple[int, float]:
    """The cluster, of those with neighbours in them, that a lone node gains most by joining, and the gain.

    (−1, 0.0) where no gain is above 0; of equal gains the cluster of the lowest number.
    """
    if not len(neighbours_C):
        return -1, 0.0
    gains_C = links_C / num_edges - gamma * degree * other_sums[neighbours_C] / num_edges**2
    best = int(np.lexsort((neighbours_C, -gains_C))[0])
    return (int(neighbours_C[best]), float(gains_C[best])) if gains_C[best] > 0 else (-1, 0.0)
