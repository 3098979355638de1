"""What table kinds cost beside a full table: ``make bench-tables``, or ``python -m benches.tables``.

One feature of a million ids, 16 numbers each, compressed eightfold where the kind can be: a training step's lookup
(address, one pull, compose, backward, push with row-wise Adagrad; a dense kind's own parameters with SGD), and a lookup
of single ids from a Redis of its own. All kinds in the same run, in turns. Leaves ``tables.json`` and ``tables.html``
in ``runs/bench``. ``--quick`` is a small form that says nothing about speed; ``--cpu`` measures training in this
process' CPU time, which other programs on the machine hardly change, and leaves Redis out.

Shape suffixes: N ids a call, B examples, D embedding dimension, R rounds.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from redis import Redis

from benches.draws import LAWS, Batch, Law, draw
from benches.neighbours import Neighbours
from benches.result import Result, Target, against, beside, write_results
from benches.row_measures import Call, count, rates
from benches.running import Told, command_line, run
from recsys.batches.batch import Bag
from recsys.embedded.redis import EmbeddedRedis
from recsys.features.declarations import Feature
from recsys.fields import AtLeast, build
from recsys.hashing import hash_to_range
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import RowWiseAdagrad
from recsys.serving.published import PublishedRows
from recsys.sync.publisher import Publisher
from recsys.tables import TABLES, plan_tables
from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.tables.embeddings import Embeddings
from recsys.tables.frequent_map import FrequentMap
from recsys.tables.kept_map import KeptIds

TITLE = "Table kinds"
FULL, RATE = "full", "M ids/s"
FIELDS: dict[str, dict[str, Any]] = {
    "mde": {"alpha": 0.15},
    "int8": {},
    "int16": {},
    "alpt": {},
    "dhe": {},
    "tt_rec": {},
    "collisionless": {},
    "optembed": {},
    "deeplight": {},
    "pep": {},
    "autosrh": {},
    "autodim": {},
}
COMPRESSED: dict[str, Any] = {"compression": 8}
LOOKUPS = {  # rows an id, where it is not one
    "unified": 2, "double_hash": 2, "hash_embedding": 3, "compositional": 2, "robe": 2, "tt_rec": 3, "frequency": 2,
    "cafe": 2, "double_graphhash": 2, "cce": 8,
}  # fmt: skip
LEFT = ("pruned", "codes", "sparse")  # what stages leave
KINDS = tuple(kind for kind in TABLES if kind not in LEFT)
MAPPED = ("graphhash", "double_graphhash")  # as large as the map that they are given
SINGLE = 0.8
QUICK = {"ids": 2000, "ids_a_step": 200, "served": 20, "rounds": 2, "turns": 1}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many ids there are, how many a step and a request ask for; a round takes the best of its ``turns``."""

    ids: Annotated[int, AtLeast(1000)] = 1_000_000
    ids_a_step: Annotated[int, AtLeast(10)] = 20_000
    served: Annotated[int, AtLeast(1)] = 500
    rounds: Annotated[int, AtLeast(2)] = 15
    turns: Annotated[int, AtLeast(1)] = 3
    seed: int = 0


