"""The best of all items for a user: candidates first, by products of vectors or out of a pool, then the ranker.

A factorised model (``fm``, and what ``jobs.retrieve`` leaves) retrieves by its own item vectors, exactly, over all
items. Any other model ranks a pool: all items where there are few, else those that something happened to lately.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np

from recsys.errors import ConfigError
from recsys.features.state import FactValues, History
from recsys.fields import AtLeast
from recsys.serving.item_index import IndexKeeper, ItemIndex, items_of
from recsys.serving.published import Id, Versions, checked_ids
from recsys.serving.ranker import Ranker, Ranking, time_of
from recsys.serving.rows import CacheConfig
from recsys.serving.served import ServedRun
from recsys.serving.vectors import best_products, user_vector

Exclude = Literal["liked", "seen", "none"]
EXCLUDES = ("liked", "seen", "none")
_MOST_REASONS = 2


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """``retrieval``: how many items a model without vectors is asked about, and how vectors are used.

    ``max_candidates`` is the size of the pool; ``num_reranked`` how many of the best by vectors are scored anew, with
    what is published now; vectors are made anew where they are older than ``max_age_seconds`` and of another version.
    """

    max_candidates: Annotated[int, AtLeast(1)] = 2_000
    num_reranked: Annotated[int, AtLeast(1)] = 500
    max_age_seconds: Annotated[float, AtLeast(0)] = 10.0


@dataclass(frozen=True)
class Recommendation(Ranking):
    """Items by falling probability, and what else there is to say of them.

    ``liked``, ``shown``: what is known of the user, the latest first. Where reasons are asked for, ``liked_titles`` and
    ``because``, for each item titles of the likes that are nearest to it. ``by``: whether candidates were found by
    ``vectors`` or in a ``pool``.
    """

    because: list[list[str]]
    liked: list[Id]
    liked_titles: list[str]
    shown: list[Id]
    by: Literal["vectors", "pool"]


class Retriever:
    """``Retriever.connect(url).recommend(user=7, k=10)``, from Redis alone."""

    def __init__(self, ranker: Ranker, config: RetrievalConfig | None = None) -> None:
        self.ranker, self._config = ranker, config or RetrievalConfig()
        self._index = ItemIndex(self._config.max_age_seconds)
        self._keeper: IndexKeeper | None = None

    @classmethod
    def connect(
        cls,
        url: str,
        model: str = "recsys",
        cache: CacheConfig | None = None,
        config: RetrievalConfig | None = None,
    ) -> "Retriever":
        """A retriever over the Redis at ``url``; ServiceError at the first call where none answers."""
        return cls(Ranker.connect(url, model, cache), config)

    @property
    def num_made(self) -> int:
        """How often item vectors were made."""
        return self._index.num_made

    @contextmanager
    def kept_ready(self) -> Iterator[None]:
        """For the time of the block a thread makes item vectors, before anybody asks; then nobody waits for them.

        ``recommend`` is NotReady where there are none yet. While those of a run that was switched to are made, it
        answers by those of the run before.
        """
        self._keeper = keeper = IndexKeeper(self.ranker.published, self._index)
        keeper.start()
        try:
            yield
        finally:
            self._keeper = None
            keeper.close()

    def check_ready(self) -> Versions:
        """What is served; NotPublished where nothing is, NotReady where item vectors are still to be made."""
        run, versions = self.ranker.published.current()
        if self._keeper and run.recommender.is_factorised and run.item_ids():
            self._keeper.ready(versions)
        return versions

    def recommend(
        self,
        user: Id,
        k: int = 10,
        exclude: Exclude = "liked",
        context: Mapping[str, Any] | None = None,
        *,
        rerank: bool = True,
        why: bool = False,
    ) -> Recommendation:
        """The ``k`` best of all items for a user, without what they ``liked`` lately, or have ``seen`` or liked.

        ``context`` as of Ranker.rank. Without ``rerank``, probabilities by vectors are as of those. Ties go to the
        first in the order of item ids, numbers before strings. Fewer than ``k``, or none, where all else is left out.
        ConfigError for what can not be asked, NotPublished where the run has no items.
        """
        if k < 1:
            raise ConfigError(f"k {k} must be at least 1")
        if exclude not in EXCLUDES:
            raise ConfigError(f"exclude {exclude!r} must be one of {', '.join(EXCLUDES)}")
        (user,) = checked_ids([user])
        run, versions, (value,) = self.ranker.published.look(lambda run: run.feature_keys(user, []))
        known = run.user_of(value)
        left_out = _left_out(known[0], exclude)
        if run.recommender.is_factorised:
            ranking = self._by_vectors(run, versions, user, known, left_out, k, context, rerank)
        else:
            ranking = self._ranked(user, self._pool(run, versions, left_out), k, context, versions)
        liked_titles = _titles(run, known[0].liked()) if why else []
        return Recommendation(
            **vars(ranking),
            because=_because(run, known[0].liked(), liked_titles, ranking.items),
            liked=known[0].liked(),
            liked_titles=liked_titles,
            shown=known[0].shown(),
            by="vectors" if run.recommender.is_factorised else "pool",
        )

    def _by_vectors(
        self,
        run: ServedRun,
        versions: Versions,
        user: Id,
        known: tuple[History, FactValues],
        left_out: set[Id],
        k: int,
        context: Mapping[str, Any] | None,
        rerank: bool,
    ) -> Ranking:
        index = self._keeper.ready(versions) if self._keeper else self._index.fresh(run, versions)
        time_ms = time_of(context, versions)
        query_V, rest = user_vector(index.recommender, index.run.rows, user, known, time_ms)
        wanted = max(k, self._config.num_reranked) if rerank else k
        places_K, products_K = best_products(index.items.vectors_IV, query_V, wanted, index.items.places([*left_out]))
        found = [index.items.ids[at] for at in places_K]
        if rerank:
            return self._ranked(user, _in_order(found), k, context, versions)
        scores_K = 1 / (1 + np.exp(-(products_K.astype(np.float64) + rest)))
        return Ranking(found, scores_K.tolist(), _titles(run, found), index.versions)

    def _ranked(
        self, user: Id, candidates: Sequence[Id], k: int, context: Mapping[str, Any] | None, versions: Versions
    ) -> Ranking:
        if not candidates:
            return Ranking([], [], [], versions)
        return self.ranker.rank(user, candidates, context, k)

    def _pool(self, run: ServedRun, versions: Versions, left_out: set[Id]) -> list[Id]:
        """All items, or the latest ``max_candidates``, in the order of item ids."""
        most = self._config.max_candidates
        ids = items_of(run, versions)
        if len(ids) <= most:
            return [id_ for id_ in ids if id_ not in left_out]
        latest = [id_ for id_ in run.recent_items(most + len(left_out)) if id_ not in left_out][:most]
        taken = {*latest, *left_out}
        others = islice((id_ for id_ in ids if id_ not in taken), most - len(latest))
        return _in_order([*latest, *others])


def _left_out(history: History, exclude: Exclude) -> set[Id]:
    if exclude == "none":
        return set()
    return {*history.liked(), *(history.shown() if exclude == "seen" else ())}


def _in_order(ids: Sequence[Id]) -> list[Id]:
    """In the order of item ids, in which ties are settled."""
    numbers = sorted(id_ for id_ in ids if isinstance(id_, int))
    return [*numbers, *sorted(id_ for id_ in ids if isinstance(id_, str))]


def _titles(run: ServedRun, ids: Sequence[Id]) -> list[str]:
    return [str(facts.get("title", id_)) for id_, facts in zip(ids, run.items(ids), strict=True)]


def _because(run: ServedRun, likes: Sequence[Id], titles: Sequence[str], items: Sequence[Id]) -> list[list[str]]:
    """For each item titles of the likes whose embeddings point most nearly its way: the cosine is above 0."""
    feature = next((f.name for f in run.recommender.features if f.source == "item.id" and f.kind == "id"), None)
    title_of = dict(zip(likes, titles, strict=False))
    if feature is None or not title_of:
        return [[] for _ in items]
    liked = run.recommender.known_ids(feature, list(title_of))
    known = run.recommender.known_ids(feature, items)
    if not liked or not known:
        return [[] for _ in items]
    ids_N = run.recommender.encode_ids(feature, [*known, *liked])
    vectors_ND = run.recommender.embed(feature, ids_N, run.rows)
    unit_ND = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
    nearness = unit_ND[: len(known)] @ unit_ND[len(known) :].T
    reasons: dict[Id, list[str]] = {}
    for id_, row in zip(known, nearness, strict=True):
        nearest = np.argsort(-row, kind="stable")[:_MOST_REASONS]
        reasons[id_] = [title_of[liked[at]] for at in nearest if row[at] > 0]
    return [reasons.get(id_, []) for id_ in items]
