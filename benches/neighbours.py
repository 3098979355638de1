"""Who else used the machine: a comparison of threads says nothing while other programs take their cores."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE_COLUMNS = (3, 4, 8, 9)  # idle, waiting for disks; guests, which are in user time already (proc(5))


class Neighbours:
    """Cores that other programs, and other guests of the machine's host, used since this was made.

    A program's own is what runs under process ``root``: this one, and what it has started, Ray's actors too.

    >>> neighbours = Neighbours()
    >>> used = neighbours.cores_used()
    >>> used is None or used >= 0
    True
    """

    def __init__(self, root: int | None = None) -> None:
        self._root = os.getpid() if root is None else root
        self._start, self._busy, self._own = time.perf_counter(), _busy_seconds(), _seconds_under(self._root)

    def cores_used(self) -> float | None:
        """Cores on average; None where the system does not say."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_seconds_under(self._root) - self._own)
        return max(0.0, others / (time.perf_counter() - self._start))


def _busy_seconds() -> float | None:
    """Seconds that all cores together have worked since the machine started."""
    if not _STAT.exists():
        return None
    ticks = [int(column) for column in _STAT.read_text().splitlines()[0].split()[1:]]
    return sum(count for at, count in enumerate(ticks) if at not in _IDLE_COLUMNS) / os.sysconf("SC_CLK_TCK")


def _seconds_under(root: int) -> float:
    """Seconds that a process, all that descend from it, and those of them that have ended have worked."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # a name may hold blanks: proc(5)
        except OSError:  # it has just ended
            continue
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        seconds[process] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return sum(taken for process, taken in seconds.items() if _descends(process, root, parents))


def _descends(process: int, root: int, parents: dict[int, int]) -> bool:
    while process in parents and process != root:
        process = parents[process]
    return process == root
