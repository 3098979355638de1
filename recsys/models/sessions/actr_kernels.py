"""The loops of ``actr``: over users, their sessions, the sessions before each, and pairs of tracks.

Shape suffixes: U users, S sessions, K tracks a session, V tracks, Q questions, T top tracks, H slots of a hash map.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.hashing import Floats
from recsys.rows.intrinsics import prefetch
from recsys.sessions.log import Int32s, Int64s

Floats64 = npt.NDArray[np.float64]

_EMPTY = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, inline="always")
def _power(age: float, decay: float) -> float:
    """age^-decay; the usual one by the quicker root."""
    return 1 / np.sqrt(age) if decay == 0.5 else age**-decay


@njit(cache=True, nogil=True, error_model="numpy")
def spread_sum(num_plays: float, nearest: float, oldest: float, decay: float) -> float:
    """Σ age^-decay of plays spread evenly between two ages."""
    if num_plays <= 0:
        return 0.0
    if oldest <= nearest:
        return num_plays * nearest**-decay
    if decay == 1.0:
        return num_plays * np.log(oldest / nearest) / (oldest - nearest)
    rest = 1 - decay
    return num_plays * (oldest**rest - nearest**rest) / (rest * (oldest - nearest))


@njit(cache=True, nogil=True, error_model="numpy")
def sums(
    begins_Q: Int64s,
    ends_Q: Int64s,
    times_Q: Int64s,
    times_S: Int64s,
    tracks_SK: Int32s,
    decay: float,
    min_age: float,
    sums_QV: Floats64,
) -> None:
    """Add each session's age^-decay to its tracks."""
    for question in range(len(ends_Q)):
        for session in range(begins_Q[question], ends_Q[question]):
            power = _power(max(float(times_Q[question] - times_S[session]), min_age), decay)
            for track in tracks_SK[session]:
                if track >= 0:
                    sums_QV[question, track] += power


@njit(cache=True, nogil=True, error_model="numpy")
def bounded_sums(
    begins_Q: Int64s,
    ends_Q: Int64s,
    times_Q: Int64s,
    times_S: Int64s,
    tracks_SK: Int32s,
    decay: float,
    min_age: float,
    keep: int,
    sums_QV: Floats64,
) -> None:
    """The same of the last ``keep`` plays; those before by number and the age of the oldest. From the latest back."""
    num_tracks = sums_QV.shape[1]
    counts_V, nearest_V, oldest_V = np.zeros(num_tracks, np.int64), np.zeros(num_tracks), np.zeros(num_tracks)
    for question in range(len(ends_Q)):
        counts_V[:] = 0
        for session in range(ends_Q[question] - 1, begins_Q[question] - 1, -1):
            age = max(float(times_Q[question] - times_S[session]), min_age)
            for track in tracks_SK[session]:
                if track >= 0:
                    counts_V[track] += 1
                    oldest_V[track] = age
                    if counts_V[track] <= keep:
                        nearest_V[track] = age
                        sums_QV[question, track] += _power(age, decay)
        for track in range(num_tracks):
            if counts_V[track] > keep:
                forgotten = float(counts_V[track] - keep)
                sums_QV[question, track] += spread_sum(forgotten, nearest_V[track], oldest_V[track], decay)


@njit(cache=True, nogil=True, error_model="numpy")
def session_levels(
    first_U1: Int64s,
    num_tracks: int,
    times_S: Int64s,
    tracks_SK: Int32s,
    decay: float,
    min_age: float,
    keep: int,
    by_log: bool,
    levels_SK: Floats,
    top_ST: Int32s,
    top_levels_ST: Floats,
) -> None:
    """Base levels of each session's tracks before it. A user's tracks are numbered from 0, so that sums stay near.

    ``keep`` remembers the last so many plays of a track and their number; 0 remembers all.
    """
    width = tracks_SK.shape[1]
    number_V = np.full(num_tracks, -1, np.int32)
    for user in range(len(first_U1) - 1):
        begin, end = first_U1[user], first_U1[user + 1]
        numbers_SK = np.full((end - begin, width), -1, np.int32)
        own_N = np.empty((end - begin) * width, np.int32)
        sums_N = np.zeros(len(own_N), np.float64)
        num_known = _numbered(tracks_SK[begin:end], number_V, numbers_SK, own_N)
        num_heard = 0
        for session in range(end - begin):
            sums_N[:num_heard] = 0.0
            known = times_S[begin : begin + session], numbers_SK, times_S[begin + session], decay, min_age
            total = _total(*known, keep, by_log, sums_N[:num_heard])
            for k in range(width):
                number = numbers_SK[session, k]
                if 0 <= number < num_heard:
                    levels_SK[begin + session, k] = sums_N[number] / total
            _top(sums_N, num_heard, total, own_N, top_ST[begin + session], top_levels_ST[begin + session])
            for k in range(width):
                num_heard = max(num_heard, numbers_SK[session, k] + 1)
        for number in range(num_known):
            number_V[own_N[number]] = -1