def _fields_of(kind: str, sizes: Sizes) -> dict[str, Any]:
    """What makes a table of one kind an eighth as large as a full one, where it can be."""
    if kind == FULL:
        return {}
    if kind == "mgqe":
        tables = {"item": KeptIds.of(np.arange(sizes.ids) % 10 == 0, width=1)}
        return {**COMPRESSED, "map": FrequentMap(method="every tenth", data="bench", tables=tables).to_json()}
    if kind not in MAPPED:
        return FIELDS.get(kind, COMPRESSED)
    buckets_N = hash_to_range(np.arange(sizes.ids), sizes.ids // 8, seed=sizes.seed)
    buckets = {"item": Buckets.of(buckets_N, sizes.ids // 8)}
    made = BucketMap(method="hash", data="bench", fingerprint="", seed=sizes.seed, tables=buckets)
    return {"map": made.to_json()}


class Learner:
    """The table of one kind, its rows and its own parameters."""

    def __init__(self, kind: str, sizes: Sizes, clock: Callable[[], float]) -> None:
        self._clock = clock
        item = Feature(name="item", kind="id", source="item.id", num_embeddings=sizes.ids)
        fields = {"kind": kind, "embedding_dim": 16, **_fields_of(kind, sizes)}
        (config,) = plan_tables(fields, [item], optimizer=RowWiseAdagrad(learning_rate=0.05), seed=sizes.seed)
        self.embeddings = Embeddings([config])
        self.table = self.embeddings.tables[config.name]
        self.store = LocalRows(list(self.embeddings.groups.values()))
        self._name = config.name
        self._optimizer = torch.optim.SGD([*self.embeddings.parameters(), torch.zeros(1)], lr=0.01)
        self._gradients_ND = torch.randn(sizes.ids_a_step, 16, generator=torch.Generator().manual_seed(sizes.seed))
        self._offsets = np.arange(sizes.ids_a_step + 1)

    def step(self, batch: Batch) -> float:
        """One training step's lookup; its seconds."""
        start = self._clock()
        looked = self.embeddings.lookup({"item": Bag(batch.rows_N, self._offsets)}, self.store)
        self.embeddings.pool(looked)[self._name, "item"].backward(self._gradients_ND)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.store.push(looked.gradients(), 0)
        return self._clock() - start

    @torch.no_grad()
    def serve(self, rows: PublishedRows, batch: Batch) -> float:
        """One lookup of single ids; its seconds."""
        start = time.perf_counter()
        self.embeddings.embed(self._name, "item", batch.rows_N, rows)
        return time.perf_counter() - start


def measure(sizes: Sizes, folder: Path, told: Told, *, cpu: bool = False) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    neighbours, clock = Neighbours(), time.process_time if cpu else time.perf_counter
    learners = {kind: Learner(kind, sizes, clock) for kind in KINDS}
    results = []
    for law in LAWS:
        told(f"training, {LAWS[law]}")
        calls: dict[str, Call] = {kind: learner.step for kind, learner in learners.items()}
        results += compared(f"training, {count(sizes.ids_a_step)} ids a step, {LAWS[law]}", calls, sizes, law)
    if not cpu:
        told("lookups from Redis")
        results += serving(learners, sizes, folder)
    others = neighbours.cores_used() or 0.0
    results = beside(results, 0.0 if cpu else others)
    taken = {kind: one.table.nbytes("serving", one.store.num_rows()).total for kind, one in learners.items()}
    about = {
        "sizes": str(sizes),
        "cores used by others": others,
        "torch": torch.__version__,
        "serving": ", ".join(f"{kind}: {num:,} bytes" for kind, num in taken.items()),
    }
    told(f"written: {', '.join(map(str, write_results(folder, 'tables', TITLE, results, about, [])))}")
    return results


def serving(learners: Mapping[str, Learner], sizes: Sizes, folder: Path) -> list[Result]:
    """Lookups of what the learners have learned, from a Redis of their own."""
    with EmbeddedRedis(Path(tempfile.mkdtemp(prefix="bench-", dir=folder))) as server:
        served = {kind: server_of(learner, kind, server.url) for kind, learner in learners.items()}
        asked = replace(sizes, ids_a_step=sizes.served)
        return compared(f"lookup from Redis, {sizes.served} ids a request", served, asked, "zipf")


def compared(measure: str, calls: dict[str, Call], sizes: Sizes, law: Law) -> list[Result]:
    """Each kind beside ``full``; the target of one row an id is 0.8 of it, of k rows 0.8 / k."""
    by_kind = rates(calls, draw(law, sizes.ids, sizes.ids_a_step, 8, sizes.seed), sizes.rounds, sizes.turns)
    return [
        against(f"{kind}: {measure}", RATE, rate_R, FULL, by_kind[FULL], Target(value=SINGLE / LOOKUPS.get(kind, 1)))
        for kind, rate_R in by_kind.items()
        if kind != FULL
    ]


def server_of(learner: Learner, kind: str, url: str) -> Call:
    """A learner's rows published, and the call that looks ids up there."""
    layout = Layout(model=kind, run="bench")
    Publisher.connect(url, learner.store, [], layout, time_ms=lambda: 0).publish()
    rows = PublishedRows(Redis.from_url(url), layout, learner.embeddings.groups)
    return lambda batch: learner.serve(rows, batch)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = command_line(__doc__)
    parser.add_argument("--ids", type=int, help="ids of the feature")
    parser.add_argument("--rounds", type=int, help="how often each call is timed")
    parser.add_argument("--cpu", action="store_true", help="CPU time of training alone: for a machine that is busy")
    given = parser.parse_args(arguments)
    chosen = {name: getattr(given, name) for name in ("ids", "rounds") if getattr(given, name) is not None}
    sizes = build(Sizes, (QUICK if given.quick else {}) | chosen, "")
    torch.set_num_threads(1)
    return run(TITLE, lambda told: measure(sizes, given.folder, told, cpu=given.cpu))


if __name__ == "__main__":
    sys.exit(main())
