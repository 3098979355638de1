"""How fast the three components of ACT-R are found, for all sessions of all users at once, on one core.

And how long it takes from a user's new play to their fresh list in Redis (``session_update``).

Beside it, the same mathematics vectorised with scipy: all ages of a user at once, a sparse product with who heard what,
one look-up of all pairs, one einsum of all vectors. It is given blocks of users, without which it has no memory to
work in. The figure of PISA's own program is another machine's, for 60 users and 600 tracks with 40 sessions each.

Shape suffixes: U users, S sessions, K tracks a session, V tracks, D width.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benches import session_update
from benches.draws import zipf_cdf
from benches.result import Result, Target, Values, against, write_results
from benches.running import Told, command_line, run
from recsys.hashing import Floats
from recsys.models.sessions.actr import Cooccurrence, Memory, base_levels, matching_of
from recsys.sessions.log import Int32s, SessionLog, UserSplit

TITLE = "ACT-R over sessions"
NOTE = "PISA's own program: 13 s for 60 users and 600 tracks, on another machine (not run here)"
MEMORY = Memory()


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    users: int = 100_000
    sessions: int = 30
    tracks: int = 50_000
    pool: int = 60  # tracks that a user plays from
    width: int = 32
    block: int = 1000  # users that scipy is given at once
    peer_users: int = 10_000  # users that scipy is timed on
    rounds: int = 3


QUICK = Sizes(users=600, peer_users=600, tracks=2000, block=300, rounds=2)


def random_log(sizes: Sizes, seed: int) -> SessionLog:
    """Users who play ten tracks a session out of a pool of their own, popular tracks in more pools."""
    draw = np.random.default_rng(seed)
    cumulated_V = zipf_cdf(sizes.tracks)
    tracks_SK: Int32s = np.empty((sizes.users * sizes.sessions, 10), np.int32)
    for first in range(0, sizes.users, sizes.block):
        users = min(sizes.block, sizes.users - first)
        pools_UP = np.searchsorted(cumulated_V, draw.random((users, sizes.pool)))
        chosen = draw.random((users, sizes.sessions, sizes.pool)).argpartition(10, axis=2)[..., :10]
        played = np.take_along_axis(pools_UP[:, None, :], chosen, axis=2).reshape(-1, 10)
        tracks_SK[first * sizes.sessions : (first + users) * sizes.sessions] = _once(played.astype(np.int32))
    first_U1 = np.arange(sizes.users + 1) * sizes.sessions
    gaps_US = draw.lognormal(np.log(86_400), 1, (sizes.users, sizes.sessions))
    times_S = (1 + np.cumsum(gaps_US, axis=1)).astype(np.int64).reshape(-1)
    ids = range(sizes.users), range(sizes.tracks)
    return SessionLog(first_U1, times_S, tracks_SK, UserSplit().parts(first_U1), *ids)


def _once(tracks_SK: Int32s) -> Int32s:
    """Each track once a session; -1 in place of what comes again."""
    ordered = np.sort(tracks_SK, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    return ordered


def ours(log: SessionLog, together: Cooccurrence, vectors_VD: Floats) -> tuple[Floats, Floats, Floats]:
    """The components by the kernels, one thread."""
    levels_SK = base_levels(log, MEMORY, threads=1).levels_SK
    return levels_SK, together.spreading(log.tracks_SK, threads=1), matching_of(log.tracks_SK, vectors_VD, threads=1)


def block_of(log: SessionLog, first: int, stop: int) -> SessionLog:
    """The log of some users."""
    chosen = slice(log.first_U1[first], log.first_U1[stop])
    first_U1 = log.first_U1[first : stop + 1] - log.first_U1[first]
    arrays = log.times_S[chosen], log.tracks_SK[chosen], log.parts_S[chosen]
    return SessionLog(first_U1, *arrays, log.user_ids[first:stop], log.track_ids)


class Vectorised:
    """The same components with scipy, for blocks of users with equally many sessions."""

    def __init__(self, log: SessionLog, vectors_VD: Floats) -> None:
        from scipy import sparse

        self._sparse, self._vectors_VD = sparse, vectors_VD
        rows, columns, _ = self._places(log)
        heard = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(log.tracks_SK), log.num_tracks))
        counts = (heard.T @ heard).tocsr()
        counts.setdiag(0)
        counts.eliminate_zeros()
        scale = sparse.diags(np.maximum(np.asarray(counts.sum(axis=1))[:, 0], 1) ** -0.5)
        self._together = (scale @ counts @ scale).tocsr()
        self._together.sort_indices()

    def __call__(self, log: SessionLog) -> tuple[Floats, Floats, Floats]:
        """Base levels, spreading, partial matching."""
        rows, tracks, at = self._places(log)
        return self._levels(log, rows, tracks, at), self._spreading(log), self._matching(log)

    def _places(self, log: SessionLog) -> tuple[Values, Values, Values]:
        at = np.flatnonzero(log.tracks_SK >= 0)
        return at // log.tracks_SK.shape[1], log.tracks_SK.reshape(-1)[at], at  # type: ignore[return-value]

    def _levels(self, log: SessionLog, rows: Values, tracks: Values, at: Values) -> Floats:
        sparse, sessions = self._sparse, len(log.times_S) // log.num_users
        times_US = log.times_S.reshape(log.num_users, sessions)
        ages_USS = np.maximum(times_US[:, :, None] - times_US[:, None, :], MEMORY.min_age_seconds)
        powers_USS = np.tril(ages_USS**-MEMORY.decay, k=-1)
        blocks = (powers_USS, np.arange(log.num_users), np.arange(log.num_users + 1))
        powers = sparse.bsr_matrix(blocks, (len(log.times_S),) * 2).tocsr()
        codes, places = np.unique(log.users_S[rows] * log.num_tracks + tracks, return_inverse=True)
        heard = sparse.csr_matrix((np.ones(len(rows)), (rows, places)), (len(log.times_S), len(codes)))
        sums = (powers @ heard).tocsr()
        totals_S = np.asarray(sums.sum(axis=1))[:, 0]
        found = np.zeros(log.tracks_SK.size, np.float32)
        found[at] = np.asarray(sums[rows, places])[0] / np.where(totals_S[rows] > 0, totals_S[rows], 1)
        return found.reshape(log.tracks_SK.shape)

    def _spreading(self, log: SessionLog) -> Floats:
        width = log.tracks_SK.shape[1]
        left, right = np.triu_indices(width, k=1)
        a, b = log.tracks_SK[:, left], log.tracks_SK[:, right]
        both = (a >= 0) & (b >= 0)
        strengths = np.zeros(a.shape, np.float32)
        strengths[both] = np.asarray(self._together[a[both], b[both]])[0]
        member = np.zeros((len(left), width), np.float32)
        member[np.arange(len(left)), left] = member[np.arange(len(left)), right] = 1
        found: Floats = strengths @ member
        return found

    def _matching(self, log: SessionLog) -> Floats:
        vectors = self._vectors_VD[log.tracks_SK] * (log.tracks_SK >= 0)[..., None]
        found: Floats = np.einsum("skd,skd->sk", vectors, vectors.sum(axis=1, keepdims=True) - vectors)
        return found


def measure(sizes: Sizes, told: Told) -> list[Result]:
    """Sessions a second, ours and scipy's, by round; both give the same numbers, or this is an error."""
    told(f"{sizes.users:,} users, {sizes.sessions} sessions each")
    log = random_log(sizes, seed=0)
    vectors_VD = np.random.default_rng(1).standard_normal((sizes.tracks, sizes.width)).astype(np.float32)
    told("counting pairs")
    together = Cooccurrence(log.tracks_SK, log.num_tracks)
    # scipy counts the pairs of its own users alone: of all users its look-ups took minutes a block
    lesser = block_of(log, 0, min(sizes.peer_users, sizes.users))
    peer, some = Vectorised(lesser, vectors_VD), block_of(log, 0, min(20, sizes.users))
    same = Cooccurrence(lesser.tracks_SK, log.num_tracks)
    for mine, theirs in zip(ours(some, same, vectors_VD), peer(some), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    ours_R, peer_R, seconds = [], [], 0.0
    for round_ in range(sizes.rounds):
        told(f"round {round_ + 1} of {sizes.rounds}")
        start = time.perf_counter()
        ours(log, together, vectors_VD)
        seconds = time.perf_counter() - start
        ours_R.append(len(log.times_S) / seconds)
        start = time.perf_counter()
        users = min(sizes.peer_users, sizes.users)
        for first in range(0, users, sizes.block):
            peer(block_of(log, first, min(first + sizes.block, users)))
        peer_R.append(users * sizes.sessions / (time.perf_counter() - start))
    note = f"{sizes.users:,} users in {seconds:.1f} s; {NOTE}"
    rates = np.array(ours_R), np.array(peer_R)
    measured = "base level, spreading and partial matching"
    return [against(measured, "sessions/s", rates[0], "scipy", rates[1], Target(value=3), note)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    given = command_line(__doc__).parse_args(arguments)
    sizes = QUICK if given.quick else Sizes()

    def measured(told: Told) -> list[Result]:
        results = measure(sizes, told)
        told("updating users")
        update = session_update.QUICK if given.quick else session_update.Sizes()
        known = random_log(Sizes(users=2000, tracks=update.tracks, block=500), seed=2)
        results += session_update.measure(known, update)
        write_results(given.folder, "session", TITLE, results, {"sizes": str(sizes)}, [])
        return results

    return run(TITLE, measured)


if __name__ == "__main__":
    sys.exit(main())
