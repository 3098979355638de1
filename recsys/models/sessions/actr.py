"""ACT-R's declarative memory over sessions: base level, spreading, partial matching, and weights out of the three.

Anderson and others' formulas as PISA uses them (Tran et al. 2024, section 3.2). Plain numpy over kernels of
``actr_kernels``; usable without any model:

>>> sums = np.array([power_sum([64, 16, 1], 0.5), power_sum([25], 0.5), power_sum([100, 4], 0.5)])
>>> np.log(sums).round(4).tolist(), shares(sums).round(4).tolist()
([0.3185, -1.6094, -0.5108], [0.6322, 0.092, 0.2759])

Shape suffixes: N plays of a track, V tracks, S sessions, Q questions (a time, and a history up to a session), K tracks
a session, T top tracks, D width of vectors, C components.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.fields import Above, AtLeast
from recsys.hashing import Floats
from recsys.models.sessions import actr_kernels as kernels
from recsys.rows.parallel import in_parts, usable_cores
from recsys.sessions.log import Int32s, Int64s, SessionLog

Floats64 = npt.NDArray[np.float64]
SMALLEST = 1e-8  # ε of the weights, as in PISA


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How fast what was heard fades.

    A play of ``age`` seconds counts age^-decay, never younger than ``min_age_seconds``: plays of one moment, and clocks
    that go backwards, then count as that old; logs of hourly clocks need 3600. ``keep_plays`` remembers the last so
    many plays of a track and their number alone (see ``bounded_power_sum``). ``normalised``: "log" is softmax(log S) =
    S / ΣS over the user's history, in which the unit of time cancels (PISA's code); "sum" is softmax(S), as the paper
    reads.
    """

    decay: Annotated[float, AtLeast(0)] = 0.5
    min_age_seconds: Annotated[float, Above(0)] = 1.0
    keep_plays: Annotated[int, AtLeast(1)] | None = None
    normalised: Literal["log", "sum"] = "log"


def power_sum(ages_N: Sequence[float] | Floats64, decay: float) -> float:
    """S = Σ age^-decay over the plays of a track; its logarithm is the base level. 0 for no plays."""
    return float((np.asarray(ages_N, np.float64) ** -decay).sum())


def bounded_power_sum(last_ages_M: Sequence[float], num_plays: int, oldest_age: float, decay: float) -> float:
    """S from the last M ages (the youngest first), the number of plays and the oldest age (Petrov 2006).

    The plays between are taken as evenly spread: (n-M) (t_n^(1-d) - t_M^(1-d)) / ((1-d) (t_n - t_M)).

    >>> bounded_power_sum([1.0, 4.0], 2, 4.0, 0.5)  # nothing is forgotten
    1.5
    """
    known, nearest = power_sum(last_ages_M, decay), last_ages_M[-1]
    return known + kernels.spread_sum(float(num_plays - len(last_ages_M)), nearest, oldest_age, decay)


def shares(sums_V: Floats64, normalised: Literal["log", "sum"] = "log") -> Floats64:
    """Base levels over a history as shares that add up to 1; tracks outside of it (S = 0) have none.

    An empty history has no shares: zeros.
    """
    known_V = sums_V > 0
    if not known_V.any():
        return np.zeros_like(sums_V)
    if normalised == "log":
        return sums_V / sums_V.sum()
    odds_V = np.where(known_V, np.exp(sums_V - sums_V[known_V].max()), 0.0)
    return odds_V / odds_V.sum()


def history_sums(log: SessionLog, ends_Q: Int64s, times_Q: Int64s, memory: Memory) -> Floats64:
    """S of every track for some questions, (Q, V): over the sessions of a user before ``ends_Q``, at ``times_Q``.

    Sessions that ``ends_Q`` name are of the users that are meant; ``sums_between`` asks for all that a user has.
    """
    return sums_between(log, log.begins_S[ends_Q], ends_Q, times_Q, memory)


def sums_between(log: SessionLog, begins_Q: Int64s, ends_Q: Int64s, times_Q: Int64s, memory: Memory) -> Floats64:
    """S of every track, (Q, V), over the sessions from ``begins_Q`` up to ``ends_Q`` (exclusive), at ``times_Q``."""
    sums_QV = np.zeros((len(ends_Q), log.num_tracks))
    arguments = log.times_S, log.tracks_SK, memory.decay, memory.min_age_seconds
    if memory.keep_plays is None:
        kernels.sums(begins_Q, ends_Q, times_Q, *arguments, sums_QV)
    else:
        kernels.bounded_sums(begins_Q, ends_Q, times_Q, *arguments, memory.keep_plays, sums_QV)
    return sums_QV


@dataclass(frozen=True)
class BaseLevels:
    """Each session's base levels, at its own time, over what its user had heard before it.

    ``levels_SK`` are shares of the history that the session's own tracks have; ``top_SK`` the tracks of the highest
    ones with their shares, -1 and 0 where the history is shorter.
    """

    levels_SK: Floats
    top_ST: Int32s
    top_levels_ST: Floats


