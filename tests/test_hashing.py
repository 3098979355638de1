"""The hashes against a plain Python reading of SplitMix64, and against chance."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.hashing import hash_string, hash_to_range, mix64, seed_of, to_id, uniform

INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix64(value: int, seed: int) -> int:
    """Steele et al. 2014, figure 17 (mix64variant13), after seed + 1 steps of the golden gamma."""
    z = (value + (seed + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@given(values=st.lists(INT64, max_size=5), seed=st.one_of(st.just(-1), st.integers(0, 2**64)))
def test_mix64_is_splitmix64(values: list[int], seed: int) -> None:
    assert mix64(np.array(values, np.int64), seed).tolist() == [splitmix64(value, seed) for value in values]


@given(values=st.lists(INT64, min_size=2, max_size=50, unique=True), seed=INT64)
def test_mix64_is_a_bijection(values: list[int], seed: int) -> None:
    assert len(set(mix64(np.array(values, np.int64), seed).tolist())) == len(values)


@given(values=st.lists(INT64, max_size=9), num_buckets=st.integers(1, 2**62), seed=INT64)
def test_hash_to_range_stays_in_range(values: list[int], num_buckets: int, seed: int) -> None:
    buckets = hash_to_range(np.array(values, np.int64), num_buckets, seed)
    assert buckets.dtype == np.int64
    assert all(0 <= bucket < num_buckets for bucket in buckets.tolist())


@pytest.mark.parametrize("stride", [1, 1000, 2**32])
def test_buckets_fill_evenly(stride: int) -> None:
    counts = np.bincount(hash_to_range(np.arange(100_000) * stride, 100, seed=3), minlength=100)
    chi_square = ((counts - 1000.0) ** 2 / 1000).sum()
    assert chi_square == pytest.approx(99, abs=5 * np.sqrt(2 * 99))


def test_strings_hash_the_same_in_another_process() -> None:
    program = "from recsys.hashing import *; print(hash_string('tt0114709'), seed_of(1, 'a', 2))"
    fresh = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert fresh.stdout.split() == [str(hash_string("tt0114709")), str(seed_of(1, "a", 2))]
    assert hash_string("tt0114709") == 2754255319802216966  # b2sum -l 64, little endian


def test_ids_are_taken_as_they_are_and_strings_hashed() -> None:
    assert [to_id(value) for value in (7, -(2**63), "7")] == [7, -(2**63), hash_string("7")]
    assert len({hash_string(f"user-{i}") for i in range(20_000)}) == 20_000


def test_seeds_tell_names_numbers_and_their_order_apart() -> None:
    parts: list[tuple[int | str, ...]] = [
        (1, "a"),
        ("1", "a"),
        ("a", 1),
        ("1a",),
        (1, "a", 0),
        ("a",),
        (),
        ("",),
    ]
    seeds = [seed_of(*each) for each in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(keys=st.lists(INT64, min_size=1, max_size=8), width=st.integers(1, 5), seed=INT64)
def test_uniform_is_a_function_of_seed_key_and_column(keys: list[int], width: int, seed: int) -> None:
    rows = uniform(np.array(keys, np.int64), width, seed)
    assert rows.dtype == np.float32 and rows.shape == (len(keys), width)
    assert (rows >= -1).all() and (rows < 1).all()
    for key, row in zip(keys, rows, strict=True):
        alone = uniform(np.array([key], np.int64), width + 1, seed)  # a wider row begins the same
        assert alone[0, :width].tolist() == row.tolist()


def test_uniform_has_the_moments_of_uniform_numbers() -> None:
    values = uniform(np.arange(50_000), 4, seed=1)
    assert abs(values.mean()) < 5 / np.sqrt(3 * values.size)
    assert values.var() == pytest.approx(1 / 3, rel=0.02)
    assert abs(np.corrcoef(values.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03  # neighbouring keys
