"""From what one shard does here to what a cluster needs: ``python -m benches.capacity``, after ``make bench-ps``.

A model of three lines. Shards are as many as the rows a second ask for, or the memory, whichever is more; a node's
network carries what its shards answer and are sent. It leaves out what a switch, a slow node or a hot key costs: take
its shards as the least there can be. Leaves ``capacity.json`` and ``capacity.html`` in ``runs/bench``.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benches.ps import OF_ONE_SHARD
from benches.result import alone, print_results, write_results
from recsys.training.report import Plot

TITLE = "Capacity"
_KEY_BYTES, _ROW_BYTES = 8, 64  # a key; 16 float32
_STATE_BYTES, _EXTRA_BYTES = 4, 24  # row-wise Adagrad; index, admission and expiry (docs/row_stores.md)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine that holds shards, one a core."""

    cores: int = 32
    memory_gb: float = 256
    memory_share: float = 0.7  # for rows: the rest is for a snapshot under way, the system, and growth


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be trained."""

    ids: float
    examples_a_second: float
    rows_an_example: float = 20  # unique rows, after those that a batch has twice


@dataclass(frozen=True)
class Need:
    """What that takes."""

    shards: int
    nodes: int
    memory_tb: float
    gbit_a_node: float


def need(load: Load, node: Node, rows_a_second: float) -> Need:
    """Shards, nodes, memory and network for a load, where a shard pulls and pushes so many rows a second.

    >>> need(Load(ids=1e9, examples_a_second=1e6), Node(), rows_a_second=2e6)
    Need(shards=10, nodes=1, memory_tb=0.092, gbit_a_node=24.32)
    """
    rows = load.examples_a_second * load.rows_an_example
    memory = load.ids * (_ROW_BYTES + _STATE_BYTES + _EXTRA_BYTES)
    for_rate = math.ceil(rows / rows_a_second)
    for_memory = math.ceil(memory / (node.memory_share * node.memory_gb * 1e9))
    nodes = max(math.ceil(for_rate / node.cores), for_memory)
    bytes_a_row = 2 * (_KEY_BYTES + _ROW_BYTES) + _KEY_BYTES  # asked for, answered, pushed
    return Need(max(for_rate, nodes), nodes, memory / 1e12, rows * bytes_a_row * 8 / 1e9 / nodes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read what was measured, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--rows-a-second", type=float, help="of one shard; by default what make bench-ps has measured")
    parser.add_argument("--ids", type=float, nargs="+", default=[1e9, 1e11])
    parser.add_argument("--examples-a-second", type=float, default=1e6)
    given = parser.parse_args(arguments)
    rate = given.rows_a_second or _measured(given.folder / "ps.json")
    if rate is None:
        print(f"error: no {given.folder / 'ps.json'}; make bench-ps, or give --rows-a-second", file=sys.stderr)
        return 2
    results, series, node = [], {}, Node()
    loads = np.logspace(4, 7, 31)
    for ids in given.ids:
        found = need(Load(ids=ids, examples_a_second=given.examples_a_second), node, rate)
        name = f"{ids:.0e} ids"
        for what, unit, value in (
            ("shards", "shards", found.shards),
            ("nodes", "nodes", found.nodes),
            ("memory", "TB", found.memory_tb),
            ("network", "Gbit/s a node", found.gbit_a_node),
        ):
            results.append(alone(f"{name}, {given.examples_a_second:.0e} examples/s: {what}", unit, [value]))
        nodes = [float(need(Load(ids=ids, examples_a_second=x), node, rate).nodes) for x in loads]
        series[name] = (loads.tolist(), nodes)
    plot = Plot("Nodes for a load", "examples a second", "nodes", series, log_x=True)
    about = {"rows a second and shard": rate, "node": str(node), "load": str(Load(ids=0, examples_a_second=0))}
    write_results(given.folder, "capacity", TITLE, results, about, [plot])
    print_results(Console(), TITLE, results)
    return 0


def _measured(path: Path) -> float | None:
    """Rows a second of one shard, as ``make bench-ps`` has left them."""
    if not path.is_file():
        return None
    lines = json.loads(path.read_text())
    return next((1e6 * line["ours"] for line in lines if line["measure"] == OF_ONE_SHARD), None)


if __name__ == "__main__":
    sys.exit(main())
