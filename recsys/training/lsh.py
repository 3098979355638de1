"""Which vectors are near each other: locality-sensitive hashing for Euclidean distance (Datar et al. 2004).

Shape suffixes: B vectors, W their width, P pairs.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int64s = npt.NDArray[np.int64]

NUM_TABLES, WIDTH = 90, 0.09  # of the hash functions, of their buckets at first (l and r of the dedup benchmark)
_PAIRS_PER_READ = 1 << 14


def shared_by_distance(vectors_BW: Tensor, num_left: int, *, seed: int) -> Int64s:
    """Which vector each one is replaced by, int64 (B,), such that ``num_left`` are left: the nearest pairs go first.

    Vectors that replace others stay as they are. Pairs are found by ``NUM_TABLES`` hashes h(v) = ⌊(a · v + b) / r⌋:
    neighbours in a bucket are near, most likely. Where no more are, r doubles.
    """
    replaced_B, drawn, width = np.arange(len(vectors_BW)), np.random.default_rng(seed), WIDTH
    while (left := np.unique(replaced_B)).size > num_left:
        pairs_P2 = _neighbours(vectors_BW[left], width, drawn)
        merged = _merge(vectors_BW[left], pairs_P2, left.size - num_left)
        replaced_B = left[merged][np.searchsorted(left, replaced_B)]
        width *= 2
    return replaced_B


def _neighbours(vectors_BW: Tensor, width: float, drawn: np.random.Generator) -> Int64s:
    """Pairs (P, 2), each once, that follow each other in a bucket of some hash."""
    directions_WL = torch.from_numpy(drawn.standard_normal((vectors_BW.shape[1], NUM_TABLES)).astype(np.float32))
    lines_BL = (vectors_BW @ directions_WL).numpy().astype(np.float64) + width * drawn.random(NUM_TABLES)
    order_BL = np.argsort(lines_BL, axis=0, kind="stable")
    buckets_BL = np.floor(np.take_along_axis(lines_BL, order_BL, axis=0) / width)
    same_BL = buckets_BL[1:] == buckets_BL[:-1]
    pairs_P2 = np.stack([order_BL[:-1][same_BL], order_BL[1:][same_BL]], axis=1)
    return np.unique(np.sort(pairs_P2, axis=1), axis=0)


def _merge(vectors_BW: Tensor, pairs_P2: Int64s, most: int) -> Int64s:
    """Which vector each one is replaced by, int64 (B,): the nearest pairs first, none that was replaced or replaces
    another by a third, at most ``most`` of them."""
    replaced_B, replaces_B = np.arange(len(vectors_BW)), np.zeros(len(vectors_BW), np.bool_)
    distances_P = np.concatenate(
        [
            (vectors_BW[one] - vectors_BW[other]).square().sum(1).numpy()
            for one, other in (block.unbind(1) for block in torch.from_numpy(pairs_P2).split(_PAIRS_PER_READ))
        ]
        or [np.empty(0, np.float32)]
    )
    for one, other in pairs_P2[np.argsort(distances_P, kind="stable")].tolist():
        if not most:
            break
        if replaces_B[other]:
            one, other = other, one
        if replaces_B[other] or replaced_B[one] != one or replaced_B[other] != other:
            continue
        replaced_B[other], replaces_B[one] = one, True
        most -= 1
    return replaced_B
