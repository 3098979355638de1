"""The kernels' first use: compiled once on a machine, kept beside the code, loaded from there by later processes."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from recsys.rows.local import LocalRows
from recsys.rows.store import RowGroup

_WORTH_SAYING_SECONDS = 2.5  # loading what was compiled before takes about one


def compile_kernels(groups: Sequence[RowGroup], say: Callable[[str], None]) -> float:
    """Use every kernel that stores of these groups will, so that no actor or step waits for it; returns the seconds.

    ``say`` is told where it took long, which it does once.

    >>> from recsys.rows.optimizers import SGD
    >>> seconds = compile_kernels([RowGroup(name="item", width=4, optimizer=SGD(learning_rate=1.0))], say=str)
    >>> seconds > 0
    True
    """
    started = time.perf_counter()
    store, alike = LocalRows(groups, threads=1), {}
    for group in groups:  # one of each kind that a kernel is compiled for
        alike[group.num_rows is None, group.optimizer.kind, group.row_format, type(group.admission)] = group.name
    keys = np.zeros(2, np.int64)
    for repeated in (keys, keys[:1]):
        pushed = {
            name: (repeated, np.zeros((len(repeated), store.groups[name].width), np.float32)) for name in alike.values()
        }
        store.push(pushed, 0)
    store.pull(dict.fromkeys(alike.values(), keys))
    store.changes("first use")
    store.delete(dict.fromkeys(alike.values(), keys))
    seconds = time.perf_counter() - started
    if seconds > _WORTH_SAYING_SECONDS:
        say(f"the kernels of the row stores took {seconds:.0f} s to compile; they are kept for the next time")
    return seconds