@njit(cache=True, nogil=True, error_model="numpy")
def question_levels(
    begins_Q: Int64s,
    ends_Q: Int64s,
    nows_Q: Int64s,
    num_tracks: int,
    times_S: Int64s,
    tracks_SK: Int32s,
    decay: float,
    min_age: float,
    keep: int,
    by_log: bool,
    wanted_QN: Int32s,
    levels_QN: Floats,
    top_QT: Int32s,
    top_levels_QT: Floats,
) -> None:
    """The same for questions: the levels of some tracks, and the top of the history, as each is asked."""
    number_V = np.full(num_tracks, -1, np.int32)
    for question in range(len(ends_Q)):
        begin, end = begins_Q[question], ends_Q[question]
        numbers_SK = np.full((end - begin, tracks_SK.shape[1]), -1, np.int32)
        own_N = np.empty((end - begin) * tracks_SK.shape[1], np.int32)
        num_heard = _numbered(tracks_SK[begin:end], number_V, numbers_SK, own_N)
        sums_N = np.zeros(num_heard, np.float64)
        total = _total(times_S[begin:end], numbers_SK, nows_Q[question], decay, min_age, keep, by_log, sums_N)
        for place in range(wanted_QN.shape[1]):
            track = wanted_QN[question, place]
            if track >= 0 and number_V[track] >= 0:
                levels_QN[question, place] = sums_N[number_V[track]] / total
        _top(sums_N, num_heard, total, own_N, top_QT[question], top_levels_QT[question])
        for number in range(num_heard):
            number_V[own_N[number]] = -1


@njit(cache=True, nogil=True, error_model="numpy")
def _total(
    times_S: Int64s,
    numbers_SK: Int32s,
    now: int,
    decay: float,
    min_age: float,
    keep: int,
    by_log: bool,
    sums_N: Floats64,
) -> float:
    """What a track's share of the base level is of; ``sums_N`` (zeros) becomes what each has."""
    if keep:
        total = _add_last(times_S, numbers_SK, now, decay, min_age, keep, sums_N)
    else:
        total = _add_all(times_S, numbers_SK, now, decay, min_age, sums_N)
    return total if by_log else _exponents(sums_N, len(sums_N))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_all(times_S: Int64s, numbers_SK: Int32s, now: int, decay: float, min_age: float, sums_N: Floats64) -> float:
    """Every session's age^-decay to its tracks; their sum."""
    total = 0.0
    for earlier in range(len(times_S)):
        power = _power(max(float(now - times_S[earlier]), min_age), decay)
        for k in range(numbers_SK.shape[1]):
            number = numbers_SK[earlier, k]
            if number >= 0:
                sums_N[number] += power
                total += power
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _add_last(
    times_S: Int64s, numbers_SK: Int32s, now: int, decay: float, min_age: float, keep: int, sums_N: Floats64
) -> float:
    """The same of the last ``keep`` plays of each track; those before by number and the age of the oldest."""
    total = 0.0
    counts_N, nearest_N, oldest_N = np.zeros(len(sums_N), np.int64), np.zeros(len(sums_N)), np.zeros(len(sums_N))
    for earlier in range(len(times_S) - 1, -1, -1):
        age = max(float(now - times_S[earlier]), min_age)
        power = _power(age, decay)
        for k in range(numbers_SK.shape[1]):
            number = numbers_SK[earlier, k]
            if number < 0:
                continue
            counts_N[number] += 1
            oldest_N[number] = age
            if counts_N[number] <= keep:
                nearest_N[number] = age
                sums_N[number] += power
                total += power
    for number in range(len(sums_N)):
        rest = spread_sum(float(counts_N[number] - keep), nearest_N[number], oldest_N[number], decay)
        sums_N[number] += rest
        total += rest
    return total


