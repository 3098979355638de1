"""Who gets a row, and how many there may be.

Shape suffixes: A distinct keys without a row, C keys that wait.
"""

from bisect import bisect_right
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recsys import hashing
from recsys.errors import ConfigError
from recsys.hashing import Keys
from recsys.rows.candidates import Candidates, Counts
from recsys.rows.collisionless import CollisionlessIndex
from recsys.rows.policies import FrequencyAdmission, ImportanceAdmission, ProbabilisticAdmission
from recsys.rows.store import RowGroup

Int64s = npt.NDArray[np.int64]


class Gate(Protocol):
    """Says which keys without a row get one."""

    def admit(self, keys_A: Keys, counts_A: Int64s, step: int) -> npt.NDArray[np.bool_]:
        """Which of distinct keys get a row, having occurred so often in the push of a step."""

    def items(self) -> tuple[Keys, Counts]:
        """The keys that wait and their counts."""

    def restore(self, keys_C: Keys, counts_C: Counts) -> None:
        """Let those wait who waited then."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


class OpenGate:
    """Everybody gets a row, each occurrence with ``probability``; nobody is remembered."""

    def __init__(self, probability: float = 1.0, seed: int = 0) -> None:
        self._probability, self._seed = probability, seed
        self.nbytes = 0

    def admit(self, keys_A: Keys, counts_A: Int64s, step: int) -> npt.NDArray[np.bool_]:
        """See Gate; a function of (seed, key, step)."""
        if self._probability == 1:
            return np.ones(len(keys_A), np.bool_)
        of_step = hashing.mix64(np.array([step]), self._seed).view(np.int64)
        drawn_A = (hashing.mix64(keys_A ^ of_step, self._seed) >> np.uint64(11)) * 2.0**-53
        admitted_A: npt.NDArray[np.bool_] = drawn_A >= (1 - self._probability) ** counts_A
        return admitted_A

    def items(self) -> tuple[Keys, Counts]:
        """Nobody."""
        return np.empty(0, np.int64), np.empty(0, np.uint8)

    def restore(self, keys_C: Keys, counts_C: Counts) -> None:
        """Nobody waits here."""


def gate_of(group: RowGroup) -> Gate:
    """The gate that a group's ``admission`` describes."""
    if isinstance(group.admission, FrequencyAdmission):
        admission = group.admission
        return Candidates(occurrences=admission.occurrences, max_bytes=admission.max_bytes, seed=group.seed)
    if isinstance(group.admission, ProbabilisticAdmission):
        return OpenGate(group.admission.probability, group.seed)
    return OpenGate()


def rows_in_budget(group: RowGroup, share: float, row_bytes: int) -> int | None:
    """How many rows of ``row_bytes`` a store's share of the budget allows, its index counted; None for any number.

    Raises ConfigError where not even one fits into bytes; of few rows, each of many shards may hold one.
    """
    if group.eviction is None:
        return None
    if group.eviction.max_rows is not None:
        return max(1, int(group.eviction.max_rows * share))
    assert group.eviction.max_bytes is not None
    waiting = group.admission.max_bytes if isinstance(group.admission, ImportanceAdmission) else gate_of(group).nbytes
    max_bytes = group.eviction.max_bytes * share - waiting
    fits = bisect_right(
        range(int(max(0, max_bytes)) // row_bytes + 1),
        max_bytes,
        key=lambda num: num * row_bytes + CollisionlessIndex.bytes_for(num),
    )
    if fits < 2:  # none, and one
        raise ConfigError(
            f"row group {group.name!r}: eviction.max_bytes={group.eviction.max_bytes} leaves no room for a single row "
            f"of {row_bytes} bytes on each shard; raise it"
        )
    return fits - 1
