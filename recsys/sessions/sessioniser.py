"""Plays become sessions: who and what has enough plays, cuts at silences, distinct tracks, lengths, the split.

The steps and their order are those of PISA's data (Tran et al. 2024, section 4.1); every number is a field.

Shape suffixes: N plays, U users, S sessions, K tracks a session.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError
from recsys.fields import Above, AtLeast
from recsys.hashing import Keys
from recsys.sessions.log import Int32s, Int64s, SessionLog, UserSplit
from recsys.sessions.plays import Plays

Count = Annotated[int, AtLeast(1)]
Bools = npt.NDArray[np.bool_]
DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class SessionRules:
    """What makes a session, and what is kept.

    A session ends where its user is silent for more than ``gap_seconds``, or where the log says so. Of a track that is
    played again in a session the first play counts. Sessions of fewer than ``min_tracks`` distinct tracks are left
    out, longer ones are cut to their first ``max_tracks``. Users need ``min_history_days`` from first to last play,
    ``min_plays`` and, in the end, ``min_sessions``; tracks ``min_listeners``; ``last_days`` are a user's own last.
    """

    gap_seconds: Annotated[float, Above(0)] = 1200.0
    min_tracks: Count = 10
    max_tracks: Count = 10
    min_sessions: Count = 1
    min_plays: Count = 1
    min_listeners: Count = 1
    min_history_days: Annotated[float, AtLeast(0)] = 0.0
    last_days: Annotated[float, Above(0)] | None = None
    split: UserSplit = field(default_factory=UserSplit)

    def __post_init__(self) -> None:
        if self.max_tracks < self.min_tracks:
            raise ConfigError(f"max_tracks={self.max_tracks} is below min_tracks={self.min_tracks}; raise it")


Survivors = dict[str, dict[str, int]]  # by step: how many plays, users and tracks are left after it


def sessionise(plays: Plays, rules: SessionRules) -> tuple[SessionLog, Survivors]:
    """The sessions that the rules leave, and how much each step left.

    The order of the plays is nothing to it, and one that is told twice (user, track, second) counts once: clocks that
    go backwards in a log are sorted. Raises DataError where nothing is left.
    """
    plays = _sorted(plays)
    survivors = {"read": _counted(plays)}
    plays = _of_enough(plays, rules)
    survivors["enough"] = _counted(plays)
    sessions_N = _session_numbers(plays, rules.gap_seconds)
    first_N, places_N = _distinct(plays, sessions_N)
    plays, sessions_N = plays.select(first_N), sessions_N[first_N]
    long_N = np.bincount(sessions_N, minlength=1)[sessions_N] >= rules.min_tracks
    kept_N = long_N & (places_N < rules.max_tracks)
    plays, sessions_N, places_N = plays.select(kept_N), sessions_N[kept_N], places_N[kept_N]
    survivors["sessions"] = _counted(plays, sessions_N)
    kept_N = _of_many_sessions(plays, sessions_N, rules.min_sessions)
    plays, sessions_N, places_N = plays.select(kept_N), sessions_N[kept_N], places_N[kept_N]
    survivors["users"] = _counted(plays, sessions_N)
    if not len(plays):
        raise DataError(f"no session is left of {survivors['read']['plays']} plays; lower a minimum of plays.rules")
    return _log(plays, sessions_N, places_N, rules), survivors


def _sorted(plays: Plays) -> Plays:
    """By user and time, sessions that the log tells one after the other; each play once."""
    if plays.sessions_N is None:
        order_N = np.lexsort((plays.times_N, plays.users_N))
    else:
        begin_G = np.full(plays.sessions_N.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(begin_G, plays.sessions_N, plays.times_N)
        order_N = np.lexsort((plays.times_N, plays.sessions_N, begin_G[plays.sessions_N], plays.users_N))
    plays = plays.select(order_N)
    told_N3 = np.stack([plays.users_N, plays.tracks_N, plays.times_N], axis=1)
    return plays.select(np.sort(np.unique(told_N3, axis=0, return_index=True)[1]))


def _of_enough(plays: Plays, rules: SessionRules) -> Plays:
    """The plays of users and tracks that have enough of them, the last days of each user."""
    begin_U, end_U = _span(plays)
    long_U = end_U - begin_U >= rules.min_history_days * DAY_SECONDS
    plays = plays.select(
        (long_U & (np.bincount(plays.users_N, minlength=len(long_U)) >= rules.min_plays))[plays.users_N]
    )
    pairs_P2 = np.unique(np.stack([plays.tracks_N, plays.users_N], axis=1), axis=0)
    listeners_V = np.bincount(pairs_P2[:, 0], minlength=len(plays.track_ids))
    plays = plays.select((listeners_V >= rules.min_listeners)[plays.tracks_N])
    if rules.last_days is None or not len(plays):
        return plays
    return plays.select(plays.times_N > _span(plays)[1][plays.users_N] - rules.last_days * DAY_SECONDS)


def _span(plays: Plays) -> tuple[Int64s, Int64s]:
    """The first and last play of each user, in seconds."""
    begin_U = np.full(len(plays.user_ids), np.iinfo(np.int64).max)
    end_U = np.full(len(plays.user_ids), np.iinfo(np.int64).min)
    np.minimum.at(begin_U, plays.users_N, plays.times_N)
    np.maximum.at(end_U, plays.users_N, plays.times_N)
    return begin_U, np.maximum(end_U, np.minimum(begin_U, 0))  # users without plays: no overflow in end - begin


def _session_numbers(plays: Plays, gap_seconds: float) -> Keys:
    """Each play's session, from 0 on in the order of the plays."""
    if plays.sessions_N is not None:
        new_N = np.diff(plays.sessions_N, prepend=-1) != 0
    else:
        silent_N = np.diff(plays.times_N, prepend=0) > gap_seconds
        new_N = silent_N | (np.diff(plays.users_N, prepend=-1) != 0)
    return np.cumsum(new_N) - 1


