"""The ids that every contender is asked for: uniform, or by Zipf's law; the same draw for all.

Shape suffixes: N ids a call, R rows of the table.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.hashing import Keys, mix64

Law = Literal["uniform", "zipf"]
ZIPF_EXPONENT = 1.2
LAWS: dict[Law, str] = {"uniform": "uniform", "zipf": f"Zipf {ZIPF_EXPONENT}"}


class Batch(NamedTuple):
    """One call's ids: row numbers for a dense array, random 64-bit keys for a map."""

    rows_N: Keys
    keys_N: Keys


def keys_of(rows: Keys) -> Keys:
    """The key of each row number: 64 random bits, no two alike (a bijection).

    >>> keys_of(np.array([0, 1])).tolist()
    [1961750202426094747, 8195237237126968761]
    """
    return mix64(rows, seed=4).view(np.int64)


def batch_of(rows_N: Keys) -> Batch:
    """Row numbers with their keys."""
    return Batch(rows_N, keys_of(rows_N))


def consecutive(start: int, stop: int, step: int) -> Iterator[Batch]:
    """Rows [start, stop) in their order, ``step`` a batch: how a table is filled."""
    for first in range(start, stop, step):
        yield batch_of(np.arange(first, min(first + step, stop)))


def draw(law: Law, num_rows: int, num_ids: int, num_batches: int, seed: int) -> list[Batch]:
    """Batches of ids drawn with replacement from ``num_rows`` rows.

    Zipf: rank r has probability proportional to r**-1.2 (by inverse CDF), and ranks lie at random places in the table:
    ids do not arrive in the order of their later popularity.
    """
    random = np.random.default_rng(seed)
    if law == "uniform":
        return [batch_of(random.integers(0, num_rows, num_ids)) for _ in range(num_batches)]
    cumulated_R = zipf_cdf(num_rows)
    row_of_rank_R = random.permutation(num_rows)
    return [batch_of(row_of_rank_R[_ranks(cumulated_R, num_ids, random)]) for _ in range(num_batches)]


def zipf_cdf(num_rows: int) -> npt.NDArray[np.float64]:
    """P(rank <= r) of rank r = 0, 1, …, float64 of shape (R,).

    >>> zipf_cdf(2).round(4).tolist()
    [0.6967, 1.0]
    """
    cumulated_R = np.cumsum(np.arange(1, num_rows + 1, dtype=np.float64) ** -ZIPF_EXPONENT)
    cumulated_R /= cumulated_R[-1]
    return cumulated_R


def _ranks(cumulated_R: npt.NDArray[np.float64], num_ids: int, random: np.random.Generator) -> Keys:
    """Ranks by inverse CDF: in sorted order, where the search is quick, then shuffled."""
    ranks_N = np.searchsorted(cumulated_R, np.sort(random.random(num_ids)), side="right")
    random.shuffle(ranks_N)
    return ranks_N.astype(np.int64, copy=False)
