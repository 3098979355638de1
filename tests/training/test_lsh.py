"""Which vectors are replaced by near ones: what is left, and that those are the nearest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.training.lsh import shared_by_distance


def drawn(num: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


@given(num=st.integers(2, 60), left=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_as_many_are_left_as_were_asked_for(num: int, left: int, seed: int) -> None:
    replaced = shared_by_distance(drawn(num, 5, seed), min(left, num), seed=seed)
    assert len(np.unique(replaced)) == min(left, num)
    np.testing.assert_array_equal(replaced[replaced], replaced)  # nothing is replaced by what is gone itself


@pytest.mark.parametrize("seed", range(4))
def test_planted_twins_find_each_other(seed: int) -> None:
    """Of 200 vectors every fifth has a near twin: these 40 go, and no others."""
    vectors = drawn(200, 16, seed)
    twins = vectors[::5] + 0.01 * drawn(40, 16, seed + 50)
    replaced = shared_by_distance(torch.cat([vectors, twins]), 200, seed=seed)
    pairs = [(5 * at, 200 + at) for at in range(40)]
    assert all(replaced[one] == replaced[other] for one, other in pairs)
    others = np.setdiff1d(np.arange(200), np.arange(0, 200, 5))
    np.testing.assert_array_equal(replaced[others], others)


def test_what_goes_costs_little_more_than_the_best_there_is() -> None:
    """Against joining the nearest pairs of all, by brute force."""
    vectors = drawn(120, 4)
    replaced = shared_by_distance(vectors, 80, seed=1)
    found = float((vectors - vectors[replaced]).square().sum())
    distances = torch.cdist(vectors, vectors).square() + torch.eye(120) * 1e9
    free, best = set(range(120)), 0.0
    for place in distances.flatten().argsort().tolist():
        one, other = divmod(place, 120)
        if len(free) > 40 and one in free and other in free:
            free -= {one, other}
            best += float(distances[one, other])
    assert found < 2 * best


def test_the_same_seed_finds_the_same() -> None:
    vectors = drawn(100, 3)
    one, two = (shared_by_distance(vectors, 30, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one, two)