def _distinct(plays: Plays, sessions_N: Keys) -> tuple[Keys, Keys]:
    """The first play of each track in each session, and which one of its session that is."""
    pairs_N2 = np.stack([sessions_N, plays.tracks_N], axis=1)
    kept_N: Keys = np.sort(np.unique(pairs_N2, axis=0, return_index=True)[1])
    kept_sessions_N = sessions_N[kept_N]
    starts_N = np.searchsorted(kept_sessions_N, kept_sessions_N)
    return kept_N, np.arange(len(kept_N)) - starts_N


def _of_many_sessions(plays: Plays, sessions_N: Keys, min_sessions: int) -> Bools:
    users_S = plays.users_N[np.unique(sessions_N, return_index=True)[1]]
    chosen_N: Bools = (np.bincount(users_S, minlength=len(plays.user_ids)) >= min_sessions)[plays.users_N]
    return chosen_N


def _log(plays: Plays, sessions_N: Keys, places_N: Keys, rules: SessionRules) -> SessionLog:
    """Sessions side by side; users and tracks that are left are numbered anew."""
    _, first_N, rows_N = np.unique(sessions_N, return_index=True, return_inverse=True)
    users, users_S = np.unique(plays.users_N[first_N], return_inverse=True)
    tracks, tracks_N = np.unique(plays.tracks_N, return_inverse=True)
    tracks_SK: Int32s = np.full((len(first_N), rules.max_tracks), -1, np.int32)
    tracks_SK[rows_N, places_N] = tracks_N
    first_U1 = np.searchsorted(users_S, np.arange(len(users) + 1))
    return SessionLog(
        first_U1,
        plays.times_N[first_N],
        tracks_SK,
        rules.split.parts(first_U1),
        [plays.user_ids[user] for user in users],
        [plays.track_ids[track] for track in tracks],
    )


def _counted(plays: Plays, sessions_N: Keys | None = None) -> dict[str, int]:
    counts: dict[str, Any] = {
        "plays": len(plays),
        "users": len(np.unique(plays.users_N)),
        "tracks": len(np.unique(plays.tracks_N)),
    }
    return counts if sessions_N is None else {**counts, "sessions": len(np.unique(sessions_N))}
