"""Recommenders without gradients: what is popular, what this user plays, what ACT-R remembers, and whom one resembles.

Shape suffixes: Q questions, U users, V tracks.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from recsys.fields import Above, AtLeast, Between
from recsys.hashing import Floats
from recsys.models.sessions.actr import Memory, sums_between
from recsys.models.sessions.likelihood import Choice, choice_odds_between, fit_choice
from recsys.models.sessions.questions import Questions, as_of_test, popular_to_new
from recsys.sessions.log import TRAIN, SessionLog

Count = Annotated[int, AtLeast(1)]
Share = Annotated[float, Between(0, 1)]


class GlobalTop:
    """The tracks of the most training sessions, for everyone."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["global_top"] = "global_top"

    def __init__(self, config: Config, log: SessionLog) -> None:
        self._counts_V = log.play_counts(TRAIN).astype(np.float32)

    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender."""
        return np.tile(self._counts_V, (len(questions), 1))


class PersonalTop:
    """What this user has played in the most sessions so far: base levels without decay."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["personal_top"] = "personal_top"

    def __init__(self, config: Config, log: SessionLog) -> None:
        self._log = log

    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender."""
        asked = questions.begins_Q, questions.ends_Q, questions.times_Q
        counts_QV = sums_between(self._log, *asked, Memory(decay=0)).astype(np.float32)
        return popular_to_new(self._log, questions, counts_QV)


class ActR:
    """What this user has played, by its base level as they come (``live``), or as of their first test session.

    ``fit`` takes the decay that the training sessions make most likely in place of the memory's.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["actr"] = "actr"
        memory: Memory
        live: bool = True
        fit: bool = False
        spreading: Annotated[float, AtLeast(0)] = 0.0

    def __init__(self, config: Config, log: SessionLog) -> None:
        self._config, self._log = config, log
        self._choice = Choice(decay=config.memory.decay, spreading=config.spreading)
        if config.fit:
            free = ("decay", "spreading") if config.spreading else ("decay",)
            least = config.memory.min_age_seconds
            self._choice = fit_choice(log, free=free, start=self._choice, min_age_seconds=least).choice  # type: ignore[arg-type]

    @property
    def decay(self) -> float:
        """The decay in use."""
        return self._choice.decay

    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender."""
        if not self._config.live:
            questions = as_of_test(self._log, questions)
        asked = questions.begins_Q, questions.ends_Q, questions.times_Q
        memory = self._config.memory
        if self._choice.spreading:
            odds_QV = choice_odds_between(self._log, *asked, self._choice, memory.min_age_seconds)
            return popular_to_new(self._log, questions, odds_QV.astype(np.float32))
        known = Memory(decay=self.decay, min_age_seconds=memory.min_age_seconds, keep_plays=memory.keep_plays)
        return popular_to_new(self._log, questions, sums_between(self._log, *asked, known).astype(np.float32))


class UPCF:
    """User popularity and neighbours (Faggioli et al. 2020): Σ_w sim(u, w)^locality · pop_w, recency-aware.

    pop_w(v) is the share of w's last ``last_sessions`` that have v, sim the asymmetric cosine
    |A ∩ B| / (|A|^α |B|^(1-α)) of the tracks of two users, α being ``asymmetry``. Neighbours are known by their
    training sessions, the user by all before.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["up_cf"] = "up_cf"
        last_sessions: Count = 10
        locality: Annotated[float, Above(0)] = 10.0
        asymmetry: Share = 0.5

    def __init__(self, config: Config, log: SessionLog) -> None:
        self._config, self._log = config, log
        ends_U = log.first_U1[:-1] + _num_training(log)
        self._held_UV = _counted(log, log.first_U1[:-1], ends_U) > 0
        self._popular_UV = self._popularity(log.first_U1[:-1], ends_U)

    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender."""
        held_QV = _counted(self._log, questions.begins_Q, questions.ends_Q) > 0
        common_QU = held_QV.astype(np.float32) @ self._held_UV.T.astype(np.float32)
        sizes_Q, sizes_U = held_QV.sum(axis=1), self._held_UV.sum(axis=1)
        scale_QU = np.maximum(sizes_Q, 1)[:, None] ** self._config.asymmetry
        scale_QU = scale_QU * np.maximum(sizes_U, 1) ** (1 - self._config.asymmetry)
        alike_QU = ((common_QU / scale_QU) ** self._config.locality).astype(np.float32)
        alike_QU[np.arange(len(questions)), questions.users_Q] = 0
        own_QV = self._popularity(questions.begins_Q, questions.ends_Q)
        return popular_to_new(self._log, questions, alike_QU @ self._popular_UV + own_QV)

    def _popularity(self, begins_Q: np.ndarray, ends_Q: np.ndarray) -> Floats:
        last_Q = np.maximum(begins_Q, ends_Q - self._config.last_sessions)
        return _counted(self._log, last_Q, ends_Q) / np.maximum(ends_Q - last_Q, 1)[:, None].astype(np.float32)


class TIFUKNN:
    """Frequencies that fade, and those of the nearest users (Hu et al. 2020, TIFU-KNN).

    A user's sessions, from the last back, are in groups of ``group_size``; a session fades by ``within`` a group, a
    group by ``between``. The answer is ``own`` of that vector and the rest of the mean of the ``neighbours`` nearest
    training vectors (Euclid).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["tifu_knn"] = "tifu_knn"
        neighbours: Count = 100
        own: Share = 0.7
        group_size: Count = 7
        within: Share = 0.9
        between: Share = 0.7

    def __init__(self, config: Config, log: SessionLog) -> None:
        self._config, self._log = config, log
        begins_U = log.first_U1[:-1]
        self._vectors_UV = self._vectors(begins_U, begins_U + _num_training(log))

    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender."""
        own_QV = self._vectors(questions.begins_Q, questions.ends_Q)
        squares_U = (self._vectors_UV**2).sum(axis=1)
        far_QU = squares_U - 2 * own_QV @ self._vectors_UV.T  # less the square of the asker, which is the same for all
        far_QU[np.arange(len(questions)), questions.users_Q] = np.inf
        number = min(self._config.neighbours, max(len(squares_U) - 1, 1))
        nearest_QN = np.argpartition(far_QU, number - 1, axis=1)[:, :number]
        others_QV = np.stack([self._vectors_UV[nearest_N].mean(axis=0) for nearest_N in nearest_QN])
        found_QV = self._config.own * own_QV + (1 - self._config.own) * others_QV
        return popular_to_new(self._log, questions, found_QV.astype(np.float32))

    def _vectors(self, begins_Q: np.ndarray, ends_Q: np.ndarray) -> Floats:
        said, found_QV = self._config, np.zeros((len(ends_Q), self._log.num_tracks), np.float32)
        for row_V, begin, end in zip(found_QV, begins_Q, ends_Q, strict=True):
            ages_S = end - 1 - np.arange(begin, end)
            groups_S, places_S = ages_S // said.group_size, ages_S % said.group_size
            sizes_S = np.minimum(said.group_size, (end - begin) - groups_S * said.group_size)
            weights_S = said.within**places_S / sizes_S * said.between**groups_S / max(1, groups_S.max(initial=0) + 1)
            tracks_SK = self._log.tracks_SK[begin:end]
            weights_SK = np.broadcast_to(weights_S[:, None], tracks_SK.shape)
            np.add.at(row_V, tracks_SK[tracks_SK >= 0], weights_SK[tracks_SK >= 0])
        return found_QV


def _num_training(log: SessionLog) -> np.ndarray:
    """Training sessions of each user; they come first."""
    return np.bincount(log.users_S[log.parts_S == TRAIN], minlength=log.num_users)


def _counted(log: SessionLog, begins_Q: np.ndarray, ends_Q: np.ndarray) -> Floats:
    """In how many sessions of a range each track is: (Q, V)."""
    return sums_between(log, begins_Q, ends_Q, np.zeros_like(ends_Q), Memory(decay=0)).astype(np.float32)
