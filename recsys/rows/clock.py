"""Which event time a step belongs to: so a row that carries its last step needs no timestamp of its own."""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

_MAX_ENTRIES = 4096


class EventClock:
    """The latest event time seen, as it was at every step.

    It keeps at most a few thousand times. When there are more, neighbours become one and take the later time, all of
    those more than ``horizon_ms`` ago: a row may then seem younger than it is, by a thousandth of the time that the
    clock spans, and never older.

    >>> clock = EventClock()
    >>> for step, time_ms in [(1, 500), (2, 900), (3, 700)]:
    ...     clock.advance(step, time_ms)
    >>> clock.time_ms, clock.times_of(np.array([1, 2, 3])).tolist(), clock.last_step_before(900)
    (900, [500, 900, 900], 1)
    """

    def __init__(self, horizon_ms: int | None = None) -> None:
        self._horizon_ms = horizon_ms
        self._first_steps: list[int] = []  # rising
        self._times_ms: list[int] = []  # rising: the time of the steps from the entry's first on

    @property
    def time_ms(self) -> int:
        """The latest event time; -1 before there is one."""
        return self._times_ms[-1] if self._times_ms else -1

    def advance(self, step: int, time_ms: int) -> None:
        """Note that ``step`` happened at ``time_ms``, or at the latest time so far if that is later."""
        if time_ms <= self.time_ms:
            return
        if len(self._times_ms) == _MAX_ENTRIES:
            self._thin()
        self._first_steps.append(step)
        self._times_ms.append(time_ms)

    def times_of(self, steps_U: Int64s) -> Int64s:
        """The event time of each step; 0 for one before the first."""
        times = np.array([0, *self._times_ms], np.int64)
        times_U: Int64s = times[np.searchsorted(np.array(self._first_steps, np.int64), steps_U, side="right")]
        return times_U

    def last_step_before(self, time_ms: int) -> int:
        """The last step whose event time is earlier than ``time_ms``; 0 where there is none."""
        later = bisect_left(self._times_ms, time_ms)
        if later == 0:
            return 0
        return self._first_steps[later] - 1 if later < len(self._first_steps) else 2**63 - 1

    def rebuild(self, steps_U: Int64s, times_ms_U: Int64s, step: int, time_ms: int) -> None:
        """Start over from rows that were stored with their steps and times, at ``time_ms`` in ``step``."""
        self._first_steps, self._times_ms = [], []
        order = np.argsort(steps_U, kind="stable")
        times = np.maximum.accumulate(times_ms_U[order])
        rises = np.flatnonzero(np.diff(times, prepend=-1) > 0)
        for at in rises:
            self.advance(int(steps_U[order[at]]), int(times[at]))
        self.advance(step, time_ms)

    def _thin(self) -> None:
        """Make room: all before the horizon become one entry; of the rest those within one resolution."""
        oldest = self._times_ms[0]
        if self._horizon_ms is not None:
            oldest = max(oldest, self.time_ms - self._horizon_ms)
        # a power of two, so that the next time does not shift what this time rounded
        resolution = (2 * (self.time_ms - oldest) // _MAX_ENTRIES).bit_length()
        first_steps, times_ms, cell = [], [], None
        for step, time_ms in zip(self._first_steps, self._times_ms, strict=True):
            its_cell = max(time_ms, oldest - 1) >> resolution
            if its_cell == cell:
                times_ms[-1] = time_ms
            else:
                first_steps.append(step)
                times_ms.append(time_ms)
                cell = its_cell
        self._first_steps, self._times_ms = first_steps, times_ms
