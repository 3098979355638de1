"""From a user's new play to a fresh list in Redis: plays kept, sessions cut, a PISA asked, all in one transaction.

The model is not trained, which is nothing to its speed: 50,000 tracks, vectors of 64 numbers, published and opened as a
trained run is. Users have 30 sessions of ten tracks.

Shape suffixes: K tracks a session, V tracks.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benches.draws import zipf_cdf
from benches.result import Result, Target, Values, alone
from recsys.embedded.redis import EmbeddedRedis
from recsys.embedded.redis_url import open_client
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.recommender import SessionBlueprint
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.serving.session_ranker import SessionRanker
from recsys.sessions.log import SessionLog
from recsys.sessions.plays import Play
from recsys.sync.session_run import publish_sessions
from recsys.sync.session_state import SessionStates
from recsys.training.session_trainer import TrainedSessions

GAP_SECONDS = 1200.0
BLUEPRINT = SessionBlueprint(
    table={"kind": "full", "embedding_dim": 64, "initial_scale": 0.6},
    model={"kind": "pisa"},
    optimizer={"kind": "adam", "learning_rate": 0.005},
    dense_optimizer={"kind": "adam", "learning_rate": 0.002},
)
AT_MOST = Target(value=20, bound="most")  # milliseconds


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything; ``updates`` are timed, after a tenth as many that are not."""

    tracks: int = 50_000
    users: int = 50
    sessions: int = 30
    updates: int = 1000


QUICK = Sizes(tracks=2000, users=5, sessions=5, updates=40)


def measure(log: SessionLog, sizes: Sizes) -> list[Result]:
    """Milliseconds of an update, p50 and p99; ``log`` is what its pairs of tracks are counted in."""
    with _states(log, sizes.tracks) as states:
        taken = [1000 * seconds for seconds in _updates(states, sizes)][sizes.updates // 10 :]
    what = f"a play to a fresh top 10 in Redis, {sizes.tracks:,} tracks"
    return [
        alone(f"{what}, p50", "ms", [float(np.percentile(taken, 50))]),
        alone(f"{what}, p99", "ms", [float(np.percentile(taken, 99))], AT_MOST),
    ]


@contextmanager
def _states(log: SessionLog, num_tracks: int) -> Iterator[SessionStates]:
    """States in a Redis of their own, ranked by a run that was published there."""
    trained = TrainedSessions(BLUEPRINT, log)
    store = LocalRows(trained.groups)
    trained.start(store)
    catalogue = Catalogue.of(log, trained.model)
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as redis:
        layout = Layout(model="bench", run="one")
        publish_sessions(redis.url, layout, blueprint=BLUEPRINT, store=store, catalogue=catalogue, about={})
        ranker = SessionRanker.open(redis.url, "bench", gap_seconds=GAP_SECONDS, k=10)
        yield SessionStates(
            open_client(redis.url), model="bench", rank=ranker, gap_seconds=GAP_SECONDS, version=ranker.version
        )


def _updates(states: SessionStates, sizes: Sizes) -> Iterator[float]:
    """The seconds of each of some updates: users' next sessions, play by play."""
    draw, cumulated_V = np.random.default_rng(0), zipf_cdf(sizes.tracks)
    offset = 0
    for user in range(sizes.users):
        played = [play for at in range(sizes.sessions) for play in _session(user, at, cumulated_V, draw)]
        states.learn(0, list(enumerate(played, offset)), offset + len(played))
        offset += len(played)
    for at in range(sizes.updates * 11 // 10):
        user, place = at % sizes.users, at // sizes.users
        track = int(np.searchsorted(cumulated_V, draw.random()))
        second = 86_400 * (sizes.sessions + place // 10) + 180 * (place % 10)
        play = Play(user=user, track=track, time_ms=1000 * second)
        start = time.perf_counter()
        states.learn(0, [(offset, play)], offset + 1)
        yield time.perf_counter() - start
        offset += 1


def _session(user: int, at: int, cumulated_V: Values, draw: np.random.Generator) -> list[Play]:
    tracks_K = np.searchsorted(cumulated_V, draw.random(10))
    return [
        Play(user=user, track=int(track), time_ms=1000 * (86_400 * at + 180 * k)) for k, track in enumerate(tracks_K)
    ]
