"""What stale reads cost: progressive AUC on real ratings where every read is s steps old: ``make bench-staleness``.

A worker may be at most ``store.staleness`` steps ahead of the slowest. How stale its reads then are depends on the
machines; here every read is as stale as the bound allows, of rows and of dense parameters alike, so the curve is the
worst that a bound can do, and the same on every machine. Leaves ``staleness.json`` and ``.html`` in ``runs/bench``.
"""

import argparse
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from torch.nn import functional

from benches.result import Result, alone, print_results, write_results
from recsys.batches.batch import LabelledBatch
from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import event_files
from recsys.errors import RecsysError
from recsys.fields import build
from recsys.models.recommender import Blueprint, Planned, Recommender
from recsys.rows.local import LocalRows
from recsys.runtime.sections import OnlineConfig
from recsys.runtime.settings import build_blueprint
from recsys.streams.parquet import ParquetSource
from recsys.training import metrics
from recsys.training.fit import batches_of, join_recorded
from recsys.training.report import Plot

TITLE = "What staleness costs"
BOUNDS = (0, 1, 2, 4, 8, 16, 32)


def stale_predictions(blueprint: Blueprint, batches: Sequence[LabelledBatch], staleness: int) -> np.ndarray:
    """Predictions before learning, of steps whose rows were all read ``staleness`` steps before."""
    recommender = Recommender(blueprint)
    store = LocalRows(recommender.groups)
    store.restore(recommender.start_state())
    read: deque[tuple[LabelledBatch, Planned, Any]] = deque()
    found = []
    for batch in [*batches, *[None] * staleness]:
        if batch is not None:
            planned = recommender.plan(batch)
            read.append((batch, planned, store.pull(planned.keys)))
        if len(read) > staleness or batch is None:
            found.append(_step(recommender, store, *read.popleft()))
    return np.concatenate(found)


def _step(recommender: Recommender, store: LocalRows, batch: LabelledBatch, planned: Planned, rows: Any) -> np.ndarray:
    logits_B, looked = recommender(planned, rows)
    functional.binary_cross_entropy_with_logits(logits_B, torch.from_numpy(batch.labels_B)).backward()
    store.push(recommender.gradients(looked), int(batch.times_ms_B.max()))
    probabilities_B: np.ndarray = torch.sigmoid(logits_B.detach()).numpy()
    return probabilities_B


def measure(config: dict[str, Any], bounds: Sequence[int], limit: int | None, seeds: int) -> Iterator[Result]:
    """AUC of the last half of the stream, one result a bound; the spread is over seeds."""
    examples = _joined(config, limit)
    labels = np.array(examples.column("label"))
    features, half = build_blueprint(config).features, len(labels) // 2
    batches = list(batches_of(examples, features, config["batch"]["max_examples"]))
    for staleness in bounds:
        aucs = []
        for seed in range(seeds):
            blueprint = build_blueprint({**config, "seed": seed})
            predicted = stale_predictions(blueprint, batches, staleness)
            aucs.append(metrics.auc(labels[half:], predicted[half:]))
        yield alone(f"AUC of the last half, reads {staleness} steps old", "AUC", aucs)


def _joined(config: dict[str, Any], limit: int | None) -> pa.Table:
    said = build(OnlineConfig, config, "")
    prepared = open_prepared(said.data.folder, said.data.name)
    with tempfile.TemporaryDirectory() as name:
        files = event_files(prepared, limit, Path(name))
        source = ParquetSource(files, 1)
        return join_recorded(source, 1, said.join, said.data.features, Path(name) / "dead").examples


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml_latest_small")
    parser.add_argument("--limit", type=int, help="only the first so many ratings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bounds", type=int, nargs="+", default=BOUNDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    conf, console, started = Path(__file__).resolve().parents[1] / "conf", Console(), time.perf_counter()
    with initialize_config_dir(str(conf), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("online", [f"data={given.data}"]), resolve=True)
    results = []
    try:
        for result in measure(config, given.bounds, given.limit, given.seeds):
            results.append(result)
            console.print(f"{time.perf_counter() - started:6.1f} s  {result.measure}: {result.ours:.4f}")
    except RecsysError as error:
        print(f"error: {error}; python -m jobs.prepare data={given.data}", file=sys.stderr)
        return 2
    aucs = [result.ours for result in results]
    plot = Plot("What stale reads cost", "steps old", "AUC of the last half", {given.data: (list(given.bounds), aucs)})
    write_results(given.folder, "staleness", TITLE, results, {"data": given.data, "seeds": given.seeds}, [plot])
    print_results(console, TITLE, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
