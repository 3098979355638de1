"""Seconds that the kernels' first use adds, as JSON: run as a fresh process, ``python -m benches.first_use``.

The first pull and push against the same calls once more; NUMBA_CACHE_DIR says where compiled kernels are kept.
"""

import json

import numpy as np

from benches.draws import batch_of
from benches.peers import Ours, row_group, seconds_of

NUM_IDS, WIDTH, THREADS = 50_000, 16, 2  # enough ids that the threaded kernels are used too


def first_use_seconds() -> float:
    """First pull, push and pull of a store of this process, less the same calls on a second store."""
    batch = batch_of(np.arange(NUM_IDS) // 2)  # every id twice: repeats have to be summed
    gradients_NW = np.ones((NUM_IDS, WIDTH), np.float32)

    def calls() -> None:
        ours = Ours(row_group(WIDTH), gradients_NW, THREADS)
        for call in (ours.pull, ours.step, ours.pull):
            call(batch)

    return seconds_of(calls) - seconds_of(calls)


if __name__ == "__main__":
    print(json.dumps({"seconds": first_use_seconds()}))
