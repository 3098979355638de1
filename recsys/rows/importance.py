"""How important each id of a row group is: the norms of its gradients, summed, each half as heavy after a while.

A gradient summed over a batch is how often the id occurred times its mean gradient, hence access × gradient norm
(AdaEmbed, Lai et al. 2023, section 4.1; CAFE, Zhang et al. 2024, section 3.1). Of rows it is kept by slot, of ids
without one in a HotSketch.

Not what was is made smaller as time goes on, but what comes is made larger: a row that nobody touches need not be
written. Scores are in units that halve every ``half_life_steps``; after 64 of these all are brought down at once.

Shape suffixes: N keys, U distinct ones, A those without a row, R rows, W row width.
"""

import numpy as np

from recsys.hashing import Floats, Keys
from recsys.rows import gathering
from recsys.rows.collisionless import Slots
from recsys.rows.hot_sketch import HotSketch
from recsys.rows.memory import array_by_slot
from recsys.rows.policies import ImportanceAdmission

_HALVINGS = 64  # 2^64 of float32's 2^127


class Importance:
    """Scores of the rows and of the ids that wait, of one row group or one shard's share of it."""

    def __init__(self, admission: ImportanceAdmission, seed: int) -> None:
        self._admission = admission
        self.waiting = HotSketch(max_bytes=admission.max_bytes, seed=seed)
        self.of_rows = array_by_slot(None, np.float32)
        self._unit = np.float32(1)

    def begin_step(self, step: int, num_slots: int) -> None:
        """A step of the group's begins: what comes from now on is in its unit."""
        half_life = self._admission.half_life_steps
        if half_life is None:
            return
        if step % (_HALVINGS * half_life) == 0:
            self.of_rows[:num_slots] *= np.float32(2.0**-_HALVINGS)
            self.waiting.scale(2.0**-_HALVINGS)
        self._unit = np.float32(2.0 ** (step // half_life % _HALVINGS))

    def add(self, slots_R: Slots, norms_R: Floats) -> None:
        """Distinct rows had gradients of these norms."""
        self.of_rows[slots_R] += norms_R * self._unit

    def ask(self, keys_A: Keys, norms_A: Floats) -> Floats:
        """Distinct ids without a row had gradients of these norms; what is certain of their scores, float32 (A,).

        0 of those that are not above the threshold.
        """
        scores_A = self.waiting.add(keys_A, norms_A * self._unit)
        return np.where(scores_A > np.float32(self._admission.threshold) * self._unit, scores_A, np.float32(0))

    def begin(self, keys_A: Keys, slots_A: Slots, scores_A: Floats) -> None:
        """Ids that waited have rows."""
        self.waiting.remove(keys_A)
        self.of_rows[slots_A] = scores_A


def norms_of(keys_N: Keys, gradients_NW: Floats) -> tuple[Keys, Floats]:
    """Distinct keys, ascending, and the norms of their gradients, summed in the order given.

    >>> keys, norms = norms_of(np.array([7, 5, 7]), np.array([[1, 0], [3, 4], [0, 1]], np.float32))
    >>> keys.tolist(), norms.round(3).tolist()
    ([5, 7], [5.0, 1.4140000343322754])
    """
    if gathering.ascends(keys_N):  # each once
        return keys_N, _lengths(gradients_NW)
    keys_U, inverse_N = np.unique(keys_N, return_inverse=True)
    sums_UW = np.zeros((len(keys_U), gradients_NW.shape[1]), np.float32)
    np.add.at(sums_UW, inverse_N, gradients_NW)
    return keys_U, _lengths(sums_UW)


def _lengths(vectors_UW: Floats) -> Floats:
    lengths_U: Floats = np.sqrt(np.einsum("uw,uw->u", vectors_UW, vectors_UW))
    return lengths_U


def winners(scores_A: Floats, of_rows_R: Floats, room: int) -> tuple[Slots, Slots]:
    """Which newcomers get a row, best first, and which rows leave for them, worst first: places in either.

    Newcomers of score 0 get none. ``room`` rows are free; for another one a row leaves that is less important.

    >>> new, gone = winners(np.array([5, 0, 2, 9], np.float32), np.array([3, 1, 8], np.float32), room=1)
    >>> new.tolist(), gone.tolist()
    ([3, 0], [1])
    """
    new_A = np.argsort(-scores_A, kind="stable")[: np.count_nonzero(scores_A > 0)]
    challengers = new_A[room:]
    if not len(challengers):
        return new_A, np.empty(0, np.int64)
    weaker_R = np.flatnonzero(of_rows_R < scores_A[challengers[0]])
    weaker_R = weaker_R[np.argsort(of_rows_R[weaker_R], kind="stable")][: len(challengers)]
    num = int(np.count_nonzero(scores_A[challengers[: len(weaker_R)]] > of_rows_R[weaker_R]))
    return new_A[: room + num], weaker_R[:num]
