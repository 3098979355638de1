"""How good recommendations of sessions are: all tracks ranked, the history not filtered, by user, then over users.

NDCG@k (binary, ideal min(k, |R|)) and recall over a session's tracks R, over those that the user has in their training
sessions (repeat) and those that they have not (explore); a session without such tracks is left out of that figure. By
training sessions alone, a track first heard in a held-out session is explored for ever after: ``ndcg_heard``,
``ndcg_new`` and ``heard_bias`` are the same by all that was heard before a session opens. ``repeat_share`` is the part
of a list that is in the user's training sessions, ``repeat_bias`` that minus the part of R which is; ``popularity`` the
mean share of users who have a listed track in training. PISA, section 4.2.

Shape suffixes: Q sessions, V tracks, R places of a list, K tracks a session, U users.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError
from recsys.models.sessions.lists import top_tracks
from recsys.models.sessions.questions import Questions, SessionRecommender, before
from recsys.sessions.log import TRAIN, Int64s, SessionLog

Values = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
METRICS = (
    "ndcg", "recall", "ndcg_repeat", "recall_repeat", "ndcg_explore", "recall_explore", "repeat_share", "repeat_bias",
    "popularity", "ndcg_heard", "ndcg_new", "heard_bias",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """Each user's figures, the mean over their sessions; nan where they have none."""

    users_U: Int64s
    values: Mapping[str, Values]

    def mean(self, metric: str) -> float:
        """Over users."""
        values_U = self.values[metric]
        return float(np.nanmean(values_U)) if np.isfinite(values_U).any() else float("nan")

    def summary(self, num_cohorts: int, seed: int) -> dict[str, dict[str, float]]:
        """By metric: the mean over all users, and the spread (standard deviation) of the means of random cohorts."""
        if not 1 <= num_cohorts <= len(self.users_U):
            raise ConfigError(f"cohorts={num_cohorts} of {len(self.users_U)} users; give 1 to that many")
        cohort_U = np.random.default_rng(seed).permutation(len(self.users_U)) % num_cohorts
        return {metric: self._figures(values_U, cohort_U, num_cohorts) for metric, values_U in self.values.items()}

    def _figures(self, values_U: Values, cohort_U: Int64s, num_cohorts: int) -> dict[str, float]:
        parts = [values_U[cohort_U == cohort] for cohort in range(num_cohorts)]
        means = [float(np.nanmean(part)) for part in parts if np.isfinite(part).any()]
        whole = float(np.nanmean(values_U)) if means else float("nan")
        return {"mean": whole, "std": float(np.std(means)) if means else float("nan")}


def judge(recommender: SessionRecommender, log: SessionLog, part: int, *, k: int = 10, batch_size: int = 256) -> Judged:
    """Judge on the sessions of a part, each asked as it opens; DataError where there are none, or a score is NaN."""
    sessions_Q = log.sessions_of(part)
    if not len(sessions_Q):
        raise DataError("no session to judge by; raise plays.rules.split, or give users more sessions")
    popularity_V = _popularity(log)
    found: dict[str, list[Values]] = {metric: [] for metric in METRICS}
    for start in range(0, len(sessions_Q), batch_size):
        chosen_Q = sessions_Q[start : start + batch_size]
        questions = before(log, chosen_Q)
        top_QR = top_tracks(recommender.scores(questions), k)
        known_QV, heard_QV = _known(log, questions.users_Q), _heard(log, questions)
        for metric, values_Q in _measured(top_QR, log.tracks_SK[chosen_Q], known_QV, heard_QV, popularity_V, k).items():
            found[metric].append(values_Q)
    users_Q = log.users_S[sessions_Q]
    return _by_user(users_Q, {metric: np.concatenate(parts) for metric, parts in found.items()})


