"""How fast the parameter server on Ray is, beside the same store in this process: ``make bench-ps``.

Two shards on two cores, 30 k unique rows of 16 float32 a step, read and pushed with row-wise Adagrad. Then what reading
ahead saves of a training step, and what a checkpoint costs. Leaves ``ps.json`` and
``ps.html`` in ``runs/bench``. ``--quick`` is a small form that says nothing about speed.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.neighbours import Neighbours
from benches.result import Result, Target, Values, against, alone, beside, write_results
from benches.running import Told, command_line, run
from benches.stepping import Sizes, batches_for, bench_group, bench_model, learner, timed_steps
from recsys.ps.client import wait_all
from recsys.ps.pacing import Pace
from recsys.ps.worker import WorkerRows
from recsys.rows.folders import Folder
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot
from recsys.runtime.actors import Placement
from recsys.runtime.cluster import ray_session
from recsys.runtime.near import near
from recsys.runtime.shards import Begin, RayShard, start_shards

TITLE = "Parameter server"
OF_ONE_SHARD = "rows pulled and pushed, 1 shard"
RATE = "M rows/s"
OF_LOCAL, ROWS_A_SECOND = Target(value=0.5), Target(value=3)
PAUSE = Target(value=1.0, bound="most")
QUICK = Sizes(rows=20_000, ids=3_000, steps=6, rounds=2, saved_rows=20_000)


def measure(sizes: Sizes, folder: Path, told: Told) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    neighbours = Neighbours()
    with ray_session():
        told("rows a second, beside a store in this process")
        results = stepping(sizes)
        told("a training step: how long it waits")
        results += waiting(sizes)
        told(f"checkpoints of {sizes.saved_rows:,} rows")
        with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
            results += saving(sizes, Path(place))
        others = neighbours.cores_used() or 0.0
    results = beside(results, others)
    about = {"sizes": str(sizes), "cores used by others": others, "torch": torch.__version__}
    told(f"written: {', '.join(map(str, write_results(folder, 'ps', TITLE, results, about, [])))}")
    return results


def stepping(sizes: Sizes) -> list[Result]:
    """Rows pulled and pushed a second, through two shards and in this process, in turns."""
    batches = batches_for(sizes, seed=0)
    local = LocalRows([bench_group(sizes)])
    rows, one = (worker_of(started(sizes, num_shards, num_workers=1), 0) for num_shards in (2, 1))
    contenders: dict[str, Callable[[], float]] = {
        "here": lambda: timed_steps(local, batches),
        "asked for": lambda: timed_steps(rows, batches),
        "read ahead": lambda: timed_steps(rows, batches, ahead=True),
        "one shard": lambda: timed_steps(one, batches),
    }
    seconds = {name: np.zeros(sizes.rounds) for name in contenders}
    for contender in contenders.values():
        contender()
    for at in range(sizes.rounds):
        for name, contender in contenders.items():
            seconds[name][at] = contender()
    rates: dict[str, Values] = {name: batches.num_rows / taken / 1e6 for name, taken in seconds.items()}
    peer = "a store in this process"
    return [
        against(f"rows pulled and pushed, 2 shards, {sizes.ids:,} a step", RATE, rates["asked for"], peer,
                rates["here"], OF_LOCAL),
        against("… the next step's rows read ahead", RATE, rates["read ahead"], peer, rates["here"], OF_LOCAL),
        alone("… by itself", RATE, np.maximum(rates["asked for"], rates["read ahead"]), ROWS_A_SECOND),
        alone(OF_ONE_SHARD, RATE, rates["one shard"]),
    ]  # fmt: skip


def waiting(sizes: Sizes) -> list[Result]:
    """The share of a step of DeepFM that its worker waits for the server: without and with reading ahead, or chosen."""
    results = []
    for said, reads_ahead in {"asked for when needed": False, "read ahead": True, "as chosen": None}.items():
        shares, rates = [], []
        rows = model_rows(sizes, model_shards(sizes, 2), pace=Pace(reads_ahead=reads_ahead))
        trainer, batches = learner(sizes, rows)
        for _ in range(sizes.rounds):
            started_at, waited_before = time.perf_counter(), rows.waited_seconds
            for _ in trainer.steps(batches):
                pass
            rows.flush()
            seconds = time.perf_counter() - started_at
            shares.append(100 * (rows.waited_seconds - waited_before) / seconds)
            rates.append(len(batches) * batches[0].num_examples / seconds)
        results.append(alone(f"share of a training step spent waiting, rows {said}", "%", shares[1:] or shares))
        results.append(alone(f"examples learned, rows {said}", "examples/s", rates[1:] or rates))
    return results


def saving(sizes: Sizes, folder: Path) -> list[Result]:
    """What workers see of a checkpoint, and what is written: everything, then what a hundred steps have touched."""
    shards = started(sizes, num_shards=2, num_workers=1)
    rows = worker_of(shards, 0)
    fill(rows, sizes)
    place = Folder.of(folder)
    place.create()
    cursors: list[Any] = [None, None]
    results = []
    for kind in ("whole", "increment"):
        started_at = time.perf_counter()
        held = rows.at_one_step([(kind, cursor) for cursor in cursors], "hold")
        parts = wait_all([shard.call("write", place, kind) for shard in shards])
        seconds = time.perf_counter() - started_at
        written = sum(file["bytes"] for part in parts for file in part["files"].values())
        pause = max(part.pause_seconds for part in held)
        results += [
            alone(f"pause of a {kind} checkpoint, {sizes.saved_rows:,} rows", "s", [pause], PAUSE),
            alone(f"bytes of a {kind} checkpoint", "MB", [written / 1e6]),
            alone(f"seconds until a {kind} checkpoint is written", "s", [seconds]),
        ]
        cursors = [tuple(part["cursor"]) for part in parts]
        rows.acknowledge("checkpoint", tuple(cursor[0] for cursor in cursors))
        timed_steps(rows, batches_for(replace(sizes, rows=sizes.saved_rows), seed=1))
    return results


def model_shards(
    sizes: Sizes, num_shards: int, num_workers: int = 1, placement: Placement | None = None
) -> list[RayShard]:
    """Shards that hold a model's start, and expect these workers from step 1 on."""
    model = bench_model(sizes)
    begin = Begin(start=model.start_state(), members=dict.fromkeys(range(num_workers), 1))
    return start_shards(model.groups, num_shards, begin, placement)


