"""Buckets without a clustering: what GraphHash is compared with, at its numbers of buckets (its section 5.1).

Shape suffixes: N ids of one side, O of the other, P hyperplanes.
"""

import numpy as np
import scipy.sparse

from recsys import hashing
from recsys.errors import ConfigError
from recsys.graphs.louvain import heaviest
from recsys.hashing import Keys


def by_remainder(num_ids: int, num_buckets: int) -> Keys:
    """The id modulo the number of buckets: where ids are consecutive, buckets are equally full.

    >>> by_remainder(5, 2).tolist()
    [0, 1, 0, 1, 0]
    """
    return np.arange(num_ids) % num_buckets


def by_hash(num_ids: int, num_buckets: int, seed: int) -> Keys:
    """A seeded hash of the id."""
    return hashing.hash_to_range(np.arange(num_ids), num_buckets, seed)


def by_frequency(degrees_N: Keys, num_buckets: int, own_fraction: float = 0.5) -> tuple[Keys, int]:
    """The ids seen most have buckets of their own, the others share the rest by their remainder (Zhang et al. 2020).

    Returns (buckets, how many are own). With ``own_fraction`` of the buckets for the first.

    >>> by_frequency(np.array([1, 9, 2, 3]), num_buckets=2)
    (array([1, 0, 1, 1]), 1)
    """
    num_own = min(int(own_fraction * num_buckets), len(degrees_N))
    if num_own == num_buckets and num_own < len(degrees_N):
        raise ConfigError(f"own_fraction {own_fraction} of {num_buckets} buckets leaves none to share; lower it")
    buckets_N = np.arange(len(degrees_N))
    if num_own < num_buckets:
        buckets_N = num_own + buckets_N % (num_buckets - num_own)
    buckets_N[heaviest(degrees_N, num_own)] = np.arange(num_own)
    return buckets_N, num_own


def by_likeness(matrix_NO: scipy.sparse.csr_matrix, num_buckets: int, seed: int) -> Keys:
    """Locality-sensitive hashing of an id's edges: on which side of random hyperplanes they lie (Charikar 2002).

    As many hyperplanes as it takes for ``num_buckets`` patterns; patterns beyond are folded back by a hash.
    """
    num_planes = max(1, int(num_buckets - 1).bit_length())
    planes_OP = np.random.default_rng([seed, 0x15]).standard_normal((matrix_NO.shape[1], num_planes), np.float32)
    above_NP = (matrix_NO @ planes_OP) > 0
    patterns_N = above_NP.astype(np.int64) @ (np.int64(1) << np.arange(num_planes))
    if 2**num_planes == num_buckets:
        return patterns_N
    return hashing.hash_to_range(patterns_N, num_buckets, seed)
