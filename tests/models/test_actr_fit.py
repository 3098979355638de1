"""Planted decay and weights come back; what can not be fitted is told."""

import numpy as np
import pytest

from recsys.errors import ConfigError, DataError
from recsys.models.sessions.actr import Memory, history_sums
from recsys.models.sessions.likelihood import Choice, choice_odds, fit_choice
from recsys.sessions.log import TRAIN, SessionLog, UserSplit
from recsys.sessions.planted import Planted, plant

SPLIT = UserSplit(valid=0, test=1)


def planted(**said: float) -> Planted:
    return Planted(num_users=60, num_sessions=40, split=SPLIT, **said)  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [0.3, 0.5, 0.8, 1.2])
def test_a_planted_decay_comes_back(decay: float) -> None:
    found = fit_choice(plant(planted(decay=decay), seed=1).log)
    assert found.num_choices > 14_000
    assert found.choice.decay == pytest.approx(decay, abs=0.05)
    assert 0.003 < found.errors["decay"] < 0.02
    assert found.history == sorted(found.history)


def test_planted_weights_come_back() -> None:
    said = Planted(num_users=300, num_sessions=40, spreading=0.6, partial_matching=0.4, split=SPLIT)
    made = plant(said, seed=1)
    free = ("base_level", "spreading", "partial_matching")
    found = fit_choice(made.log, free=free, start=Choice(base_level=0.5), vectors_VD=made.vectors_VD)
    assert found.choice.base_level == pytest.approx(1.0, abs=0.02)
    assert found.choice.spreading == pytest.approx(0.6, abs=0.02)
    assert found.choice.partial_matching == pytest.approx(0.4, abs=0.02)
    assert found.choice.decay == 0.5
    assert all(0.001 < error < 0.02 for error in found.errors.values())


def test_odds_of_base_levels_alone_are_their_sums() -> None:
    log = plant(Planted(num_users=5, num_sessions=8, num_tracks=300, split=SPLIT), seed=0).log
    ends_Q = np.array([0, 7, 20, 39])
    found_QV = choice_odds(log, ends_Q, Choice(decay=0.7))
    assert found_QV == pytest.approx(history_sums(log, ends_Q, log.times_S[ends_Q], Memory(decay=0.7)))
    assert found_QV[0].sum() == 0  # an empty history


def test_the_likelihood_is_that_of_a_plain_softmax() -> None:
    log = plant(Planted(num_users=3, num_sessions=6, num_tracks=300, split=SPLIT), seed=0).log
    expected, number = 0.0, 0
    for session in np.flatnonzero(log.parts_S == TRAIN):
        odds_V = choice_odds(log, np.array([session]), Choice())[0]
        for track in log.tracks_SK[session]:
            if odds_V[track] > 0:
                expected += np.log(odds_V[track] / odds_V.sum())
                number += 1
            odds_V[track] = 0
    found = fit_choice(log)
    assert (found.history[0], found.num_choices) == (pytest.approx(expected), number)


def test_what_can_not_be_fitted_is_told() -> None:
    log = plant(Planted(num_users=3, num_sessions=6, num_tracks=300, split=SPLIT), seed=0).log
    with pytest.raises(ConfigError, match="partial_matching can not be fitted without vectors"):
        fit_choice(log, free=("partial_matching",))
    with pytest.raises(ConfigError, match=r"free=\[\]: name some of decay"):
        fit_choice(log, free=())
    fresh = np.arange(4, dtype=np.int32).reshape(2, 2)
    with pytest.raises(DataError, match="no training session repeats anything"):
        fit_choice(SessionLog(np.array([0, 2]), np.array([0, 9]), fresh, np.zeros(2, np.int8), [0], [0, 1, 2, 3]))
    flat = np.zeros((300, 2))
    with pytest.raises(DataError, match="do not tell base_level, partial_matching apart"):
        fit_choice(log, free=("base_level", "partial_matching"), vectors_VD=flat)
