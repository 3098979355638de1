"""Figures of session recommendations by value, and what ties, missing tracks and users do to them."""

import math

import numpy as np
import pytest

from recsys.errors import ConfigError, DataError
from recsys.models.sessions.lists import top_tracks
from recsys.models.sessions.questions import Questions
from recsys.models.sessions.simple import PersonalTop
from recsys.sessions.log import TEST, TRAIN, VALID, SessionLog
from recsys.sessions.planted import Planted, plant
from recsys.training.session_metrics import Judged, judge


class Fixed:
    """The same list for everyone, the best first."""

    def __init__(self, best: list[int], num_tracks: int) -> None:
        self._scores_V = np.zeros(num_tracks, np.float32)
        self._scores_V[best] = np.arange(len(best), 0, -1)

    def scores(self, questions: Questions) -> np.ndarray:
        return np.tile(self._scores_V, (len(questions), 1))


def one_user(train: list[int], test: list[int], num_tracks: int = 40) -> SessionLog:
    width = max(len(train), len(test))
    tracks_SK = np.array([tracks + [-1] * (width - len(tracks)) for tracks in (train, test)], np.int32)
    parts_S = np.array([TRAIN, TEST], np.int8)
    return SessionLog(np.array([0, 2]), np.array([0, 9]), tracks_SK, parts_S, ["u"], list(range(num_tracks)))


def test_ndcg_is_that_of_the_specification() -> None:
    """Hits at 1 and 4, |R| = 10: .314880; of three repeats only the first is hit: .469279."""
    truth = [0, 3, *range(20, 28)]
    found = judge(Fixed(list(range(10)), 40), one_user([0, 20, 21], truth), TEST)
    assert found.mean("ndcg") == pytest.approx(0.314880, abs=1e-6)
    assert found.mean("ndcg_repeat") == pytest.approx(0.469279, abs=1e-6)
    assert found.mean("recall") == 0.2
    assert found.mean("recall_repeat") == pytest.approx(1 / 3)
    assert found.mean("recall_explore") == pytest.approx(1 / 7)
    ideal = sum(1 / math.log2(2 + rank) for rank in range(7))
    assert found.mean("ndcg_explore") == pytest.approx(1 / math.log2(5) / ideal)
    assert found.mean("repeat_share") == pytest.approx(0.1)
    assert found.mean("repeat_bias") == pytest.approx(0.1 - 0.3)
    assert found.mean("popularity") == pytest.approx(0.1)


def test_what_was_heard_in_a_held_out_session_is_heard() -> None:
    """Tracks 0 by training, 1 by a validation session; the test session has both and a new one, the list 1 and 2."""
    tracks_SK = np.array([[0, -1, -1], [1, -1, -1], [0, 1, 2]], np.int32)
    parts_S = np.array([TRAIN, VALID, TEST], np.int8)
    log = SessionLog(np.array([0, 3]), np.array([0, 4, 9]), tracks_SK, parts_S, ["u"], list(range(40)))
    found = judge(Fixed([1, 2], 40), log, TEST, k=2)
    assert found.mean("ndcg_heard") == pytest.approx(1 / (1 + 1 / math.log2(3)))  # of 0 and 1, the second
    assert found.mean("ndcg_new") == pytest.approx(1 / math.log2(3))
    assert (found.mean("ndcg_repeat"), found.mean("ndcg_explore")) == (0.0, 1.0)
    assert found.mean("heard_bias") == pytest.approx(1 / 2 - 2 / 3)


def test_short_sessions_and_small_catalogues_have_their_own_ideal() -> None:
    found = judge(Fixed([2, 1, 0], 3), one_user([0], [2], num_tracks=3), TEST)
    assert (found.mean("ndcg"), found.mean("recall")) == (1.0, 1.0)
    assert math.isnan(found.mean("ndcg_repeat"))  # it has no repeat


def test_of_equal_scores_the_first_track_is_listed() -> None:
    scores_QV = np.array([[0, 1, 1, 1, 2], [0, 0, 0, 0, 0]], np.float32)
    assert top_tracks(scores_QV, 3).tolist() == [[4, 1, 2], [0, 1, 2]]
    with pytest.raises(DataError, match="a score is NaN"):
        top_tracks(np.array([[np.nan, 1]], np.float32), 1)


def test_who_knows_the_history_alone_explores_nothing() -> None:
    """Repeats are 100 % and exploration 0 where the history is what was trained on, and not where it has more."""
    log = plant(Planted(num_users=20, num_sessions=20, num_tracks=400)).log
    frozen = SessionLog(log.first_U1, log.times_S, log.tracks_SK, np.where(log.parts_S == VALID, TRAIN, log.parts_S),
                        log.user_ids, log.track_ids)  # fmt: skip

    class AsTrained(PersonalTop):
        def scores(self, questions: Questions) -> np.ndarray:
            ends_Q = frozen.first_U1[questions.users_Q] + 10
            return super().scores(Questions(questions.users_Q, questions.begins_Q, ends_Q, questions.times_Q))

    strict = judge(AsTrained(PersonalTop.Config(), frozen), frozen, TEST)
    assert (strict.mean("repeat_share"), strict.mean("ndcg_explore")) == (1.0, 0.0)
    assert judge(PersonalTop(PersonalTop.Config(), log), log, TEST).mean("ndcg_explore") > 0


def test_users_count_alike_and_cohorts_tell_the_spread() -> None:
    judged = Judged(np.arange(4), {"ndcg": np.array([0.0, 1.0, 0.5, np.nan])})
    whole = judged.summary(1, seed=0)["ndcg"]
    assert (whole["mean"], whole["std"]) == (0.5, 0.0)
    apart = judged.summary(4, seed=0)["ndcg"]
    assert apart["std"] == pytest.approx(np.std([0, 1, 0.5]))
    with pytest.raises(ConfigError, match="cohorts=5 of 4 users"):
        judged.summary(5, seed=0)


def test_nothing_to_judge_is_told() -> None:
    with pytest.raises(DataError, match="no session to judge by"):
        judge(Fixed([0], 40), one_user([0], [1]), VALID)