def _measured(
    top_QR: Int64s, tracks_QK: npt.NDArray[np.int32], known_QV: Bools, heard_QV: Bools, popularity_V: Values, k: int
) -> dict[str, Values]:
    wanted_QK = tracks_QK >= 0
    rows_Q1 = np.arange(len(tracks_QK))[:, None]
    repeats_QK, again_QK = (of_QV[rows_Q1, np.maximum(tracks_QK, 0)] & wanted_QK for of_QV in (known_QV, heard_QV))
    share_Q, true_share_Q = _shares(known_QV[rows_Q1, top_QR], repeats_QK, wanted_QK)
    heard_share_Q, true_heard_Q = _shares(heard_QV[rows_Q1, top_QR], again_QK, wanted_QK)
    ndcg, recall = _ranked(top_QR, tracks_QK, wanted_QK, k)
    ndcg_repeat, recall_repeat = _ranked(top_QR, tracks_QK, repeats_QK, k)
    ndcg_explore, recall_explore = _ranked(top_QR, tracks_QK, wanted_QK & ~repeats_QK, k)
    return {
        "ndcg": ndcg,
        "recall": recall,
        "ndcg_repeat": ndcg_repeat,
        "recall_repeat": recall_repeat,
        "ndcg_explore": ndcg_explore,
        "recall_explore": recall_explore,
        "repeat_share": share_Q,
        "repeat_bias": share_Q - true_share_Q,
        "popularity": popularity_V[top_QR].mean(axis=1),
        "ndcg_heard": _ranked(top_QR, tracks_QK, again_QK, k)[0],
        "ndcg_new": _ranked(top_QR, tracks_QK, wanted_QK & ~again_QK, k)[0],
        "heard_bias": heard_share_Q - true_heard_Q,
    }


def _shares(listed_QR: Bools, of_QK: Bools, wanted_QK: Bools) -> tuple[Values, Values]:
    """The part of a list, and of the wanted tracks, that a user knows."""
    return listed_QR.mean(axis=1), of_QK.sum(axis=1) / np.maximum(wanted_QK.sum(axis=1), 1)


def _ranked(top_QR: Int64s, tracks_QK: npt.NDArray[np.int32], wanted_QK: Bools, k: int) -> tuple[Values, Values]:
    """NDCG and recall of lists over the wanted tracks; nan where none is wanted."""
    hits_QR = ((top_QR[:, :, None] == tracks_QK[:, None, :]) & wanted_QK[:, None, :]).any(axis=2)
    gains_R = 1 / np.log2(2 + np.arange(max(k, tracks_QK.shape[1])))
    number_Q = wanted_QK.sum(axis=1)
    ideal_Q = np.cumsum(gains_R)[np.minimum(np.maximum(number_Q, 1), k) - 1]
    none_Q = np.where(number_Q > 0, 1.0, np.nan)
    ndcg_Q = none_Q * (hits_QR * gains_R[: top_QR.shape[1]]).sum(axis=1) / ideal_Q
    return ndcg_Q, none_Q * hits_QR.sum(axis=1) / np.maximum(number_Q, 1)


def _known(log: SessionLog, users_Q: Int64s) -> Bools:
    """Whether a user has a track in their training sessions: (Q, V)."""
    known_QV = np.zeros((len(users_Q), log.num_tracks), np.bool_)
    for row_V, user in zip(known_QV, users_Q, strict=True):
        chosen = slice(log.first_U1[user], log.first_U1[user + 1])
        tracks = log.tracks_SK[chosen][log.parts_S[chosen] == TRAIN]
        row_V[tracks[tracks >= 0]] = True
    return known_QV


def _heard(log: SessionLog, questions: Questions) -> Bools:
    """Whether a user has heard a track before they are asked: (Q, V)."""
    heard_QV = np.zeros((len(questions), log.num_tracks), np.bool_)
    for row_V, begin, end in zip(heard_QV, questions.begins_Q, questions.ends_Q, strict=True):
        tracks = log.tracks_SK[begin:end]
        row_V[tracks[tracks >= 0]] = True
    return heard_QV


def _popularity(log: SessionLog) -> Values:
    """The share of users who have a track in their training sessions."""
    listeners_V = np.zeros(log.num_tracks)
    for user in range(log.num_users):
        chosen = slice(log.first_U1[user], log.first_U1[user + 1])
        tracks = log.tracks_SK[chosen][log.parts_S[chosen] == TRAIN]
        listeners_V[np.unique(tracks[tracks >= 0])] += 1
    return listeners_V / log.num_users


def _by_user(users_Q: Int64s, values: Mapping[str, Values]) -> Judged:
    users_U, place_Q = np.unique(users_Q, return_inverse=True)

    def mean_of(values_Q: Values) -> Values:
        there_Q = np.isfinite(values_Q)
        sums_U = np.bincount(place_Q[there_Q], values_Q[there_Q], len(users_U))
        counts_U = np.bincount(place_Q[there_Q], minlength=len(users_U))
        return np.where(counts_U > 0, sums_U / np.maximum(counts_U, 1), np.nan)

    return Judged(users_U, {metric: mean_of(values_Q) for metric, values_Q in values.items()})
