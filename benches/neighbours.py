"""Who else used the machine: a comparison of threads says nothing while other programs take their cores."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE_COLUMNS = (3, 4, 8, 9)  # idle, waiting for disks; guests, which are in user time already (proc(5))


class Neighbours:
    """Cores that other programs, and other guests of the machine's host, used since this was made.

    >>> neighbours = Neighbours()
    >>> used = neighbours.cores_used()
    >>> used is None or used >= 0
    True
    """

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def cores_used(self) -> float | None:
        """Cores on average; None where the system does not say. Children count as own once they have ended."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others / (time.perf_counter() - self._start))


def _busy_seconds() -> float | None:
    """Seconds that all cores together have worked since the machine started."""
    if not _STAT.exists():
        return None
    ticks = [int(column) for column in _STAT.read_text().splitlines()[0].split()[1:]]
    return sum(count for at, count in enumerate(ticks) if at not in _IDLE_COLUMNS) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
