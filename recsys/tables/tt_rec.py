"""``tt_rec``: a table as a product of three small cores (tensor train; Yin et al. 2021, §3).

n ≤ p₁p₂p₃ ids and D = q₁q₂q₃ columns: the vector of the id with digits (i₁, i₂, i₃) in the mixed radix p is
G₁[i₁] G₂[i₂] G₃[i₃], a product of matrices of q₁ × r₁, r₁ × (q₂ r₂) and r₂ × q₃.

A core's slice is a row, and a core a row group: a step pulls and pushes the slices that its digits name, in serving an
id costs three rows and not a core, and rows start by (seed, key) like any other. As dense parameters all cores would
go both ways at every step.

Shape suffixes: N ids, G distinct digits, D embedding dimension, X × R and R × Y matrices.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recsys import hashing
from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Table, TableConfig, a_place_of_each, require

Three = tuple[int, int, int]
_DEFAULT_RANK = 8
_MOST_PADDING = 4  # times the ids


@dataclass(frozen=True, kw_only=True)
class TTRecConfig(TableConfig):
    """``ranks`` r₁, r₂. Ids outside [0, num_ids) are hashed into it.

    ``id_factors`` and ``dim_factors`` are p and q; by default as near to each other as can be.
    """

    kind: ClassVar[str] = "tt_rec"
    ranks: tuple[int, int] = (_DEFAULT_RANK, _DEFAULT_RANK)
    id_factors: Three | None = None
    dim_factors: Three | None = None


@dataclass(frozen=True, kw_only=True)
class TTRecPlan(TablePlan):
    """``rank`` of both products, or what a budget allows, or 8.

    ``num_ids``: into how many ids all are folded; those that the feature declares, if null.
    """

    rank: Count | None = None
    num_ids: Count | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> TTRecConfig:
        """See TablePlan.table: ``size`` raises one rank, then the other."""
        size = 2 * self.rank - 1 if self.rank else size or 2 * _DEFAULT_RANK - 1
        ids = self.num_ids or num_ids(features)
        return TTRecConfig(ranks=((size + 1) // 2, size // 2 + 1), **{**shared, "num_ids": ids})

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.rank is not None


class TTRec(Table):
    """Three keys an id, its digits, each into a core of its own."""

    composes_once = True

    def __init__(self, config: TTRecConfig) -> None:
        super().__init__(config)
        self._num_ids = require(config, "num_ids", "set table.num_ids, or the feature's num_embeddings")
        self._factors = config.id_factors or id_factors(self._num_ids)
        (q1, q2, q3), (r1, r2) = config.dim_factors or dim_factors(config.embedding_dim), config.ranks
        self._shapes = ((q1, r1), (r1, q2 * r2), (r2, q3))
        self._fold_seed = hashing.seed_of(config.seed, config.name, "fold")
        self.groups = tuple(
            config.row_group(width=math.prod(shape), num_rows=factor, suffix=f".core{at}", initial=Initial(scale=scale))
            for at, (factor, shape, scale) in enumerate(
                zip(self._factors, self._shapes, core_scales(config.initial.scale, config.ranks), strict=True), 1
            )
        )

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {group.name: digit_N[:, None] for group, digit_N in zip(self.groups, self._digits(ids_N), strict=True)}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        first, second, third = (
            rows_NKW[group.name][:, 0].view(-1, *shape) for group, shape in zip(self.groups, self._shapes, strict=True)
        )
        _, second_N, third_N = self._digits(ids_N)
        left = _times_slices(first, second, second_N)  # q₁ × (q₂ r₂)
        rank, columns = self._shapes[2]
        left = left.reshape(-1, self.config.embedding_dim // columns, rank)
        return _times_slices(left, third, third_N).flatten(1)

    def _digits(self, ids_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.from_numpy(hashing.fold(ids_N.numpy(), self._num_ids, self._fold_seed))
        _, p2, p3 = self._factors
        return ids // (p2 * p3), ids // p3 % p2, ids % p3


def _times_slices(left_NXR: Tensor, slices_NRY: Tensor, digit_N: Tensor) -> Tensor:
    """left[n] @ slices[n], which is the same slice for all ids of one digit: (N, X, Y).

    One product a digit, of all its ids' matrices one above the other, padded to as many; thousands of tiny ones take
    ten times as long. Where one digit has most of the ids, that padding would be more than the work.
    """
    _, group_N = torch.unique(digit_N, return_inverse=True)
    counts_G = torch.bincount(group_N)
    num_ids, longest = len(group_N), int(counts_G.max()) if len(counts_G) else 0
    if len(counts_G) * longest > _MOST_PADDING * num_ids:
        return torch.bmm(left_NXR, slices_NRY)
    order_N = torch.argsort(group_N, stable=True)
    begins_G = counts_G.cumsum(0) - counts_G
    within_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(num_ids)) - begins_G[group_N]
    slot_N = group_N * longest + within_N
    _, num_rows, rank = left_NXR.shape
    padded = left_NXR.new_zeros(len(counts_G) * longest, num_rows * rank).index_copy(0, slot_N, left_NXR.flatten(1))
    slices_GRY = slices_NRY.index_select(0, a_place_of_each(group_N, len(counts_G)))
    products = torch.bmm(padded.view(len(counts_G), longest * num_rows, rank), slices_GRY)
    columns = slices_GRY.shape[2]
    return products.view(-1, num_rows * columns).index_select(0, slot_N).view(-1, num_rows, columns)


def id_factors(num_ids: int) -> Three:
    """p₁p₂p₃ ≥ num_ids, near its cube root.

    >>> id_factors(1000), id_factors(11_000_000), id_factors(2)
    ((10, 10, 10), (222, 223, 223), (1, 2, 2))
    """
    root = math.ceil(round(num_ids ** (1 / 3), 9))
    return -(-num_ids // (root * root)), root, root


def dim_factors(embedding_dim: int) -> Three:
    """q₁q₂q₃ = embedding_dim, as near to each other as its divisors are.

    >>> dim_factors(64), dim_factors(16), dim_factors(7)
    ((4, 4, 4), (2, 4, 2), (1, 7, 1))
    """
    choices = [
        (first, embedding_dim // (first * third), third)
        for first in range(1, embedding_dim + 1)
        for third in range(1, first + 1)
        if embedding_dim % (first * third) == 0
    ]
    return min(choices, key=lambda q: (max(q) - min(q), abs(q[0] - q[2])))


def core_scales(scale: float, ranks: tuple[int, int]) -> tuple[float, float, float]:
    """What slices start from, so that a vector's standard deviation is that of a full table's rows.

    Uniform in ±a has the variance a²/3, and an entry is a sum of r₁r₂ products of three. To start at zero and yet
    learn, one core alone is zero.
    """
    r1, r2 = ranks
    if scale == 0:
        unit = (9 / r1) ** 0.25
        return unit, unit, 0.0
    same = (9 * scale**2 / (r1 * r2)) ** (1 / 6)
    return same, same, same
