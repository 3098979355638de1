"""The same training on more shards and more workers of a Ray of several nodes: part of ``make bench-ps``.

Each node is a raylet with processes of its own on this machine, so what grows is bounded by its cores: more of
everything shows what the parts cost, not what more machines would bring (see ``benches.capacity`` for that). Leaves
``growth.json`` and ``growth.html`` in ``runs/bench``. ``--quick`` is a small form that says nothing about speed.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benches.neighbours import Neighbours
from benches.ps import QUICK, model_rows, model_shards
from benches.result import Result, alone, beside, write_results
from benches.running import Told, command_line, or_error, run
from benches.stepping import Sizes, learner
from recsys.runtime.actors import Placement, start_actor, wait_for
from recsys.runtime.cluster import ray_session
from recsys.runtime.loopback import LoopbackCluster
from recsys.runtime.shards import RayShard
from recsys.training.report import Plot

TITLE = "Growth over shards and workers"
RATE = "examples/s"
SHARDS, WORKERS = (1, 2, 4), (1, 2)
NODES = ({"shard": 2, "worker": 1}, {"shard": 2, "worker": 1})


class Learner:
    """One worker of several, in a process of its own."""

    def __init__(self, sizes: Sizes, shards: Sequence[RayShard], worker: int) -> None:
        torch.set_num_threads(1)
        self._rows = model_rows(sizes, shards, worker)
        self._trainer, self._batches = learner(sizes, self._rows, worker)

    def run(self) -> None:
        """Take all steps."""
        for _ in self._trainer.steps(self._batches):
            pass
        self._rows.flush()


def measure(sizes: Sizes, address: str, folder: Path, told: Told) -> list[Result]:
    """Every number of shards with every number of workers."""
    neighbours, rates = Neighbours(os.getppid()), {}  # who started this has started the nodes too
    with ray_session(address):
        for num_workers in WORKERS:
            for num_shards in SHARDS:
                told(f"{num_shards} shards, {num_workers} workers")
                rates[num_workers, num_shards] = examples_a_second(sizes, num_shards, num_workers)
        others = neighbours.cores_used()
    lines = [
        alone(f"DeepFM, {num_shards} shards, {num_workers} workers", RATE, rate)
        for (num_workers, num_shards), rate in rates.items()
    ]
    results = beside(lines, others)
    series = {
        f"{num_workers} workers": (list(SHARDS), [max(rates[num_workers, shards]) for shards in SHARDS])
        for num_workers in WORKERS
    }
    plot = Plot(f"The same training on {os.cpu_count()} cores", "shards", RATE, series)
    told(f"written: {', '.join(map(str, write_results(folder, 'growth', TITLE, results, {}, [plot])))}")
    return results


def examples_a_second(sizes: Sizes, num_shards: int, num_workers: int) -> list[float]:
    """Of all workers together, each round after the first."""
    shards = model_shards(sizes, num_shards, num_workers, Placement(resources={"shard": 4 / num_shards / 2}))
    placement = Placement(resources={"worker": 1})
    workers = [
        start_actor(Learner, sizes, shards, worker, placement=placement) for worker in range(num_workers)
    ]  # fmt: skip
    rates = []
    for _ in range(sizes.rounds):
        started_at = time.perf_counter()
        for answer in [worker.run.remote() for worker in workers]:
            wait_for(answer)
        seconds = time.perf_counter() - started_at
        rates.append(num_workers * sizes.steps * sizes.examples / seconds)
    return rates[1:] or rates


def on_a_cluster(folder: Path, arguments: Sequence[str]) -> int:
    """Start nodes, and measure in a process that joins them: Ray reads its token once in a process."""
    print("a Ray of a head and two nodes", flush=True)
    with LoopbackCluster(folder / "growth-cluster", NODES) as cluster:
        command = [sys.executable, "-m", "benches.growth", f"--address={cluster.address}", *arguments]
        return subprocess.run(command, env=cluster.environment).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = command_line(__doc__)
    parser.add_argument("--address", help="of a Ray that runs, and whose token the environment has; or one is started")
    given = parser.parse_args(arguments)
    if given.address is None:
        return or_error(lambda: on_a_cluster(given.folder, sys.argv[1:] if arguments is None else arguments))
    return run(TITLE, lambda told: measure(QUICK if given.quick else Sizes(), given.address, given.folder, told))


if __name__ == "__main__":
    sys.exit(main())