def model_rows(sizes: Sizes, shards: Sequence[RayShard], worker: int = 0, pace: Pace | None = None) -> WorkerRows:
    """A model's rows as one worker has them."""
    groups = bench_model(sizes).groups
    return WorkerRows(groups, near(shards, groups), worker=worker, pace=pace)


def started(sizes: Sizes, num_shards: int, num_workers: int) -> list[RayShard]:
    """Shards of the bench's one row group."""
    begin = Begin(start=Snapshot((0,), {}), members=dict.fromkeys(range(num_workers), 1))
    return start_shards([bench_group(sizes)], num_shards, begin)


def worker_of(shards: Sequence[RayShard], worker: int) -> WorkerRows:
    """This process as a worker that reads ahead where it is told to."""
    groups = [bench_group(Sizes())]
    return WorkerRows(groups, near(shards, groups), worker=worker, pace=Pace(reads_ahead=True))


def fill(rows: WorkerRows, sizes: Sizes, at_once: int = 250_000) -> None:
    """Give every key a row."""
    for first in range(0, sizes.saved_rows, at_once):
        keys_N = np.arange(first, min(first + at_once, sizes.saved_rows))
        rows.push({"item": (keys_N, np.full((len(keys_N), 16), 0.01, np.float32))}, 0)
    rows.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    given = command_line(__doc__).parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    return run(TITLE, lambda told: measure(QUICK if given.quick else Sizes(), given.folder, told))


if __name__ == "__main__":
    sys.exit(main())