@njit(cache=True, nogil=True)
def _numbered(tracks_SK: Int32s, number_V: Int32s, numbers_SK: Int32s, own_N: Int32s) -> int:
    """Number a user's tracks in the order in which they are first heard; how many they are."""
    num_known = 0
    for session in range(len(tracks_SK)):
        for k in range(tracks_SK.shape[1]):
            track = tracks_SK[session, k]
            if track >= 0:
                if number_V[track] < 0:
                    number_V[track], own_N[num_known] = num_known, track
                    num_known += 1
                numbers_SK[session, k] = number_V[track]
    return num_known


@njit(cache=True, nogil=True)
def _exponents(sums_N: Floats64, num_heard: int) -> float:
    """exp(S - the largest) in place, and their sum."""
    largest, total = sums_N[:num_heard].max() if num_heard else 0.0, 0.0
    for number in range(num_heard):
        sums_N[number] = np.exp(sums_N[number] - largest)
        total += sums_N[number]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _top(sums_N: Floats64, num_heard: int, total: float, own_N: Int32s, top_T: Int32s, top_levels_T: Floats) -> None:
    """The tracks of the largest sums, the largest first; of equal ones, what was heard first."""
    num_top, filled = len(top_T), 0
    for number in range(num_heard if num_top else 0):
        share = np.float32(sums_N[number] / total)
        if filled == num_top and share <= top_levels_T[num_top - 1]:
            continue
        at = min(filled, num_top - 1)
        while at > 0 and top_levels_T[at - 1] < share:
            top_levels_T[at], top_T[at] = top_levels_T[at - 1], top_T[at - 1]
            at -= 1
        top_levels_T[at], top_T[at] = share, own_N[number]
        filled = min(filled + 1, num_top)


@njit(cache=True, inline="always")
def _home(key: int, num_slots: int) -> int:
    """Where a pair would be in an empty map, whose size is a power of two."""
    return np.int64((np.uint64(key) * _MIX) >> np.uint64(20)) & (num_slots - 1)


@njit(cache=True, inline="always")
def _slot(keys_H: Int64s, key: int) -> int:
    """Where a pair is, or would be, by linear probing."""
    slot = _home(key, len(keys_H))
    while keys_H[slot] != key and keys_H[slot] != _EMPTY:
        slot = (slot + 1) & (len(keys_H) - 1)
    return slot


@njit(cache=True, nogil=True)
def count_pairs(tracks_SK: Int32s, num_tracks: int) -> tuple[Int64s, Floats]:
    """In how many sessions two tracks are together, by low * V + high in a hash map."""
    keys_H, counts_H = np.full(1024, _EMPTY, np.int64), np.zeros(1024, np.float32)
    num_pairs = 0
    for session in range(len(tracks_SK)):
        for i in range(tracks_SK.shape[1]):
            for j in range(i):
                a, b = tracks_SK[session, i], tracks_SK[session, j]
                if a < 0 or b < 0 or a == b:
                    continue
                slot = _slot(keys_H, min(a, b) * np.int64(num_tracks) + max(a, b))
                if keys_H[slot] == _EMPTY:
                    keys_H[slot] = min(a, b) * np.int64(num_tracks) + max(a, b)
                    num_pairs += 1
                counts_H[slot] += 1
        if 2 * num_pairs + tracks_SK.shape[1] ** 2 > len(keys_H):
            keys_H, counts_H = _doubled(keys_H, counts_H)
    return keys_H, counts_H


@njit(cache=True, nogil=True)
def _doubled(keys_H: Int64s, counts_H: Floats) -> tuple[Int64s, Floats]:
    new_keys, new_counts = np.full(2 * len(keys_H), _EMPTY, np.int64), np.zeros(2 * len(keys_H), np.float32)
    for old in range(len(keys_H)):
        if keys_H[old] != _EMPTY:
            slot = _slot(new_keys, keys_H[old])
            new_keys[slot], new_counts[slot] = keys_H[old], counts_H[old]
    return new_keys, new_counts


