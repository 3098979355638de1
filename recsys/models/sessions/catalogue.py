"""What a trained recommender of sessions must know of the log that it learned, beside its rows and parameters.

It goes with a run's checkpoints and publications as one safetensors file: the ids of tracks, in how many training
sessions each is, how long sessions are, and which tracks are together (the spreading of PISA).

Shape suffixes: V tracks, P pairs of tracks, K tracks a session.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from recsys.errors import DataError
from recsys.models.sessions.actr import Cooccurrence
from recsys.models.sessions.learned import SessionModel
from recsys.sessions.log import TRAIN, SessionLog, UserSplit
from recsys.sessions.plays import Play, plays_of
from recsys.sessions.sessioniser import SessionRules, sessionise

_ids = msgspec.json.Decoder(list[int | str])


@dataclass(frozen=True)
class Catalogue:
    """The tracks that can be recommended, in the order of their rows."""

    track_ids: Sequence[int | str]
    counts_V: npt.NDArray[np.float64]
    tracks_per_session: int
    together: Cooccurrence | None

    @classmethod
    def of(cls, log: SessionLog, model: SessionModel) -> "Catalogue":
        """That of a log and of a model that learns of it."""
        return cls(log.track_ids, log.play_counts(TRAIN), log.tracks_SK.shape[1], model.together)

    @cached_property
    def _place_of(self) -> dict[int | str, int]:
        return {id_: at for at, id_ in enumerate(self.track_ids)}

    def popular(self, k: int) -> list[int | str]:
        """The tracks of the most training sessions; of equal ones, the first."""
        return [self.track_ids[at] for at in np.argsort(-self.counts_V, kind="stable")[:k]]

    def nobody(self) -> SessionLog:
        """A log of no user over these tracks: what a model is built over that only answers."""
        return self._log(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty((0, self.tracks_per_session), np.int32))

    def history(self, heard: Sequence[tuple[int, int | str]], gap_seconds: float) -> SessionLog:
        """The sessions of one user who played tracks at times (seconds): what the same plays are in a log.

        Sessions may be shorter than those that were learned. Tracks that are not in the catalogue are left out before
        sessions are made, as those of too few listeners are; ``nobody`` where none is left.
        """
        known = [Play(user=0, track=track, time_ms=1000 * time) for time, track in heard if track in self._place_of]
        if not known:
            return self.nobody()
        rules = SessionRules(
            gap_seconds=gap_seconds, min_tracks=1, max_tracks=self.tracks_per_session, split=UserSplit()
        )
        log, _ = sessionise(plays_of(known), rules)
        places_N = np.array([*(self._place_of[id_] for id_ in log.track_ids), -1], np.int32)
        return self._log(log.first_U1, log.times_S, places_N[log.tracks_SK])

    def _log(
        self, first_U1: npt.NDArray[np.int64], times_S: npt.NDArray[np.int64], tracks_SK: npt.NDArray[np.int32]
    ) -> SessionLog:
        parts_S = np.full(len(times_S), TRAIN, np.int8)
        return SessionLog(first_U1, times_S, tracks_SK, parts_S, range(len(first_U1) - 1), self.track_ids)

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        keys_P, strengths_P = nothing if self.together is None else self.together.pairs()
        return save(
            {
                "counts": self.counts_V,
                "pairs": keys_P,
                "strengths": strengths_P,
                "tracks_per_session": np.array([self.tracks_per_session, self.together is not None], np.int64),
                "ids": np.frombuffer(msgspec.json.encode(list(self.track_ids)), np.uint8),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Catalogue":
        """What ``to_bytes`` was given; DataError for what is none."""
        try:
            said = load(data)
            track_ids = _ids.decode(said["ids"].tobytes())
            tracks_per_session, has_pairs = said["tracks_per_session"].tolist()
        except (SafetensorError, KeyError, ValueError, msgspec.DecodeError) as error:
            raise DataError(f"the catalogue of a run of jobs.session can not be read ({error}); train again") from error
        pairs = Cooccurrence.of_pairs(said["pairs"], said["strengths"], len(track_ids)) if has_pairs else None
        return cls(track_ids, said["counts"], tracks_per_session, pairs)
