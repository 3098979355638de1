"""Planted logs are what they say: repeats are of the history, explored tracks are not, shares come out."""

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.sessions.log import UserSplit
from recsys.sessions.planted import Planted, plant

SAID = Planted(num_users=30, num_sessions=30, spreading=0.5, partial_matching=0.5, split=UserSplit(valid=2, test=3))


def test_repeats_are_of_the_history_and_explored_tracks_never() -> None:
    planted = plant(SAID, seed=1)
    log = planted.log
    for user in range(log.num_users):
        heard: set[int] = set()
        for session in range(log.first_U1[user], log.first_U1[user + 1]):
            tracks = log.tracks_SK[session].tolist()
            assert len(set(tracks)) == 10
            assert [track in heard for track in tracks] == planted.repeats_SK[session].tolist()
            heard |= set(tracks)
    later_S = np.arange(len(log.times_S)) % 30 > 0
    assert planted.repeats_SK[later_S].mean() == pytest.approx(0.7, abs=0.01)


def test_the_same_seed_gives_the_same_log_and_another_does_not() -> None:
    one, same, other = (plant(SAID, seed).log.tracks_SK for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_high_decay_repeats_what_is_recent() -> None:
    """The median age, in sessions, of what is repeated."""
    ages = []
    for decay in (0.0, 2.0):
        log = plant(Planted(num_users=30, num_sessions=30, decay=decay, split=UserSplit()), seed=3).log
        last = [log.tracks_SK[s] for s in range(len(log.times_S))]
        ages.append(np.mean([np.isin(last[s], last[s - 1]).mean() for s in range(29, len(last), 30)]))
    assert ages[1] > 2 * ages[0]


def test_too_small_a_catalogue_is_told() -> None:
    with pytest.raises(ConfigError, match="num_tracks=200: a user would explore most of them"):
        Planted(num_tracks=200, repeat_share=0.2, split=UserSplit())
    with pytest.raises(ConfigError, match="num_tracks=10 is too few"):
        Planted(num_tracks=10, split=UserSplit())
