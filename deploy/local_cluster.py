"""The cluster of ``compose.yaml`` as processes on loopback, and one run through it: ``python -m deploy.local_cluster``.

A Kafka, a Redis and a Ray of a head and two more nodes; ``jobs.submit`` sends ``jobs.online`` to it, which replays
prepared data through Kafka, and its summary is checked. All servers end with this process, however that ends.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from recsys.datasets.prepared import open_prepared
from recsys.embedded.kafka import EmbeddedKafka
from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import DataError, RecsysError
from recsys.runtime.loopback import LoopbackCluster
from recsys.runtime.summary import shortfalls

# Two nodes for shards and workers; the head has the job itself and its joiners.
NODES = ({"shard": 1, "worker": 1}, {"shard": 1, "worker": 1})
PLACEMENT = ("++ray.placement.shard={resources:{shard:1}}", "++ray.placement.worker={resources:{worker:1}}")


@dataclass(frozen=True)
class Servers:
    """What runs."""

    cluster: LoopbackCluster
    kafka: EmbeddedKafka
    redis: EmbeddedRedis


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """All of them, in a folder of their own; ended with the block."""
    with (
        EmbeddedKafka(folder / "kafka") as kafka,
        EmbeddedRedis(folder / "redis") as redis,
        LoopbackCluster(folder / "ray", NODES) as cluster,
    ):
        yield Servers(cluster, kafka, redis)


def run_online(running: Servers, data: Path, run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Send jobs.online to the cluster and follow it to its end; what its summary says. DataError where it fails."""
    command = [
        sys.executable, "-m", "jobs.submit", "job=online", f"address={running.cluster.dashboard}",
        f"kafka.bootstrap_servers={running.kafka.bootstrap_servers}", f"redis.url={running.redis.url}",
        "source=kafka", "replay.enabled=true", f"data.folder={data.resolve()}", f"hydra.run.dir={run.resolve()}",
        *PLACEMENT, *overrides,
    ]  # fmt: skip
    status = subprocess.run(command, env=running.cluster.environment).returncode
    if status:
        raise DataError(f"jobs.online ended with status {status}; what it said is above, and its folder is {run}")
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def problems(summary: dict[str, Any], num_examples: int) -> list[str]:
    """What is not as it should be, one line each."""
    lines = shortfalls(summary)
    if summary["examples"] != num_examples:
        lines.append(f"{summary['examples']} examples were learned; there are {num_examples}")
    if summary["examples_lost"] is None:
        lines.append("lost examples were not counted: the run did not come to the stream's end")
    return lines


def main() -> int:
    """Start everything, run the job, check it; the exit status."""
    asked = _asked(sys.argv[1:])
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        held = open_prepared(asked.data, asked.data.name).manifest.num_impressions
        wanted = held if asked.limit is None else min(asked.limit, held)
        folder = asked.folder.resolve()
        print(f"starting Kafka, Redis and three nodes of Ray in {folder}", flush=True)
        with servers(folder) as running:
            _say_where(running)
            limit = [] if asked.limit is None else [f"replay.limit={asked.limit}"]
            summary = run_online(running, asked.data, folder / "run", [*limit, *asked.overrides])
    except RecsysError as error:
        print(f"local_cluster: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("local_cluster: interrupted; its servers are stopped", file=sys.stderr)
        return 130
    wrong = problems(summary, wanted)
    for line in wrong:
        print(f"local_cluster: {line}", file=sys.stderr)
    print(f"{summary['examples']:,} examples, AUC of the last half {summary['auc_last_half']:.4f}, in {folder / 'run'}")
    return 1 if wrong else 0


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local_cluster", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--data", type=Path, default=Path("data/ml100k"), help="prepared data (python -m jobs.prepare)")
    parser.add_argument("--limit", type=int, help="only the first so many impressions")
    parser.add_argument("--folder", type=Path, default=Path(time.strftime("runs/cluster/%Y-%m-%d_%H-%M-%S")))
    parser.add_argument("overrides", nargs="*", help="of jobs.online: workers=2 store.staleness=2 …")
    return parser.parse_args(arguments)


def _say_where(running: Servers) -> None:
    cluster = running.cluster
    print(f"Ray at {cluster.address}, its dashboard at {cluster.dashboard}, metrics listed in {cluster.metrics_file}")
    print(f"Kafka at {running.kafka.bootstrap_servers}, Redis at {running.redis.url}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
