"""Cut a loop over keys into pieces for threads. The kernels release the interpreter's lock while they run."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

_WORTH_A_THREAD = 4096  # keys; below this, waking a thread takes longer than the work


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_pieces(work: Callable[[int, int], object], length: int, threads: int) -> None:
    """Call ``work(start, stop)`` on pieces of [0, length), side by side where there is enough for it."""
    in_parts(lambda part, parts: work(length * part // parts, length * (part + 1) // parts), length, threads)


def in_parts(work: Callable[[int, int], object], length: int, threads: int) -> None:
    """Call ``work(part, parts)`` for every part, side by side where ``length`` keys are enough for it."""
    parts = max(1, min(threads, length // _WORTH_A_THREAD))
    others = [_pool().submit(work, part, parts) for part in range(1, parts)]
    work(0, parts)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores(), thread_name_prefix="rows")
