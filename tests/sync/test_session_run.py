"""A trained run of sessions in a real Redis: what is served is what the trainer says, by version, updated by plays."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from composing import composed
from redis import Redis

from jobs.publish import PublishSettings, _publish
from jobs.session_online import SessionOnlineSettings, _Following, follow
from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import ConfigError
from recsys.events import END
from recsys.fields import build
from recsys.models.sessions import LEARNED
from recsys.models.sessions.lists import top_tracks
from recsys.models.sessions.questions import before, now
from recsys.models.sessions.recommender import SessionBlueprint
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.serving import Lookup
from recsys.serving.published import NotPublished
from recsys.serving.session_ranker import SessionRanker
from recsys.sessions.log import TEST, SessionLog, UserSplit
from recsys.sessions.planted import Planted, plant
from recsys.sessions.plays import Play
from recsys.streams.memory import MemorySource
from recsys.streams.source import Partition
from recsys.sync.session_run import publish_sessions
from recsys.sync.session_state import Heard, SessionStates
from recsys.sync.versions import list_versions, remove_version, roll_back
from recsys.training.session_checkpoint import SessionKeeper, load_run
from recsys.training.session_trainer import TrainedSessions, fit_sessions

GAP = 1200.0
LOG = plant(Planted(num_users=10, num_sessions=9, num_tracks=120, split=UserSplit(valid=1, test=2))).log


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def trained(kind: str, folder: Path, seed: int = 0, **fields: object) -> TrainedSessions:
    said = SessionBlueprint(
        table={"kind": "full", "embedding_dim": 8, "initial_scale": 0.5}, model={"kind": kind, **fields},
        optimizer={"kind": "adam", "learning_rate": 0.02}, dense_optimizer={"kind": "adam", "learning_rate": 0.002},
        seed=seed,
    )  # fmt: skip
    found = TrainedSessions(said, LOG)
    found.start(LocalRows(found.groups))
    keeper = SessionKeeper(folder, found, LOG, {})
    fit_sessions(found, LOG, epochs=1, batch_size=16, patience=9, seed=seed, keeper=keeper)
    return found


def publish(url: str, folder: Path, model: str, name: str) -> None:
    run = load_run(folder)
    publish_sessions(
        url, Layout(model=model, run=name), blueprint=run.checkpoint.blueprint, store=run.store,
        catalogue=run.catalogue, about={},
    )  # fmt: skip


def heard_before(log: SessionLog, session: int) -> list[Heard]:
    """The plays of a session's user before it, a second apart within a session."""
    return [
        Heard(int(log.times_S[earlier]) + k, log.track_ids[track])
        for earlier in range(log.begins_S[session], session)
        for k, track in enumerate(log.tracks_SK[earlier])
        if track >= 0
    ]


@pytest.mark.parametrize("kind", list(LEARNED))
def test_what_is_served_is_what_the_trainer_says(url: str, tmp_path: Path, kind: str) -> None:
    learned = trained(kind, tmp_path)
    publish(url, tmp_path, kind, "r1")
    ranker = SessionRanker.open(url, kind, gap_seconds=GAP, k=10)
    for session in LOG.sessions_of(TEST):
        asked = before(LOG, np.array([session]))
        expected_V = learned.scores(asked)[0]
        tracks, scores = ranker(heard_before(LOG, int(session)), int(LOG.times_S[session]))
        assert tracks == top_tracks(expected_V[None], 10)[0].tolist()
        assert scores == pytest.approx(expected_V[tracks], abs=1e-5)


def test_plays_update_state_and_list_with_the_offset(url: str, tmp_path: Path) -> None:
    """A user's last session, play by play: after each, the list is what the trainer says of the same log."""
    learned = trained("pisa", tmp_path, window=4)
    publish(url, tmp_path, "online", "r1")
    ranker = SessionRanker.open(url, "online", gap_seconds=GAP, k=10)
    session = int(LOG.first_U1[1]) - 1
    with Redis.from_url(url) as client:
        states = SessionStates(client, model="online", rank=ranker, gap_seconds=GAP, version=ranker.version)
        earlier = [Play(user="u", track=track, time_ms=1000 * time) for time, track in heard_before(LOG, session)]
        states.learn(0, list(enumerate(earlier)), len(earlier))
        for k, track in enumerate(LOG.tracks_SK[session]):
            time = int(LOG.times_S[session]) + k
            offset = len(earlier) + k
            states.learn(0, [(offset, Play(user="u", track=int(track), time_ms=1000 * time))], offset + 1)
            assert states.offsets() == {0: offset + 1}
            tracks_SK = LOG.tracks_SK[: session + 1].copy()
            tracks_SK[session, k + 1 :] = -1
            log = SessionLog(
                np.array([0, session + 1]), LOG.times_S[: session + 1], tracks_SK, LOG.parts_S[: session + 1], ["u"],
                LOG.track_ids,
            )  # fmt: skip
            learned.model.know(log)
            opens = time + int(GAP)
            assert learned.store is not None
            expected_V = learned.answer(learned.read(learned.store), now(log, np.array([0]), np.array([opens])))
            ready = states.recommend("u", opens)
            assert (ready.tracks, ready.time_seconds) == (top_tracks(expected_V, 10)[0].tolist(), opens)


