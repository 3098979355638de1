"""The loops of ``likelihood``: over sessions, the history before each, and what was repeated.

Shape suffixes: S sessions of one user, K tracks a session, V tracks, N tracks of a history, D width, Q questions.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.sessions.log import Int32s, Int64s

Floats64 = npt.NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def _features(
    begin: int,
    end: int,
    time: int,
    times_S: Int64s,
    tracks_SK: Int32s,
    values: Floats64,
    min_age: float,
    vectors_VD: Floats64,
    own_N: Int64s,
    sums_N: Floats64,
    slopes_N: Floats64,
    together_N: Floats64,
    matches_N: Floats64,
    place_V: Int64s,
) -> int:
    """S, -dS/dd, cooc and PM of each track of a history; how many they are. ``place_V`` is where each is, or -1."""
    num_known = 0
    centre_D = np.zeros(vectors_VD.shape[1])
    for session in range(begin, end):
        shared = 0.0
        for track in tracks_SK[session]:
            if track >= 0:
                shared += _holds(tracks_SK[end - 1], track)
        age = max(float(time - times_S[session]), min_age)
        power = age ** -values[0]
        for track in tracks_SK[session]:
            if track < 0:
                continue
            if place_V[track] < 0:
                place_V[track], own_N[num_known] = num_known, track
                sums_N[num_known] = slopes_N[num_known] = together_N[num_known] = 0.0
                num_known += 1
            at = place_V[track]
            sums_N[at] += power
            slopes_N[at] += power * np.log(age)
            together_N[at] += shared - _holds(tracks_SK[end - 1], track)
    if end > begin:
        for track in tracks_SK[end - 1]:
            if track >= 0:
                centre_D += vectors_VD[track]
    for at in range(num_known):
        matches_N[at] = (vectors_VD[own_N[at]] * centre_D).sum()
    return num_known


@njit(cache=True, inline="always")
def _holds(tracks_K: Int32s, track: int) -> float:
    """1 where a session has a track, else 0."""
    for other in tracks_K:
        if other == track:
            return 1.0
    return 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def choices_of_user(
    times_S: Int64s,
    tracks_SK: Int32s,
    values: Floats64,
    min_age: float,
    vectors_VD: Floats64,
    gradient: Floats64,
    information: Floats64,
    total: Floats64,
) -> None:
    """Add a user's repeats: log-likelihood and number to ``total``, its gradient, and the Fisher information."""
    size, num_tracks = tracks_SK.size, len(vectors_VD)
    own_N, place_V = np.zeros(size, np.int64), np.full(num_tracks, -1, np.int64)
    sums_N, slopes_N, together_N, matches_N = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    odds_N, slopes_N4 = np.zeros(size), np.zeros((size, 4))
    for session in range(1, len(times_S)):
        num_known = _features(
            0, session, times_S[session], times_S, tracks_SK, values, min_age, vectors_VD, own_N, sums_N, slopes_N,
            together_N, matches_N, place_V,
        )  # fmt: skip
        sum_0, sum_4, sum_44, largest = 0.0, np.zeros(4), np.zeros((4, 4)), -np.inf
        for at in range(num_known):
            slopes_N4[at, 0] = -values[1] * slopes_N[at] / sums_N[at]
            slopes_N4[at, 1] = np.log(sums_N[at])
            slopes_N4[at, 2] = np.log(1 + together_N[at])
            slopes_N4[at, 3] = matches_N[at]
            odds_N[at] = (values[1:] * slopes_N4[at, 1:]).sum()
            largest = max(largest, odds_N[at])
        for at in range(num_known):
            odds_N[at] = np.exp(odds_N[at] - largest)
            sum_0 += odds_N[at]
            _add(odds_N[at], slopes_N4[at], sum_4, sum_44)
        for track in tracks_SK[session]:
            at = place_V[track] if track >= 0 else -1
            if at < 0:
                continue
            if sum_0 > odds_N[at]:  # else it is the only one left: no choice
                total[0] += np.log(odds_N[at] / sum_0)
                total[1] += 1
                for a in range(4):
                    gradient[a] += slopes_N4[at, a] - sum_4[a] / sum_0
                    for b in range(4):
                        information[a, b] += sum_44[a, b] / sum_0 - sum_4[a] * sum_4[b] / sum_0**2
            sum_0 -= odds_N[at]
            _add(-odds_N[at], slopes_N4[at], sum_4, sum_44)
        for at in range(num_known):
            place_V[own_N[at]] = -1


@njit(cache=True, inline="always")
def _add(weight: float, slopes_4: Floats64, sum_4: Floats64, sum_44: Floats64) -> None:
    """Add a weighted vector, and its square."""
    for a in range(4):
        sum_4[a] += weight * slopes_4[a]
        for b in range(4):
            sum_44[a, b] += weight * slopes_4[a] * slopes_4[b]


@njit(cache=True, nogil=True, error_model="numpy")
def odds(
    begins_Q: Int64s,
    ends_Q: Int64s,
    times_Q: Int64s,
    times_S: Int64s,
    tracks_SK: Int32s,
    values: Floats64,
    min_age: float,
    vectors_VD: Floats64,
    found_QV: Floats64,
) -> None:
    """exp(w·x) of each track of the histories."""
    place_V = np.full(len(vectors_VD), -1, np.int64)
    for question in range(len(ends_Q)):
        begin, end = begins_Q[question], ends_Q[question]
        size = max((end - begin) * tracks_SK.shape[1], 1)
        own_N = np.zeros(size, np.int64)
        sums_N, slopes_N, together_N, matches_N = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
        num_known = _features(
            begin, end, times_Q[question], times_S, tracks_SK, values, min_age, vectors_VD, own_N, sums_N, slopes_N,
            together_N, matches_N, place_V,
        )  # fmt: skip
        for at in range(num_known):
            weighted = values[2] * np.log(1 + together_N[at]) + values[3] * matches_N[at]
            found_QV[question, own_N[at]] = sums_N[at] ** values[1] * np.exp(weighted)
            place_V[own_N[at]] = -1
