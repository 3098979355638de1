"""What is at the edge: times that stand still or go back, short and single sessions, unknown tracks, no history."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.models.sessions import LEARNED, SIMPLE, build_session_config
from recsys.models.sessions.actr import Cooccurrence
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.learned import Items
from recsys.models.sessions.questions import before, now
from recsys.sessions.log import TRAIN, SessionLog, UserSplit
from recsys.sessions.plays import Play, plays_of
from recsys.sessions.sessioniser import SessionRules, sessionise

WIDTH, NUM_TRACKS = 8, 12
VECTORS = torch.randn(NUM_TRACKS, WIDTH, generator=torch.Generator().manual_seed(3))
ITEMS = Items(np.arange(NUM_TRACKS), VECTORS)
MEMORY = {"memory": {"min_age_seconds": 60.0}}
OF_TIME = ("pisa", "actr_bpr", "actr")


def log_of(*users: list[tuple[int, list[int]]]) -> SessionLog:
    """Each user's sessions as (second, tracks), of three tracks at most."""
    sessions = [session for user in users for session in user]
    tracks_SK = np.array([tracks + [-1] * (3 - len(tracks)) for _, tracks in sessions], np.int32).reshape(-1, 3)
    first_U1 = np.cumsum([0, *map(len, users)])
    times_S = np.array([time for time, _ in sessions], np.int64)
    ids = list(range(len(users))), list(range(NUM_TRACKS))
    return SessionLog(first_U1, times_S, tracks_SK, UserSplit(valid=0, test=1).parts(first_U1), *ids)


OTHERS = [(0, [0, 1, 2]), (5000, [1, 3]), (9000, [2, 4, 5])]  # a user to learn of


def built(kind: str, log: SessionLog) -> Any:
    fields = {"kind": kind, **(MEMORY if kind in OF_TIME else {}), **({"window": 3} if kind == "pisa" else {})}
    config = build_session_config(fields)
    if kind in SIMPLE:
        return SIMPLE[kind](config, log)
    generator = torch.Generator().manual_seed(0)
    return LEARNED[kind](config, log=log, embedding_dim=WIDTH, generator=generator).eval()  # type: ignore[call-arg]


def scores(recommender: Any, log: SessionLog, user: int, time: int) -> np.ndarray:
    """Of a user after all that the log has of them."""
    asked = now(log, np.array([user]), np.array([time]))
    if not isinstance(recommender, torch.nn.Module):
        return recommender.scores(asked)[0]
    with torch.no_grad():
        return recommender.scores(ITEMS, asked)[0].numpy()


@pytest.mark.parametrize("kind", OF_TIME)
def test_no_time_between_sessions_is_the_least_age(kind: str) -> None:
    """Sessions of one second, and of seconds that are less than the least age apart, are answered alike."""
    at_once = log_of(OTHERS, [(100, [6]), (100, [7, 8])])
    nearly = log_of(OTHERS, [(100, [6]), (130, [7, 8])])
    one, other = scores(built(kind, at_once), at_once, 1, 100), scores(built(kind, nearly), nearly, 1, 131)
    assert np.isfinite(one).all()
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("kind", OF_TIME)
def test_a_clock_that_goes_backwards_is_the_least_age(kind: str) -> None:
    log = log_of(OTHERS, [(100, [6]), (120, [7, 8])])
    recommender = built(kind, log)
    assert np.array_equal(scores(recommender, log, 1, -900), scores(recommender, log, 1, 120))


def test_plays_that_come_out_of_order_are_sorted() -> None:
    played = [Play(user=1, track=f"t{k}", time_ms=1000 * time) for k, time in enumerate((50, 10, 5000, 30))]
    log, _ = sessionise(plays_of(played), SessionRules(gap_seconds=100, min_tracks=1, max_tracks=3))
    assert log.times_S.tolist() == [10, 5000]
    assert [log.track_ids[track] for track in log.tracks_SK[0]] == ["t1", "t3", "t0"]


@pytest.mark.parametrize("kind", [*SIMPLE, *LEARNED])
def test_a_user_of_one_session_is_answered_and_never_asked_for(kind: str) -> None:
    log = log_of(OTHERS, [(100, [6, 7])])
    assert log.parts_S[log.first_U1[1] :].tolist() == [TRAIN]
    recommender = built(kind, log)
    assert np.isfinite(scores(recommender, log, 1, 900)).all()
    if kind == "pisa":
        (batch,) = recommender.batches(64, np.random.default_rng(0))
        assert batch.sessions_BP.max() < log.first_U1[1]  # there is nothing that it could be told from


def test_a_session_shorter_than_k_is_the_mean_of_what_is_there() -> None:
    """Of one track, it is that track; padding has no weight."""
    log = log_of(OTHERS, [(100, [6]), (900, [7, 8])])
    learned = built("pisa", log)
    sessions = np.array([[int(log.first_U1[1]), int(log.first_U1[1]) + 1]])
    embedded = learned._embed(ITEMS, sessions, learned._levels.levels_SK[sessions])[1].detach()[0]
    assert torch.allclose(embedded[0], VECTORS[6], atol=1e-6)
    weight = torch.linalg.lstsq(VECTORS[[7, 8]].T, embedded[1][:, None]).solution
    assert weight.sum().item() == pytest.approx(1, abs=1e-5) and bool((weight > 0).all())


def test_unknown_tracks_are_left_out_before_sessions_are_made() -> None:
    """A session of them alone is none, and one that begins with one begins later."""
    catalogue = Catalogue(["a", "b", "c"], np.array([1.0, 3.0, 2.0]), 2, None)
    heard = [(10, "x"), (20, "a"), (30, "c"), (40, "b"), (500, "y"), (900, "b")]
    log = catalogue.history(heard, gap_seconds=100)
    assert (log.times_S.tolist(), log.tracks_SK.tolist()) == ([20, 900], [[0, 2], [1, -1]])
    assert log.track_ids == ["a", "b", "c"]
    assert catalogue.history([(10, "x")], gap_seconds=100).num_users == 0
    together = Cooccurrence(np.array([[0, 1]], np.int32), 2)
    assert together.spreading(np.array([[0, 1, 5]], np.int32))[0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("kind", [*SIMPLE, *LEARNED])
def test_an_empty_history_is_answered(kind: str) -> None:
    """By what is popular where nothing is learned (the trainer says so of all); by numbers in any case."""
    log = log_of(OTHERS, [(100, [6, 7]), (9000, [6])])
    recommender = built(kind, log)
    asked = before(log, np.array([0]))
    if kind in SIMPLE:
        assert recommender.scores(asked)[0].tolist() == log.play_counts(TRAIN).tolist()
    else:
        with torch.no_grad():
            assert torch.isfinite(recommender.scores(ITEMS, asked)).all()


@pytest.mark.parametrize("kind", list(LEARNED))
def test_a_model_over_nobody_answers_whom_it_is_told_of(kind: str, tmp_path: Path) -> None:
    """Built without a user and told of a log, it says what one says that was built over it."""
    log = log_of(OTHERS, [(100, [6, 7]), (9000, [6])])
    whole = built(kind, log)
    bare = built(kind, Catalogue.of(log, whole).nobody())
    bare.together = whole.together
    bare.know(log)
    assert np.array_equal(scores(bare, log, 1, 9999), scores(whole, log, 1, 9999))