def test_lists_of_one_version_are_not_anothers(url: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("old", "new")):
        trained("pisa", tmp_path / name, seed=seed)
        publish(url, tmp_path / name, "switched", name)
    with Redis.from_url(url) as client:
        old = SessionRanker.open(url, "switched", gap_seconds=GAP, k=5, run="old")
        states = SessionStates(client, model="switched", rank=old, gap_seconds=GAP, version="old")
        states.learn(0, [(0, Play(user=1, track=3, time_ms=5000)), (1, Play(user=1, track=4, time_ms=6000))], 2)
        opens = 6 + int(GAP)
        before_it = states.recommend(1, opens)
        served = SessionRanker.open(url, "switched", gap_seconds=GAP, k=5)
        assert served.version == "new"
        states.rank_by(served, served.version)
        assert states.recommend(1, opens).scores == served(states.heard(1), opens)[1] != before_it.scores
        assert [(found.run, found.served) for found in list_versions(client, "switched")] == [
            ("new", True), ("old", False),
        ]  # fmt: skip
        assert roll_back(client, "switched") == "old"
        assert remove_version(client, "switched", "new") > 0
        with pytest.raises(NotPublished, match="'new' of model 'switched' is not published"):
            SessionRanker.open(url, "switched", gap_seconds=GAP, k=5, run="new")


def test_a_stream_takes_up_the_version_that_is_served(url: str, tmp_path: Path) -> None:
    """Switched to between two batches, the new run makes the lists of what comes then, and of who asks."""
    for seed, name in enumerate(("one", "two")):
        trained("pisa", tmp_path / name, seed=seed)
    publish(url, tmp_path / "one", "followed", "one")
    told = ["kafka.bootstrap_servers=none:1", f"redis.url={url}", "serving.model=followed", "run=current"]
    settings = build(SessionOnlineSettings, composed("session_online", *told), "")
    part = Partition("plays", 0)
    with Redis.from_url(url) as client:
        states = SessionStates(client, model="followed", rank=lambda heard, time: ([], []), gap_seconds=GAP)
        following = _Following(settings, states)
        payloads = {part: [b'{"user":1,"track":3,"time_ms":5000}', END]}
        follow(MemorySource(payloads), states, following)
        one = SessionRanker.open(url, "followed", gap_seconds=settings.gap_seconds, k=10)
        opens = 5 + int(GAP)
        assert states.recommend(1, opens).tracks == one([Heard(5, 3)], opens)[0]
        publish(url, tmp_path / "two", "followed", "two")
        follow(MemorySource(payloads), states, following)
        two = SessionRanker.open(url, "followed", gap_seconds=settings.gap_seconds, k=10)
        assert (one.version, two.version) == ("one", "two")
        ready = states.recommend(1, opens)
        assert ready.scores == two([Heard(5, 3)], opens)[1] != one([Heard(5, 3)], opens)[1]
        assert states.recommend("nobody", opens).tracks == two.popular()


def test_unknown_tracks_short_sessions_and_nobody_are_answered(url: str, tmp_path: Path) -> None:
    trained("pisa", tmp_path)
    publish(url, tmp_path, "edges", "r1")
    ranker = SessionRanker.open(url, "edges", gap_seconds=GAP, k=10)
    popular = np.argsort(-LOG.play_counts(0), kind="stable")[:10].tolist()
    assert ranker([], 9) == (popular, []) == ranker([Heard(1, "no such track")], 9)
    one = ranker([Heard(100, 7)], 5000)
    assert len(set(one[0])) == 10 and np.isfinite(one[1]).all()
    assert ranker([Heard(100, 7), Heard(110, "no such track")], 5000) == one
    assert ranker([Heard(100, 7)], 100)[0] == ranker([Heard(100, 7)], 0)[0]  # at once, and a clock that goes backwards


def test_a_run_is_published_by_its_folder(url: str, tmp_path: Path) -> None:
    trained("pisa", tmp_path / "run7")
    said = {"model": "byjob", "row_format": "float32", "layout": "fast", "num_buckets": 64, "cluster": False}
    settings = PublishSettings(
        action="publish", serving=None, run=tmp_path / "run7", version=None, checkpoints=None,
        redis=type("Redis", (), {"url": url}),
    )  # type: ignore[arg-type]  # fmt: skip
    _publish(settings, said)
    assert SessionRanker.open(url, "byjob", gap_seconds=GAP, k=3).version == "run7"
    with pytest.raises(ConfigError, match=r"'run7' of model 'byjob' is of sessions; jobs\.session_online serves it"):
        Lookup.connect(url, "byjob").embeddings("track", [1])


def test_what_can_not_be_published_or_opened_is_told(url: str, tmp_path: Path) -> None:
    trained("pisa", tmp_path, mode="reference")
    with pytest.raises(ConfigError, match=r"session_model\.mode=reference answers as of a test session"):
        publish(url, tmp_path, "refused", "r1")
    with pytest.raises(NotPublished, match="no model 'refused' is published here"):
        SessionRanker.open(url, "refused", gap_seconds=GAP, k=3)
    layout = Layout(model="refused", run="films")
    with Redis.from_url(url) as client:
        client.set(layout.meta_key, json.dumps({"blueprint": {}, "layout": layout.to_json()}))
        client.set(layout.versions_key, b"x")
    with pytest.raises(ConfigError, match=r"'films' of model 'refused' is none of jobs\.session"):
        SessionRanker.open(url, "refused", gap_seconds=GAP, k=3, run="films")