def base_levels(log: SessionLog, memory: Memory, *, num_top: int = 0, threads: int | None = None) -> BaseLevels:
    """Base levels live at each session's own time, for all sessions at once; nothing of the session itself is in them.

    All tracks of a session share its time, so that a pair of sessions costs one power and K additions.
    """
    num_sessions = len(log.times_S)
    found = BaseLevels(
        np.zeros(log.tracks_SK.shape, np.float32),
        np.full((num_sessions, num_top), -1, np.int32),
        np.zeros((num_sessions, num_top), np.float32),
    )

    def work(part: int, parts: int) -> None:
        kernels.session_levels(
            log.first_U1[log.num_users * part // parts : log.num_users * (part + 1) // parts + 1],
            log.num_tracks, log.times_S, log.tracks_SK, memory.decay, memory.min_age_seconds,
            memory.keep_plays or 0, memory.normalised == "log", found.levels_SK, found.top_ST, found.top_levels_ST,
        )  # fmt: skip

    in_parts(work, num_sessions, usable_cores() if threads is None else threads)
    return found


class Cooccurrence:
    """C = D^-½ F D^-½, where F counts in how many sessions two tracks are together: symmetric, no entry above 1.

    >>> together = Cooccurrence(np.array([[0, 1, -1], [0, 1, -1], [0, 2, -1]], np.int32), num_tracks=3)
    >>> together.spreading(np.array([[0, 1, 2]], np.int32)).round(4).tolist()
    [[1.3938000202178955, 0.8165000081062317, 0.5774000287055969]]
    """

    def __init__(self, tracks_SK: Int32s, num_tracks: int) -> None:
        if tracks_SK.max(initial=-1) >= num_tracks:
            raise DataError(f"track {tracks_SK.max()} is outside the catalogue of {num_tracks}; count its tracks anew")
        self._keys_H, self._strengths_H = kernels.count_pairs(tracks_SK, num_tracks)
        self._num_tracks = num_tracks
        kernels.normalise_pairs(self._keys_H, self._strengths_H, num_tracks)

    @classmethod
    def of_pairs(cls, keys_P: Int64s, strengths_P: Floats, num_tracks: int) -> "Cooccurrence":
        """What ``pairs`` told, again."""
        found = cls(np.empty((0, 0), np.int32), num_tracks)
        found._keys_H, found._strengths_H = kernels.placed_pairs(keys_P, strengths_P)
        return found

    def pairs(self) -> tuple[Int64s, Floats]:
        """The pairs that were together, as low * V + high, in order; and how strongly: (P,)."""
        held_H = self._keys_H >= 0
        order_P = np.argsort(self._keys_H[held_H])
        return self._keys_H[held_H][order_P], self._strengths_H[held_H][order_P]

    def strength(self, track: int, other: int) -> float:
        """C of two tracks; 0 for a track and itself, and for those never together."""
        return float(self.spreading(np.array([[track, other]], np.int32))[0, 0]) if track != other else 0.0

    def spreading(self, tracks_SK: Int32s, *, threads: int | None = None) -> Floats:
        """SPR = Σ C[v, v'] over the other tracks v' of a session: (S, K), 0 where there is no track.

        A track outside the catalogue is together with none.
        """
        found_SK = np.zeros(tracks_SK.shape, np.float32)

        def work(part: int, parts: int) -> None:
            chosen = slice(len(tracks_SK) * part // parts, len(tracks_SK) * (part + 1) // parts)
            kernels.spread(self._keys_H, self._strengths_H, self._num_tracks, tracks_SK[chosen], found_SK[chosen])

        in_parts(work, len(tracks_SK), usable_cores() if threads is None else threads)
        return found_SK


def partial_matching(vectors_SKD: Tensor) -> Tensor:
    """PM = m_v · Σ m_v' over the other tracks of a session: (..., K); rows of zeros are no tracks.

    >>> partial_matching(torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 0.0]])).tolist()
    [0.5, 0.5, 0.0]
    """
    others_SKD = vectors_SKD.sum(dim=-2, keepdim=True) - vectors_SKD
    return (vectors_SKD * others_SKD).sum(dim=-1)


def matching_of(tracks_SK: Int32s, vectors_VD: Floats, *, threads: int | None = None) -> Floats:
    """``partial_matching`` of fixed vectors, without gathering them first: (S, K)."""
    found_SK = np.zeros(tracks_SK.shape, np.float32)

    def work(part: int, parts: int) -> None:
        chosen = slice(len(tracks_SK) * part // parts, len(tracks_SK) * (part + 1) // parts)
        kernels.match(vectors_VD, tracks_SK[chosen], found_SK[chosen])

    in_parts(work, len(tracks_SK), usable_cores() if threads is None else threads)
    return found_SK


def session_weights(components_SKC: Tensor, strengths_C: Tensor, mask_SK: Tensor, flatten: float = 0.5) -> Tensor:
    """Weights of a session's tracks out of their components: a^flatten / Σ a^flatten, (..., K), 0 where masked.

    a = Σ_c (relu(strength_c) + ε)(relu(component_c) + ε). No softmax: only ratios of strengths matter, and
    ``flatten=0`` is the plain mean. A session without tracks has no weights: zeros.
    """
    sums_SK = ((components_SKC.relu() + SMALLEST) * (strengths_C.relu() + SMALLEST)).sum(dim=-1)
    flat_SK = sums_SK**flatten * mask_SK
    return flat_SK / flat_SK.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(flat_SK.dtype).tiny)
