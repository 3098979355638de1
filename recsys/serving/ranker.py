"""Score candidates for a user: the joiner's feature code, the trainer's model code, over whatever holds the state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recsys.batches.batch import candidate_batch
from recsys.errors import ConfigError, unknown
from recsys.features.extract import Extractor
from recsys.features.state import FactValues, FeatureState, History
from recsys.hashing import Floats
from recsys.models.recommender import Recommender
from recsys.rows.store import RowReader
from recsys.serving.exported import Exported
from recsys.serving.published import Id, Published, Versions, checked_ids
from recsys.serving.rows import CacheConfig
from recsys.serving.served import Served, ServedRun

_END_MS = 253_402_300_800_000  # the year 10000: calendars end there


class FeatureReader(Protocol):
    """What is known of users and items now."""

    def user(self, user_id: Id) -> tuple[History, FactValues]:
        """(history, profile) of a user."""

    def items(self, item_ids: Sequence[Id]) -> list[FactValues]:
        """Facts of items."""


class StateFeatures:
    """A FeatureReader over a joiner's own state: how scores are compared with those from Redis."""

    def __init__(self, state: FeatureState) -> None:
        self._state = state

    def user(self, user_id: Id) -> tuple[History, FactValues]:
        """See FeatureReader."""
        return self._state.history(user_id), self._state.profiles.as_of(user_id)

    def items(self, item_ids: Sequence[Id]) -> list[FactValues]:
        """See FeatureReader."""
        return [self._state.items.as_of(item_id) for item_id in item_ids]


class Scorer:
    """Probabilities of candidates for a user at a time."""

    def __init__(self, recommender: Recommender, rows: RowReader, features: FeatureReader) -> None:
        self._recommender, self._rows, self._features = recommender, rows, features
        self._extractor = Extractor(recommender.features)

    def load_dense(self) -> None:
        """Take over the dense parameters as they are now; ``scores`` uses those taken last."""
        self._recommender.load_dense(self._rows.pull(self._recommender.dense_keys))

    def scores(self, user_id: Id, item_ids: Sequence[Id], time_ms: int) -> Floats:
        """Probabilities (N,) float32, in the order of ``item_ids``."""
        user, facts = self._features.user(user_id), self._features.items(item_ids)
        return self.scores_of(user_id, user, item_ids, facts, time_ms)

    def scores_of(
        self,
        user_id: Id,
        user: tuple[History, FactValues],
        item_ids: Sequence[Id],
        facts: Sequence[FactValues],
        time_ms: int,
    ) -> Floats:
        """``scores`` of a user and items whose features are known."""
        history, profile = user
        shared = self._extractor.of_user(user_id, history, profile, time_ms)
        shared = {**shared, **self._extractor.of_time(time_ms)}
        items = [self._extractor.of_item(id_, about) for id_, about in zip(item_ids, facts, strict=True)]
        batch = candidate_batch(self._recommender.features, shared, items)
        return self._recommender.predict(batch, self._rows, dense=False)


@dataclass(frozen=True)
class Ranking:
    """Candidates by falling probability, and the versions they were scored with."""

    items: list[Id]
    scores: list[float]
    titles: list[str]
    versions: Versions


class Ranker:
    """``Ranker.connect(url).rank(user=7, candidates=[1, 2, 3], k=2)``, from Redis alone; or ``Ranker.load(folder)``."""

    def __init__(self, published: Served) -> None:
        self.published = published
        self._scorer: tuple[Recommender, Scorer] | None = None

    @classmethod
    def connect(cls, url: str, model: str = "recsys", cache: CacheConfig | None = None) -> "Ranker":
        """A ranker over the Redis at ``url``; ServiceError at the first call where none answers."""
        return cls(Published(url, model, cache))

    @classmethod
    def load(cls, folder: str | Path) -> "Ranker":
        """A ranker over what jobs.export left in ``folder``; DataError where that is not as it was written."""
        return cls(Exported(Path(folder)))

    def rank(
        self,
        user: Id,
        candidates: Sequence[Id] | None = None,
        context: Mapping[str, Any] | None = None,
        k: int = 10,
    ) -> Ranking:
        """The ``k`` best of ``candidates`` (None: all items but those the user liked lately) for a user.

        ``context`` may give ``time_ms``, the event time to rank at; the latest published is the default. Ties keep
        the candidates' order. A user or an item never seen is ranked by what the model makes of unknown ids.
        ConfigError for no candidates at all, and for what is no id, time or ``k``.
        """
        if k < 1:
            raise ConfigError(f"k {k} must be at least 1")
        if candidates is not None and not len(candidates):
            raise ConfigError("candidates are an empty list; name at least one, or leave them out to rank all items")
        (user,) = checked_ids([user])
        if candidates is None:
            candidates = self._not_liked(user)
        candidates = checked_ids(candidates)
        run, versions, values = self.published.look(lambda run: run.feature_keys(user, candidates))
        time_ms = time_of(context, versions)
        scorer, versions = self._fresh_scorer(run, versions)
        facts = run.facts_of(values[1:])
        scores_N = scorer.scores_of(user, run.user_of(values[0]), candidates, facts, time_ms)
        best = np.argsort(-scores_N, kind="stable")[:k]
        titles = [str(facts[at].get("title", candidates[at])) for at in best]
        return Ranking([candidates[at] for at in best], [float(scores_N[at]) for at in best], titles, versions)

    def _not_liked(self, user: Id) -> list[Id]:
        """All items but those that a user liked lately."""
        run, _, (value,) = self.published.look(lambda run: run.feature_keys(user, []))
        liked = set(run.user_of(value)[0].liked())
        return [item_id for item_id in run.item_ids() if item_id not in liked]

    def _fresh_scorer(self, run: ServedRun, versions: Versions) -> tuple[Scorer, Versions]:
        """A scorer with the dense parameters of this version, and the versions with theirs."""
        recommender, versions = run.at(versions)
        if self._scorer is None or self._scorer[0] is not recommender:
            self._scorer = (recommender, Scorer(recommender, run.rows, run))
        return self._scorer[1], versions


def time_of(context: Mapping[str, Any] | None, versions: Versions) -> int:
    """The event time that a context names; by default the latest published. ConfigError for what is none."""
    for name in context or {}:
        if name != "time_ms":
            raise unknown("field of context", name, ["time_ms"])
    time_ms = (context or {}).get("time_ms", versions.time_ms)
    if not isinstance(time_ms, int) or not -1 <= time_ms < _END_MS:
        raise ConfigError(f"time_ms {time_ms!r} of context must be milliseconds since 1970, before the year 10000")
    return time_ms
