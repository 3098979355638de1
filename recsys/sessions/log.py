"""Sessions of users, side by side: what every model of sessions learns from and is judged on.

Shape suffixes: U users, S sessions, K tracks a session, V tracks of the catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.fields import AtLeast

TRAIN, VALID, TEST = 0, 1, 2
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SessionLog:
    """Sessions of distinct tracks, users one after the other, each one's in time order.

    User u has the sessions ``first_U1[u]`` to ``first_U1[u + 1]``. A session has one time, that of its first play;
    ``tracks_SK`` are places in ``track_ids``, in the order played, -1 where a session is shorter.
    """

    first_U1: Int64s
    times_S: Int64s  # seconds since 1970
    tracks_SK: Int32s
    parts_S: npt.NDArray[np.int8]  # TRAIN, VALID or TEST
    user_ids: Sequence[int | str]
    track_ids: Sequence[int | str]

    def __post_init__(self) -> None:
        if (np.diff(self.times_S)[np.diff(self.users_S) == 0] < 0).any():
            raise DataError("sessions of a user are not in time order; sort plays before sessions are made of them")

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.first_U1) - 1

    @property
    def num_tracks(self) -> int:
        """V."""
        return len(self.track_ids)

    @property
    def users_S(self) -> Int64s:
        """Whose each session is."""
        return np.repeat(np.arange(self.num_users), np.diff(self.first_U1))

    @property
    def begins_S(self) -> Int64s:
        """The first session of each session's user: those from there up to a session are what came before it."""
        return np.repeat(self.first_U1[:-1], np.diff(self.first_U1))

    def sessions_of(self, part: int) -> Int64s:
        """The sessions of a part of the split, in order."""
        return np.flatnonzero(self.parts_S == part)

    def play_counts(self, *parts: int) -> npt.NDArray[np.float64]:
        """How many sessions of some parts have each track: (V,)."""
        tracks_SK = self.tracks_SK[np.isin(self.parts_S, parts)]
        return np.bincount(tracks_SK[tracks_SK >= 0], minlength=self.num_tracks).astype(np.float64)

    def held(self, *parts: int) -> npt.NDArray[np.bool_]:
        """Which user has which track in the sessions of some parts: (U, V)."""
        held_UV = np.zeros((self.num_users, self.num_tracks), np.bool_)
        chosen_S = np.isin(self.parts_S, parts)
        tracks_SK = self.tracks_SK[chosen_S]
        users_SK = np.broadcast_to(self.users_S[chosen_S][:, None], tracks_SK.shape)
        held_UV[users_SK[tracks_SK >= 0], tracks_SK[tracks_SK >= 0]] = True
        return held_UV


@dataclass(frozen=True, kw_only=True)
class UserSplit:
    """Each user's last sessions are tested on, those before them choose the model, the rest is learned from.

    A user's first session is learned from in any case: nothing is known that it could be told from.
    """

    valid: Annotated[int, AtLeast(0)] = 5
    test: Annotated[int, AtLeast(1)] = 10

    def parts(self, first_U1: Int64s) -> npt.NDArray[np.int8]:
        """The part of each session.

        >>> UserSplit(valid=1, test=2).parts(np.array([0, 5, 6])).tolist()
        [0, 0, 1, 2, 2, 0]
        """
        counts_U = np.diff(first_U1)
        from_end_S = np.repeat(first_U1[1:], counts_U) - np.arange(first_U1[-1])
        held_out_S = np.where(from_end_S <= self.valid + self.test, VALID, TRAIN)
        parts_S = np.where(from_end_S <= self.test, TEST, held_out_S).astype(np.int8)
        parts_S[first_U1[:-1][counts_U > 0]] = TRAIN
        return parts_S