@njit(cache=True, nogil=True)
def placed_pairs(keys_P: Int64s, strengths_P: Floats) -> tuple[Int64s, Floats]:
    """A hash map of pairs that are distinct, half of it free."""
    num_slots = 1024
    while num_slots < 2 * len(keys_P):
        num_slots *= 2
    keys_H, strengths_H = np.full(num_slots, _EMPTY, np.int64), np.zeros(num_slots, np.float32)
    for pair in range(len(keys_P)):
        slot = _slot(keys_H, keys_P[pair])
        keys_H[slot], strengths_H[slot] = keys_P[pair], strengths_P[pair]
    return keys_H, strengths_H


@njit(cache=True, nogil=True)
def normalise_pairs(keys_H: Int64s, counts_H: Floats, num_tracks: int) -> None:
    """D^-½ F D^-½ in place."""
    totals_V = np.zeros(num_tracks)
    for slot in range(len(keys_H)):
        if keys_H[slot] != _EMPTY:
            totals_V[keys_H[slot] // num_tracks] += counts_H[slot]
            totals_V[keys_H[slot] % num_tracks] += counts_H[slot]
    for slot in range(len(keys_H)):
        if keys_H[slot] != _EMPTY:
            counts_H[slot] /= np.sqrt(totals_V[keys_H[slot] // num_tracks] * totals_V[keys_H[slot] % num_tracks])


@njit(cache=True, nogil=True)
def spread(keys_H: Int64s, strengths_H: Floats, num_tracks: int, tracks_SK: Int32s, found_SK: Floats) -> None:
    """Σ C over pairs of a session: each is looked up once, for both of its tracks; memory is asked a session ahead."""
    width = tracks_SK.shape[1]
    pairs_2P = np.full((2, width * (width - 1) // 2), -1, np.int64)
    _ask(keys_H, strengths_H, num_tracks, tracks_SK, 0, pairs_2P[0])
    for session in range(len(tracks_SK)):
        _ask(keys_H, strengths_H, num_tracks, tracks_SK, session + 1, pairs_2P[(session + 1) % 2])
        pair = 0
        for i in range(width):
            for j in range(i):
                key = pairs_2P[session % 2, pair]
                pair += 1
                if key < 0:
                    continue
                slot = _slot(keys_H, key)
                if keys_H[slot] != _EMPTY:
                    found_SK[session, i] += strengths_H[slot]
                    found_SK[session, j] += strengths_H[slot]


@njit(cache=True, nogil=True)
def _ask(
    keys_H: Int64s, strengths_H: Floats, num_tracks: int, tracks_SK: Int32s, session: int, pairs_P: Int64s
) -> None:
    """The pairs of a session, -1 for none, their slots on the way from memory."""
    if session >= len(tracks_SK):
        return
    pair = 0
    for i in range(tracks_SK.shape[1]):
        for j in range(i):
            a, b = tracks_SK[session, i], tracks_SK[session, j]
            pairs_P[pair] = -1
            if a >= 0 and b >= 0 and a != b and max(a, b) < num_tracks:
                pairs_P[pair] = min(a, b) * np.int64(num_tracks) + max(a, b)
                home = _home(pairs_P[pair], len(keys_H))
                prefetch(keys_H, home)
                prefetch(strengths_H, home)
            pair += 1


@njit(cache=True, nogil=True, fastmath=True)
def match(vectors_VD: Floats, tracks_SK: Int32s, found_SK: Floats) -> None:
    """m_v · (Σ m - m_v) in a session."""
    sum_D = np.empty(vectors_VD.shape[1], np.float32)
    for session in range(len(tracks_SK)):
        sum_D[:] = 0
        for track in tracks_SK[session]:
            if track >= 0:
                for d in range(len(sum_D)):
                    sum_D[d] += vectors_VD[track, d]
        for k in range(tracks_SK.shape[1]):
            track = tracks_SK[session, k]
            if track >= 0:
                product = np.float32(0)
                for d in range(len(sum_D)):
                    product += vectors_VD[track, d] * (sum_D[d] - vectors_VD[track, d])
                found_SK[session, k] = product
