"""Logs of users whose memory is planted: what a method should recover, and what it should be good at.

A slot of a session is a repeat with probability ``repeat_share``: a track of the user's history, chosen with
probability ∝ exp(w₁·BL + w₂·log(1 + cooc) + w₃·PM). BL is the base level at the session's own time under ``decay``;
cooc, how often the user has heard the track in one session with those of the session before; PM, the sum of cosines
to those. Any other slot explores: popularity × the mood of the session, a genre, **never** a track of the history (if
it could be one, the decay that is fitted to repeats would come out too low: .8 as .70). Genres follow one another, so
that order can be learned; gaps between sessions are log-normal.

Shape suffixes: U users, S sessions, K tracks a session, V tracks, G genres, D width of the planted vectors.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Between
from recsys.sessions.log import Int32s, Int64s, SessionLog, UserSplit

Count = Annotated[int, AtLeast(1)]
Share = Annotated[float, Between(0, 1)]
Weight = Annotated[float, AtLeast(0)]
Floats64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """How many of what, and the memory that is planted.

    ``mood_share`` of explored tracks is of the session's genre; from one session to the next the genre moves on with
    probability ``mood_moves``.
    """

    kind: Literal["planted"] = "planted"
    seed: Annotated[int, AtLeast(0)] = 0
    num_users: Count = 60
    num_sessions: Count = 40
    num_tracks: Count = 1200
    num_genres: Count = 24
    tracks_per_session: Count = 10
    decay: Weight = 0.5
    base_level: Weight = 1.0
    spreading: Weight = 0.0
    partial_matching: Weight = 0.0
    repeat_share: Share = 0.7
    popularity_exponent: Weight = 1.0
    mood_share: Share = 0.9
    mood_moves: Share = 0.5
    median_gap_hours: Annotated[float, Above(0)] = 24.0
    gap_spread: Weight = 1.0
    split: UserSplit = field(default_factory=UserSplit)

    def __post_init__(self) -> None:
        heard = self.num_sessions * self.tracks_per_session
        if self.num_tracks < self.tracks_per_session + 1 or self.num_genres > self.num_tracks:
            raise ConfigError(
                f"num_tracks={self.num_tracks} is too few for {self.tracks_per_session} a session and "
                f"{self.num_genres} genres; raise it"
            )
        if (1 - self.repeat_share) * heard > 0.9 * self.num_tracks:
            raise ConfigError(
                f"num_tracks={self.num_tracks}: a user would explore most of them in {self.num_sessions} sessions; "
                "raise it, or repeat_share"
            )


@dataclass(frozen=True)
class PlantedLog:
    """What was planted, beside the log: the vectors that PM is the cosine of, and which slots are repeats."""

    log: SessionLog
    vectors_VD: Floats64
    repeats_SK: Bools


def plant(said: Planted, seed: int | None = None) -> PlantedLog:
    """A log by the users that ``said`` describes; the same seed (its own, if none is given) gives the same log."""
    draw = np.random.default_rng(said.seed if seed is None else seed)
    num_sessions = said.num_users * said.num_sessions
    genres_V = draw.integers(0, said.num_genres, said.num_tracks)
    genres_V[: said.num_genres] = np.arange(said.num_genres)  # none is empty
    times_S = _times(said, draw)
    tracks_SK = np.full((num_sessions, said.tracks_per_session), -1, np.int32)
    repeats_SK = np.zeros(tracks_SK.shape, np.bool_)
    vectors_VD = _vectors(genres_V, said.num_genres, draw)
    _choose(
        np.arange(said.num_users + 1) * said.num_sessions,
        times_S,
        _moods(said, draw),
        genres_V,
        _popularity(said, draw),
        vectors_VD,
        np.array([said.decay, said.base_level, said.spreading, said.partial_matching]),
        np.array([said.repeat_share, said.mood_share]),
        draw.random((num_sessions, said.tracks_per_session, 2)),
        tracks_SK,
        repeats_SK,
    )
    first_U1 = np.arange(said.num_users + 1) * said.num_sessions
    users, tracks = list(range(said.num_users)), list(range(said.num_tracks))
    log = SessionLog(first_U1, times_S, tracks_SK, said.split.parts(first_U1), users, tracks)
    return PlantedLog(log, vectors_VD, repeats_SK)


def _times(said: Planted, draw: np.random.Generator) -> Int64s:
    gaps_US = draw.lognormal(np.log(3600 * said.median_gap_hours), said.gap_spread, (said.num_users, said.num_sessions))
    return (1 + np.cumsum(np.maximum(gaps_US, 1), axis=1)).astype(np.int64).reshape(-1)


def _moods(said: Planted, draw: np.random.Generator) -> Int64s:
    """The genre of each session: users walk one circle of genres."""
    start_U1 = draw.integers(0, said.num_genres, (said.num_users, 1))
    moves_US = np.cumsum(draw.random((said.num_users, said.num_sessions)) < said.mood_moves, axis=1)
    return ((start_U1 + moves_US) % said.num_genres).reshape(-1).astype(np.int64)


def _popularity(said: Planted, draw: np.random.Generator) -> Floats64:
    ranks_V = 1 + draw.permutation(said.num_tracks)
    return ranks_V.astype(np.float64) ** -said.popularity_exponent


def _vectors(genres_V: Int64s, num_genres: int, draw: np.random.Generator) -> Floats64:
    """Unit vectors, near to those of the same genre."""
    centres_GD = draw.standard_normal((num_genres, 16))
    vectors_VD = centres_GD[genres_V] + draw.standard_normal((len(genres_V), 16))
    unit_VD: Floats64 = vectors_VD / np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    return unit_VD


@njit(cache=True, nogil=True)
def _choose(
    first_U1: Int64s,
    times_S: Int64s,
    moods_S: Int64s,
    genres_V: Int64s,
    popularity_V: Floats64,
    vectors_VD: Floats64,
    memory: Floats64,
    shares: Floats64,
    chances_SK2: Floats64,
    tracks_SK: Int32s,
    repeats_SK: Bools,
) -> None:
    """Fill sessions slot by slot; all chance is in ``chances_SK2``: repeat or not, and which."""
    num_tracks, (decay, base, spreading, matching) = len(genres_V), memory
    heard_V, played_V = np.zeros(num_tracks, np.bool_), np.zeros(num_tracks, np.bool_)
    odds_V = np.zeros(num_tracks)
    for user in range(len(first_U1) - 1):
        heard_V[:] = False
        begin = first_U1[user]
        for session in range(begin, first_U1[user + 1]):
            repeat_V = _repeat_odds(begin, session, times_S, tracks_SK, vectors_VD, decay, base, spreading, matching)
            played_V[:] = False
            for k in range(tracks_SK.shape[1]):
                repeats = session > begin and chances_SK2[session, k, 0] < shares[0]
                if repeats:
                    odds_V[:] = repeat_V
                else:
                    _explore_odds(popularity_V, heard_V | played_V, genres_V == moods_S[session], shares[1], odds_V)
                odds_V[played_V] = 0.0
                track = _drawn(odds_V, chances_SK2[session, k, 1])
                played_V[track] = True
                tracks_SK[session, k], repeats_SK[session, k] = track, repeats
            for k in range(tracks_SK.shape[1]):
                heard_V[tracks_SK[session, k]] = True


@njit(cache=True, nogil=True)
def _explore_odds(popularity_V: Floats64, not_V: Bools, mood_V: Bools, mood_share: float, odds_V: Floats64) -> None:
    """Popularity among tracks that may be explored, ``mood_share`` of it within the mood while that has any."""
    odds_V[:] = popularity_V
    odds_V[not_V] = 0.0
    within = odds_V[mood_V].sum()
    without = odds_V.sum() - within
    for v in range(len(odds_V)):
        if mood_V[v]:
            odds_V[v] *= mood_share * without
        else:
            odds_V[v] *= (1 - mood_share) * within if within > 0 else 1.0


@njit(cache=True, nogil=True)
def _repeat_odds(
    begin: int,
    session: int,
    times_S: Int64s,
    tracks_SK: Int32s,
    vectors_VD: Floats64,
    decay: float,
    base: float,
    spreading: float,
    matching: float,
) -> Floats64:
    """exp(w·x) of each track of the history, 0 of others."""
    sums_V, together_V = np.zeros(len(vectors_VD)), np.zeros(len(vectors_VD))
    context_V = np.zeros(len(vectors_VD), np.bool_)
    centre_D = np.zeros(vectors_VD.shape[1])
    if session > begin:
        for track in tracks_SK[session - 1]:
            context_V[track] = True
            centre_D += vectors_VD[track]
    for earlier in range(begin, session):
        age = max(times_S[session] - times_S[earlier], 1) ** -decay
        shared = 0.0
        for track in tracks_SK[earlier]:
            shared += context_V[track]
        for track in tracks_SK[earlier]:
            sums_V[track] += age
            together_V[track] += shared - context_V[track]
    for v in range(len(sums_V)):
        if sums_V[v] > 0:
            cosine = (vectors_VD[v] * centre_D).sum()
            sums_V[v] = sums_V[v] ** base * (1 + together_V[v]) ** spreading * np.exp(matching * cosine)
    return sums_V


@njit(cache=True, nogil=True)
def _drawn(odds_V: Floats64, chance: float) -> int:
    """A track with probability ∝ its odds."""
    left = chance * odds_V.sum()
    last = 0
    for v in range(len(odds_V)):
        if odds_V[v] > 0:
            last = v
            left -= odds_V[v]
            if left < 0:
                break
    return last
