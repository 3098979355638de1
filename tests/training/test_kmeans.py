"""K-means by what it promises: centroids are means, nothing is nearer elsewhere, planted clusters are found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.training.kmeans import assign, kmeans


def drawn(num: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def inertia(points: torch.Tensor, centroids: torch.Tensor, nearest: torch.Tensor) -> float:
    return float((points - centroids[nearest]).square().sum())


@given(num=st.integers(1, 60), num_clusters=st.integers(1, 12), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_every_point_is_in_the_nearest_cluster(num: int, num_clusters: int, seed: int) -> None:
    points = drawn(num, 3, seed % 1000)
    centroids, nearest = kmeans(points, num_clusters, seed=seed)
    assert torch.isfinite(centroids).all() and centroids.shape == (num_clusters, 3)
    distances = (points[:, None] - centroids).square().sum(2)
    torch.testing.assert_close(distances.gather(1, nearest[:, None])[:, 0], distances.min(1).values)


def test_centroids_are_the_means_of_their_points_at_the_end() -> None:
    points = drawn(400, 2)
    centroids, nearest = kmeans(points, 7, seed=1, iterations=200)
    for cluster in range(7):
        torch.testing.assert_close(centroids[cluster], points[nearest == cluster].mean(0), atol=1e-5, rtol=1e-5)


def test_more_iterations_are_never_worse() -> None:
    points = drawn(500, 4)
    found = [inertia(points, *kmeans(points, 20, seed=3, iterations=number)) for number in range(0, 12, 2)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.9 * found[0]


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found(seed: int) -> None:
    """One that begins without points of its own moves to some: all eight are found from any start."""
    centres, of_point = 20 * drawn(8, 3, seed + 50), np.arange(800) % 8
    points = centres[of_point] + 0.01 * drawn(800, 3)
    best = min(
        (kmeans(points, 16, seed=10 * seed + start) for start in range(3)), key=lambda found: inertia(points, *found)
    )
    clusters = [set(best[1][of_point == planted].tolist()) for planted in range(8)]
    assert sum(map(len, clusters)) == len(set().union(*clusters))  # none has points of two


def test_the_same_seed_finds_the_same() -> None:
    points = drawn(300, 2)
    one, two, other = (kmeans(points, 9, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])


def test_fewer_points_than_clusters_and_equal_points() -> None:
    points = torch.tensor([[1.0], [5.0], [1.0]])
    centroids, nearest = kmeans(points, 6, seed=0)
    assert torch.isfinite(centroids).all()
    torch.testing.assert_close(centroids[nearest], points)


def test_many_points_are_assigned_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centroids = drawn(1000, 3), drawn(10, 3, 1)
    whole = assign(points, centroids)
    monkeypatch.setattr("recsys.training.kmeans._BLOCK_BYTES", 400)
    blocks = assign(points, centroids)
    assert torch.equal(whole[0], blocks[0]) and torch.equal(whole[1], blocks[1])
