"""Recall and NDCG of the items ranked highest, of all items that a user has not been seen with.

Items of one bucket have one score. Ties are broken by a seeded random order: ids often follow popularity, and the
lowest id first would be a hidden bonus to whoever ties much.

Shape suffixes: U users, B users of a chunk, I items, V distinct item vectors, D dimension, K places of a ranking.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.graphs.bipartite import Bipartite
from recsys.hashing import Floats, Keys

_USERS_PER_CHUNK = 256


@dataclass(frozen=True)
class Judged:
    """Means over users with an item to find.

    ``recall``: found / there are (LightGCN's); ``recall_capped``: found / min(k, there are) (GraphHash's); ``ndcg``:
    binary, of the ideal min(k, there are) places.
    """

    recall: float
    recall_capped: float
    ndcg: float
    num_users: int


def judge(
    users_UD: Floats,
    items_ID: Floats,
    wanted: Bipartite,
    seen: Sequence[Bipartite],
    *,
    k: int = 20,
    seed: int = 0,
    users: Keys | None = None,
) -> Judged:
    """Rank all items but the ``seen`` ones for each user (of ``users``) by product; find the ``wanted`` ones."""
    asked = np.arange(wanted.num_users) if users is None else users
    asked = asked[wanted.user_degrees_U[asked] > 0]
    order_I = np.random.default_rng([seed, 0x7E]).permutation(wanted.num_items)
    vectors_VD, which_I = np.unique(items_ID, axis=0, return_inverse=True)
    which_I = which_I.reshape(-1)[order_I]
    masked = sum((graph.matrix_UI for graph in seen[1:]), seen[0].matrix_UI).tocsr()
    wanted_UI = wanted.matrix_UI
    found_UK = np.empty((len(asked), k), bool)
    for start in range(0, len(asked), _USERS_PER_CHUNK):
        chunk = asked[start : start + _USERS_PER_CHUNK]
        scores_BV = users_UD[chunk] @ vectors_VD.T
        ranked_BK = top_k(scores_BV, which_I, order_I, chunk, masked.indptr, masked.indices, k)
        found_UK[start : start + len(chunk)] = _found(ranked_BK, chunk, wanted_UI.indptr, wanted_UI.indices)
    return _means(found_UK, wanted.user_degrees_U[asked])


def popularity(graph: Bipartite) -> tuple[Floats, Floats]:
    """Vectors (U, 1) and (I, 1) whose products rank items by how many users they have."""
    return np.ones((graph.num_users, 1), np.float32), graph.item_degrees_I.astype(np.float32)[:, None]


@njit(cache=True)
def top_k(scores_BV, which_I, order_I, users_B, seen_starts, seen_items, k):  # type: ignore[no-untyped-def]
    """The items of the k best scores that are not seen, best first; of equal scores the first in ``order_I``.

    ``which_I`` is the score of each item of that order; −1 stands where there are fewer than k.
    """
    num_users, num_items = len(users_B), len(order_I)
    ranked_BK = np.full((num_users, k), -1, np.int64)
    best_K = np.empty(k, np.float32)
    seen_by_I = np.full(num_items, -1, np.int64)
    for row in range(num_users):
        user = users_B[row]
        for at in range(seen_starts[user], seen_starts[user + 1]):
            seen_by_I[seen_items[at]] = row
        filled = 0
        for place in range(num_items):
            score = scores_BV[row, which_I[place]]
            if filled == k and not score > best_K[k - 1]:
                continue
            item = order_I[place]
            if seen_by_I[item] == row:
                continue
            at = filled if filled < k else k - 1
            while at > 0 and score > best_K[at - 1]:
                best_K[at] = best_K[at - 1]
                ranked_BK[row, at] = ranked_BK[row, at - 1]
                at -= 1
            best_K[at] = score
            ranked_BK[row, at] = item
            filled = min(filled + 1, k)
    return ranked_BK


@njit(cache=True)
def _found(ranked_BK, users_B, wanted_starts, wanted_items):  # type: ignore[no-untyped-def]
    """Which places hold a wanted item."""
    found_BK = np.zeros(ranked_BK.shape, np.bool_)
    for row in range(len(users_B)):
        for at in range(wanted_starts[users_B[row]], wanted_starts[users_B[row] + 1]):
            for place in range(ranked_BK.shape[1]):
                if ranked_BK[row, place] == wanted_items[at]:
                    found_BK[row, place] = True
    return found_BK


def _means(found_UK: npt.NDArray[np.bool_], num_wanted_U: Keys) -> Judged:
    k = found_UK.shape[1]
    worth_K = 1 / np.log2(np.arange(k) + 2)
    possible_U = np.minimum(num_wanted_U, k)
    hits_U = found_UK.sum(1)
    return Judged(
        recall=float((hits_U / num_wanted_U).mean()),
        recall_capped=float((hits_U / possible_U).mean()),
        ndcg=float((found_UK @ worth_K / np.cumsum(worth_K)[possible_U - 1]).mean()),
        num_users=len(found_UK),
    )
