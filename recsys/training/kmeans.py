"""Lloyd's k-means, in blocks.

Shape suffixes: N points, P those that centroids are fitted to, K clusters, S width.
"""

import numpy as np
import torch
from torch import Tensor

_POINTS_PER_CLUSTER = 256  # more hardly move a centroid
_BLOCK_BYTES = 1 << 26  # of distances at a time


def kmeans(points_NS: Tensor, num_clusters: int, *, seed: int, iterations: int = 20) -> tuple[Tensor, Tensor]:
    """Centroids (K, S), and the nearest of each point, int64 (N,); by ``seed`` alone.

    Centroids start at points drawn without repeats, and are fitted to at most 256 a cluster. One that loses all its
    points goes to the point that is farthest from its own; where points are fewer than clusters some stay empty.
    """
    drawn = np.random.default_rng(seed)
    order = torch.from_numpy(drawn.permutation(len(points_NS))[: _POINTS_PER_CLUSTER * num_clusters])
    fitted_PS = points_NS[order]
    centroids_KS = torch.zeros(num_clusters, points_NS.shape[1])
    centroids_KS[: len(fitted_PS)] = fitted_PS[:num_clusters]
    nearest_P, distances_P = assign(fitted_PS, centroids_KS)
    for _ in range(iterations):
        centroids_KS = _moved(fitted_PS, nearest_P, distances_P, centroids_KS)
        before_P = nearest_P
        nearest_P, distances_P = assign(fitted_PS, centroids_KS)
        if torch.equal(nearest_P, before_P):
            break
    return centroids_KS, assign(points_NS, centroids_KS)[0]


def assign(points_NS: Tensor, centroids_KS: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each point, of equally near ones the first, int64 (N,); and how far it is, (N,)."""
    size = max(1, _BLOCK_BYTES // (4 * len(centroids_KS)))
    exact = "donot_use_mm_for_euclid_dist"  # which would lose what tells near centroids apart
    parts = [torch.cdist(block, centroids_KS, compute_mode=exact).min(1) for block in points_NS.split(size)]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def _moved(points_PS: Tensor, nearest_P: Tensor, distances_P: Tensor, centroids_KS: Tensor) -> Tensor:
    """The means of clusters; an empty one at a point that is far from its own."""
    sizes_K = torch.bincount(nearest_P, minlength=len(centroids_KS))
    moved_KS = torch.zeros_like(centroids_KS).index_add_(0, nearest_P, points_PS) / sizes_K.clamp(min=1)[:, None]
    empty = torch.nonzero(sizes_K == 0)[:, 0]
    farthest = torch.argsort(distances_P, descending=True, stable=True)[: len(empty)]
    moved_KS[empty[: len(farthest)]] = points_PS[farthest]
    return moved_KS
