"""All items as vectors whose product with a user's vector ranks them: what a factorised model retrieves by.

Shape suffixes: I items, D embedding dimension, V = D + 1, B items of a block, K places of a ranking.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.batches.batch import candidate_batch
from recsys.features.extract import Extractor
from recsys.features.state import FactValues, History
from recsys.hashing import Floats
from recsys.models.recommender import Recommender
from recsys.rows.store import RowReader
from recsys.serving.published import Id

_ITEMS_PER_BLOCK = 65_536
_ITEMS_PER_PULL = 20_000

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ItemVectors:
    """Items in the order of ``ids``, each the vector of its own features and, last, their own logit."""

    ids: tuple[Id, ...]
    vectors_IV: Floats

    def places(self, ids: Sequence[Id]) -> Places:
        """Where items stand; those that are not here are left out."""
        return np.array([self._place_of[id_] for id_ in ids if id_ in self._place_of], np.int64)

    @cached_property
    def _place_of(self) -> dict[Id, int]:
        return {id_: at for at, id_ in enumerate(self.ids)}


def item_vectors(
    recommender: Recommender, rows: RowReader, ids: Sequence[Id], facts_of: Callable[[Sequence[Id]], list[FactValues]]
) -> ItemVectors:
    """The vectors of items, some thousand at a time, by the dense parameters that the recommender has loaded."""
    features = [feature for feature in recommender.features if feature.source.startswith("item.")]
    names, extractor = [feature.name for feature in features], Extractor(features)
    vectors_IV = np.empty((len(ids), 0), np.float32)
    for start in range(0, len(ids), _ITEMS_PER_PULL):
        part = slice(start, start + _ITEMS_PER_PULL)
        facts = facts_of(ids[part])
        values = [extractor.of_item(id_, about) for id_, about in zip(ids[part], facts, strict=True)]
        vectors_BD, own_B = recommender.side(names, candidate_batch(features, {}, values), rows)
        if not start:
            vectors_IV = np.empty((len(ids), vectors_BD.shape[1] + 1), np.float32)
        vectors_IV[part, :-1], vectors_IV[part, -1] = vectors_BD, own_B
    return ItemVectors(tuple(ids), vectors_IV)


def user_vector(
    recommender: Recommender, rows: RowReader, user_id: Id, user: tuple[History, FactValues], time_ms: int
) -> tuple[Floats, float]:
    """What to multiply items' vectors by, (V,), and what to add for the logit: all that is the same for every item."""
    features = [feature for feature in recommender.features if not feature.source.startswith("item.")]
    extractor = Extractor(features)
    shared = {**extractor.of_user(user_id, *user, time_ms), **extractor.of_time(time_ms)}
    batch = candidate_batch(features, {}, [shared])
    vectors_1D, own_1 = recommender.side([feature.name for feature in features], batch, rows)
    return np.append(vectors_1D[0], np.float32(1)), float(own_1[0]) + recommender.bias


def best_products(vectors_IV: Floats, query_V: Floats, k: int, left_out: Places) -> tuple[Places, Floats]:
    """The places of the ``k`` largest products with a query, and these, the best first; exact, over every item.

    Of equal products the first place comes first. There are fewer than ``k`` where all others are ``left_out``.

    >>> items = np.array([[1, 0], [3, 0], [2, 0], [3, 0]], np.float32)
    >>> best_products(items, np.array([1, 0], np.float32), 2, np.array([], np.int64))[0].tolist()
    [1, 3]
    """
    best_K, scores_K = np.empty(0, np.int64), np.empty(0, np.float32)
    is_left_out_I = np.zeros(len(vectors_IV), bool)
    is_left_out_I[left_out] = True
    for start in range(0, len(vectors_IV), _ITEMS_PER_BLOCK):
        scores_B = vectors_IV[start : start + _ITEMS_PER_BLOCK] @ query_V
        kept_B = np.flatnonzero(~is_left_out_I[start : start + _ITEMS_PER_BLOCK])
        places, scores = np.append(best_K, start + kept_B), np.append(scores_K, scores_B[kept_B])
        chosen = _largest(scores, k)
        best_K, scores_K = places[chosen], scores[chosen]
    order = np.lexsort((best_K, -scores_K))
    return best_K[order], scores_K[order]


def _largest(scores_N: Floats, k: int) -> Places:
    """Where the ``k`` largest are, in order of place; of those equal to the last, the first."""
    if len(scores_N) <= k:
        return np.arange(len(scores_N))
    least = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
    above, equal = np.flatnonzero(scores_N > least), np.flatnonzero(scores_N == least)
    return np.sort(np.append(above, equal[: k - len(above)]))
