"""How fast rows are served from Redis, beside a bare redis-py loop and redis-benchmark: ``make bench-serving``.

Redis is the embedded one, over its socket and TCP. The bare loop fetches the same bytes with redis-py and throws them
away. Leaves ``serving.json`` and ``serving.html`` in ``runs/bench``. ``--quick`` is a small form that says nothing
about speed.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benches.neighbours import Neighbours
from benches.result import Result, beside, write_results
from benches.running import Told, command_line, run
from benches.serving_data import films
from benches.serving_ranking import rankings
from benches.serving_reading import asyncio_clients, compact_lookups, feast, lookups
from benches.serving_runs import QUICK, Served, Sizes
from benches.serving_writing import memory, publishing
from recsys.embedded.redis import EmbeddedRedis
from recsys.embedded.redis_url import open_client
from recsys.training.report import Plot

TITLE = "Serving"


def measure(sizes: Sizes, folder: Path, told: Told) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    torch.set_num_threads(1)
    neighbours, results = Neighbours(), []
    with EmbeddedRedis(Path(tempfile.mkdtemp(prefix="redis-"))) as redis:
        redis_client = open_client(redis.url)
        redis_client.config_set("appendonly", "no")  # a disk is not what is measured
        told(f"publishing {sizes.rows:,} rows")
        served = Served(redis, films(sizes.rows, sizes.items), sizes)
        served.films.serve(redis_client, "fast")
        served.films.serve(redis_client, "half", row_format="float16")
        for what, measured in MEASURES.items():
            told(what)
            results += measured(served)
    others = neighbours.cores_used() or 0.0
    results = beside(results, others)
    about = {"sizes": str(sizes), "cores used by others": others}
    plots: list[Plot] = []
    told(f"written: {', '.join(map(str, write_results(folder, 'serving', TITLE, results, about, plots)))}")
    return results


MEASURES: dict[str, Callable[[Served], list[Result]]] = {
    "lookups": lookups,
    "asyncio": asyncio_clients,
    "rankings": rankings,
    "Feast": feast,
    "publishing": publishing,
    "compact lookups": compact_lookups,
    "memory": memory,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    given = command_line(__doc__).parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    return run(TITLE, lambda told: measure(QUICK if given.quick else Sizes(), given.folder, told))


if __name__ == "__main__":
    sys.exit(main())
