"""Lookup, Ranker and Retriever for asyncio: what is asked for at the same time goes to Redis as one request.

Packing and decoding a thousand rows takes us little longer than a hundred. While some requests are under way others
gather; when a thread is free, it takes all that have, and asks for a row that several want once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import RecsysError
from recsys.hashing import Keys
from recsys.serving.lookup import Embedded, Lookup, integers
from recsys.serving.published import Id, NotReady
from recsys.serving.ranker import Ranker, Ranking
from recsys.serving.retriever import Exclude, Recommendation, RetrievalConfig, Retriever
from recsys.serving.rows import CacheConfig

_NUM_THREADS = 2  # one packs and decodes while the other waits for Redis
_IDS_AT_ONCE = 20_000
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class _Waiting:
    """A request whose turn comes."""

    feature: str
    ids: Keys | Sequence[Id]
    answer: "asyncio.Future[Embedded]"


class AsyncLookup:
    """``await AsyncLookup.connect(url).embeddings("item", [1, 2])``; of one event loop."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._waiting: list[_Waiting] = []
        self._num_running = 0
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "lookup")
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def connect(cls, url: str, model: str = "recsys", cache: CacheConfig | None = None) -> "AsyncLookup":
        """See Lookup.connect."""
        return cls(Lookup.connect(url, model, cache))

    async def embeddings(self, feature: str, ids: Keys | Sequence[Id]) -> Any:
        """See Lookup.embeddings."""
        return (await self.embed(feature, ids)).vectors_ND

    async def embed(self, feature: str, ids: Keys | Sequence[Id]) -> Embedded:
        """See Lookup.embed; the versions are those of the request that it went with."""
        loop = asyncio.get_running_loop()
        as_integers = integers(ids)
        waiting = _Waiting(feature, ids if as_integers is None else as_integers, loop.create_future())
        self._waiting.append(waiting)
        if self._num_running < _NUM_THREADS:
            self._num_running += 1
            task = loop.create_task(self._answer_waiting())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.answer

    def close(self) -> None:
        """End the threads; what is under way is answered first."""
        self._threads.shutdown()

    async def _answer_waiting(self) -> None:
        """Answer what waits until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = self._taken()
                answers = await loop.run_in_executor(self._threads, self._answers, batch)
                for waiting, answer in zip(batch, answers, strict=True):
                    if waiting.answer.done():
                        continue  # who asked has gone
                    if isinstance(answer, BaseException):
                        waiting.answer.set_exception(answer)
                    else:
                        waiting.answer.set_result(answer)
        finally:
            self._num_running -= 1

    def _taken(self) -> list[_Waiting]:
        """The next requests of one feature, ids of one kind, in the order they came."""
        first = self._waiting[0]
        batch: list[_Waiting] = []
        rest: list[_Waiting] = []
        num_ids = 0
        for waiting in self._waiting:
            alike = waiting.feature == first.feature and type(waiting.ids) is type(first.ids)
            if alike and (not batch or num_ids + len(waiting.ids) <= _IDS_AT_ONCE):
                batch.append(waiting)
                num_ids += len(waiting.ids)
            else:
                rest.append(waiting)
        self._waiting = rest
        return batch

    def _answers(self, batch: Sequence[_Waiting]) -> list[Embedded | BaseException]:
        """In a thread: all as one; where that fails each by itself, for it may be one that is wrong."""
        ids, places_N = _each_once(_joined([waiting.ids for waiting in batch]), len(batch))
        try:
            found = self._lookup.embed(batch[0].feature, ids)
        except RecsysError as error:
            if len(batch) == 1:
                return [error]
            return [answer for waiting in batch for answer in self._answers([waiting])]
        except BaseException as error:
            return [error] * len(batch)
        ends = np.cumsum([len(waiting.ids) for waiting in batch])
        vectors_ND = found.vectors_ND if places_N is None else found.vectors_ND[places_N]
        parts = np.split(vectors_ND, ends[:-1])
        return [Embedded(part, found.versions) for part in parts]


class AsyncRanker:
    """``await AsyncRanker.connect(url).rank(user=7, candidates=[1, 2, 3], k=2)``: rankings in threads of their own."""

    def __init__(self, ranker: Ranker, num_threads: int = _NUM_THREADS) -> None:
        self._ranker = ranker
        self._threads = ThreadPoolExecutor(num_threads, "rank")

    @classmethod
    def connect(cls, url: str, model: str = "recsys", cache: CacheConfig | None = None) -> "AsyncRanker":
        """See Ranker.connect."""
        return cls(Ranker.connect(url, model, cache))

    async def rank(
        self,
        user: Id,
        candidates: Sequence[Id] | None = None,
        context: Mapping[str, Any] | None = None,
        k: int = 10,
    ) -> Ranking:
        """See Ranker.rank."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._ranker.rank, user, candidates, context, k)

    def close(self) -> None:
        """End the threads; what is under way is answered first."""
        self._threads.shutdown()


class AsyncRetriever:
    """``await AsyncRetriever(retriever).recommend(user=7, k=2)``: recommendations in threads of their own.

    Where item vectors are still being made beside, a recommendation waits for them, no longer than ``patience_seconds``
    and in no thread.
    """

    def __init__(self, retriever: Retriever, num_threads: int = _NUM_THREADS, *, patience_seconds: float = 1.0) -> None:
        self._retriever, self._patience_seconds = retriever, patience_seconds
        self._threads = ThreadPoolExecutor(num_threads, "recommend")

    @classmethod
    def connect(
        cls, url: str, model: str = "recsys", cache: CacheConfig | None = None, config: RetrievalConfig | None = None
    ) -> "AsyncRetriever":
        """See Retriever.connect."""
        return cls(Retriever.connect(url, model, cache, config))

    async def recommend(
        self,
        user: Id,
        k: int = 10,
        exclude: Exclude = "liked",
        context: Mapping[str, Any] | None = None,
        *,
        rerank: bool = True,
        why: bool = False,
    ) -> Recommendation:
        """See Retriever.recommend."""
        loop, ask = asyncio.get_running_loop(), partial(self._retriever.recommend, user, k, exclude, context)
        give_up_at = loop.time() + self._patience_seconds
        while True:
            num_made = self._retriever.num_made
            try:
                return await loop.run_in_executor(self._threads, partial(ask, rerank=rerank, why=why))
            except NotReady:
                while self._retriever.num_made == num_made:
                    if loop.time() >= give_up_at:
                        raise
                    await asyncio.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """End the threads; what is under way is answered first."""
        self._threads.shutdown()


def _each_once(ids: Keys | Sequence[Id], num_requests: int) -> tuple[Keys | Sequence[Id], npt.NDArray[np.int64] | None]:
    """Ids that several requests name, once, and where the answer of each stands; None where each is its own."""
    if num_requests == 1 or not isinstance(ids, np.ndarray):
        return ids, None
    once_U, places_N = np.unique(ids, return_inverse=True)
    return (ids, None) if len(once_U) == len(ids) else (once_U, places_N)


def _joined(parts: Sequence[Keys | Sequence[Id]]) -> Keys | Sequence[Id]:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        joined: Keys = np.concatenate([np.asarray(part) for part in parts])
        return joined
    return [id_ for part in parts for id_ in part]
