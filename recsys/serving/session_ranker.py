"""Ranks the next session of a user by a published run of sessions: the run's own model, over rows out of Redis.

Shape suffixes: V tracks of the catalogue.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.embedded.redis_url import Client, open_client
from recsys.errors import ConfigError
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.learned import Items
from recsys.models.sessions.lists import top_tracks
from recsys.models.sessions.questions import now
from recsys.models.sessions.recommender import SessionBlueprint, TrackRecommender
from recsys.rows.layout import SESSIONS, Layout, pointer_key
from recsys.serving.published import NotPublished, read_keys
from recsys.serving.rows import PublishedRows


class SessionRanker:
    """The whole catalogue's vectors are read once, and held here: a list is one product. For one thread at a time.

    ``version`` names the run: lists that another made are not this one's.
    """

    def __init__(
        self,
        version: str,
        recommender: TrackRecommender,
        items: Items,
        catalogue: Catalogue,
        gap_seconds: float,
        k: int,
    ) -> None:
        self.version, self._recommender, self._items = version, recommender, items
        self._catalogue, self._gap_seconds, self._k = catalogue, gap_seconds, k

    @classmethod
    def open(cls, url: str, model: str, *, gap_seconds: float, k: int, run: str | None = None) -> "SessionRanker":
        """A ranker of a published run, by default of the one that is served.

        NotPublished where there is none, ConfigError where it is no run of sessions, ServiceError where Redis does not
        answer.
        """
        client = open_client(url)
        name = run or current_run(client, model)
        meta = _meta(client, model, name)
        layout = Layout(model=model, run=name, **meta["layout"])
        catalogue = Catalogue.from_bytes(_whole(client, layout, meta["catalogue_parts"]))
        recommender = TrackRecommender.of_catalogue(SessionBlueprint(**meta["blueprint"]), catalogue)
        rows = PublishedRows(client, layout, {group.name: group for group in recommender.groups})
        return cls(name, recommender, recommender.read(rows), catalogue, gap_seconds, k)

    def __call__(
        self, heard: Sequence[tuple[int, int | str]], time_seconds: int
    ) -> tuple[list[int | str], list[float]]:
        """The k best tracks, the best first, and their scores, for who played tracks at times (seconds).

        What is popular, without scores, where none of the tracks is known.
        """
        log = self._catalogue.history(heard, self._gap_seconds)
        if not log.num_users:
            return self.popular(), []
        self._recommender.model.know(log)
        scores_V = self._recommender.answer(self._items, now(log, np.array([0]), np.array([time_seconds])))[0]
        best = top_tracks(scores_V[None], self._k)[0]
        return [self._catalogue.track_ids[track] for track in best], scores_V[best].tolist()

    def popular(self) -> list[int | str]:
        """What users without plays are told."""
        return self._catalogue.popular(self._k)


def current_run(client: Client, model: str) -> str:
    """The run that is served now."""
    (pointer,) = read_keys(client, [pointer_key(model)])
    if pointer is None:
        raise NotPublished(f"no model {model!r} is published here; run jobs.publish run=FOLDER")
    return pointer.decode()


def _meta(client: Client, model: str, run: str) -> dict[str, Any]:
    layout = Layout(model=model, run=run)
    value, versions = read_keys(client, [layout.meta_key, layout.versions_key])
    if value is None or versions is None:
        raise NotPublished(f"run {run!r} of model {model!r} is not published, or not all of it; run jobs.publish")
    meta: dict[str, Any] = json.loads(value)
    if meta.get("kind") != SESSIONS:
        raise ConfigError(f"run {run!r} of model {model!r} is none of jobs.session; name another by serving.model")
    return meta


def _whole(client: Client, layout: Layout, num_parts: int) -> bytes:
    parts = read_keys(client, layout.catalogue_keys(num_parts))
    if None in parts:
        raise NotPublished(f"run {layout.run!r} of model {layout.model!r} lacks its catalogue; publish it again")
    return b"".join(part for part in parts if part is not None)
