"""Deleted keys, kept until every consumer knows of them, in bounded memory."""

import numpy as np

from recsys.hashing import Keys
from recsys.rows.store import Deletes, Sequences

MAX_PENDING = 2**20


class DeleteLog:
    """Deletions of one row group in the order of their sequence numbers.

    Beyond ``MAX_PENDING`` keys the oldest are forgotten: a consumer that had not seen them has to be sent every row
    there is, instead of what changed. ``complete_from`` is the sequence number up to which that holds.

    >>> log = DeleteLog()
    >>> log.record(np.array([7, 8]), sequence=3)
    >>> log.since(2).keys_U.tolist(), log.since(3).keys_U.tolist()
    ([7, 8], [])
    """

    def __init__(self) -> None:
        self._parts: list[Deletes] = []
        self._num = 0
        self.latest = 0  # sequence number of the last deletion
        self.complete_from = 0
        self.forgotten = 0  # deletions up to this sequence number are no longer known, because all consumers were told

    def record(self, keys_U: Keys, sequence: int) -> None:
        """Note that distinct keys were deleted."""
        if not len(keys_U):
            return
        self._parts.append(Deletes(keys_U, np.full(len(keys_U), sequence, np.int64)))
        self._num += len(keys_U)
        self.latest = sequence
        while self._num > MAX_PENDING:
            self._drop_first()

    def restart(self, sequence: int) -> None:
        """What happened up to ``sequence`` can not be told as single deletions."""
        self._parts, self._num = [], 0
        self.complete_from = sequence

    def since(self, sequence: int) -> Deletes:
        """Keys deleted later than ``sequence``, each with its latest deletion; some may exist again."""
        recent = [part for part in self._parts if part.sequences_U[0] > sequence]
        keys = np.concatenate([np.empty(0, np.int64), *(part.keys_U for part in recent)])[::-1]
        sequences: Sequences = np.concatenate([np.empty(0, np.int64), *(part.sequences_U for part in recent)])[::-1]
        keys, latest = np.unique(keys, return_index=True)
        return Deletes(keys, sequences[latest])

    def forget(self, up_to: int) -> None:
        """Every consumer knows of the deletions up to a sequence number."""
        while self._parts and self._parts[0].sequences_U[0] <= up_to:
            dropped = self._parts.pop(0)
            self._num -= len(dropped.keys_U)
            self.forgotten = int(dropped.sequences_U[0])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 16 * self._num

    def _drop_first(self) -> None:
        dropped = self._parts.pop(0)
        self._num -= len(dropped.keys_U)
        self.complete_from = int(dropped.sequences_U[0])
