"""What GraphHash's clusters find beside hashing in as many rows, on its papers' splits.

``python -m benches.graphhash`` appends a line a run to ``docs/results/graphhash.jsonl`` and goes on where it stopped;
then it writes ``docs/results/graphhash.md`` and its plots. ``--data gowalla --retriever mf --seeds 1`` is a part of it.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.graphhash_page import best_rate, write_page
from benches.running import Told, add_line, command_line, or_error, read_lines
from recsys.datasets.interaction_files import InteractionFiles, data_folder
from recsys.datasets.interactions import Interactions, Pairs, read_interactions
from recsys.errors import ConfigError
from recsys.fields import build
from recsys.graphs.methods import Method
from recsys.models.retrieval import build_retriever
from recsys.rows.optimizers import Adam
from recsys.tables.assign import assigned_map, clustered_map, uneven_map
from recsys.tables.bucket_map import BucketMap
from recsys.training.fitting import RetrievalFit
from recsys.training.ranking import judge, popularity
from recsys.training.retrieval import Graphs, figures, fit_retriever, judge_test, local_trainer

_CONF = Path(__file__).resolve().parents[1] / "conf"
DIM = 64
GAMMA = 200.0  # the authors', of Gowalla and Yelp2018


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A method: its map's, the kind of its tables, the parts of the rows for the heaviest ids, and for items."""

    map: Method = "graphhash"
    kind: str = "graphhash"
    own_fraction: float = 0.0
    item_fraction: float | None = None


METHODS = {  # all in the rows of ``graphhash``
    "graphhash": Compressed(),
    "double_graphhash": Compressed(kind="double_graphhash"),
    "graphhash_own": Compressed(own_fraction=0.25),
    "graphhash_uneven": Compressed(own_fraction=0.25, item_fraction=0.75),
    "random": Compressed(map="random"),
    "frequency": Compressed(map="frequency", own_fraction=0.5),
    "double": Compressed(map="hash", kind="double_graphhash"),
    "double_frequency": Compressed(map="frequency", kind="double_graphhash", own_fraction=0.5),
    "lsh": Compressed(map="lsh"),
}
ORDER = ["full", *METHODS]
OF_LIGHTGCN = ["full", "graphhash", "double", "double_frequency"]
FITS = {
    "mf": RetrievalFit(epochs=200, batch_size=16384, judge_every=1, patience=4, regularisation=0.01, valid_users=2048),
    "lightgcn": RetrievalFit(
        epochs=200, batch_size=65536, judge_every=4, patience=3, regularisation=0.001, valid_users=2048
    ),
}
LEARNING_RATES = [0.01, 0.003]  # seed 0 tries all, later seeds take the one that validated best
INITIAL_SCALE = 0.1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of the results."""

    data: str
    retriever: str
    method: str
    seed: int
    learning_rate: float = 0.0  # of runs without a model

    @property
    def key(self) -> tuple[str, str, str, int, float]:
        """What tells runs apart."""
        return self.data, self.retriever, self.method, self.seed, self.learning_rate


class Bench:
    """Data sets are read, and their maps made, once."""

    def __init__(self, told: Told, fits: Mapping[str, RetrievalFit], gamma: float) -> None:
        self._told, self._fits, self._gamma = told, fits, gamma
        self._graphs: dict[str, Graphs] = {}
        self._clustered: dict[str, BucketMap] = {}

    def line(self, run: Run) -> dict[str, Any]:
        """Train, stop at the best validation, judge."""
        graphs = self.graphs(run.data)
        table, made = self._table(run)
        retriever = build_retriever({"kind": run.retriever}, graphs.train)
        optimizer = Adam(learning_rate=run.learning_rate)
        trainer, embeddings, _ = local_trainer(table, retriever, graphs.train, optimizer, run.seed)
        fit = self._fits[run.retriever]
        fitted = fit_retriever(
            trainer,
            graphs,
            fit,
            seed=run.seed,
            seconds=time.process_time,
            on_judged=lambda epoch, said: self._told(
                f"{run.method} {run.learning_rate}, epoch {epoch}: valid recall {said['recall']:.4f}"
            ),
        )
        rows = sum(group.num_rows or 0 for group in embeddings.groups.values())
        return {
            **run.__dict__,
            "test": figures(judge_test(fitted, graphs, run.seed)),
            "valid": max(said["recall"] for said in fitted.history),
            "epoch": fitted.epoch,
            "rows": rows,
            "bytes": 4 * DIM * rows + (made.nbytes if made is not None else 0),
            "gamma": None if made is None else made.gamma,
            "cpu_seconds": fitted.history[-1]["seconds"],
            "history": [[said["epoch"], said["recall"]] for said in fitted.history],
        }

    def floor(self, run: Run) -> dict[str, Any]:
        """What the most popular items find."""
        graphs = self.graphs(run.data)
        found = judge(*popularity(graphs.train), graphs.test, [graphs.train, graphs.valid])
        return {**run.__dict__, "test": figures(found)}

    def graphs(self, data: str) -> Graphs:
        """The parts of a data set."""
        if data not in self._graphs:
            self._told(f"reading {data}")
            self._graphs[data] = Graphs.of(planted() if data == "planted" else _published(data))
        return self._graphs[data]

    def _table(self, run: Run) -> tuple[dict[str, Any], BucketMap | None]:
        """The YAML fields of a method's table, and its map."""
        fields = {"kind": "full", "embedding_dim": DIM, "initial_scale": INITIAL_SCALE}
        if run.method == "full":
            return fields, None
        made = self._map(run)
        return {**fields, "kind": METHODS[run.method].kind, "map": made.to_json()}, made

    def _map(self, run: Run) -> BucketMap:
        """A method's map, of as many rows as ``graphhash`` has; those of hashes are drawn anew with each seed."""
        graph = self.graphs(run.data).train
        method = METHODS[run.method]
        if run.data not in self._clustered:
            self._clustered[run.data] = clustered_map(graph, run.data, gamma=self._gamma)
        clustered = self._clustered[run.data]
        rows, own_fraction = clustered.num_buckets, method.own_fraction
        if method.map != "graphhash":
            sizes = clustered.tables["user"].num_buckets, clustered.tables["item"].num_buckets
            return assigned_map(graph, run.data, method.map, sizes, run.seed, own_fraction)
        if method.item_fraction is not None:
            return uneven_map(
                graph, run.data, num_buckets=rows, item_fraction=method.item_fraction, own_fraction=own_fraction
            )
        if own_fraction:
            return clustered_map(graph, run.data, num_buckets=rows, own_fraction=own_fraction)
        return clustered


def _published(data: str) -> Interactions:
    """A data set as conf/interactions declares it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(_CONF), version_base="1.3"):
        declared = OmegaConf.to_container(compose("retrieve", [f"interactions={data}"]).interactions)
    return read_interactions(build(InteractionFiles, declared, "interactions"), data_folder(), seed=0)  # type: ignore[arg-type]


def planted(num_blocks: int = 10, users: int = 12, items: int = 40) -> Interactions:
    """Users like items of their own block: small, and known to cluster."""
    random = np.random.default_rng(0)
    pairs_E2 = np.array([
        (block * users + user, block * items + item)
        for block in range(num_blocks) for user in range(users) for item in random.choice(items, 20, replace=False)
    ])  # fmt: skip
    part_E = random.permutation(len(pairs_E2)) % 10
    train, valid, test = (Pairs(*pairs_E2[chosen].T) for chosen in (part_E < 7, part_E == 7, part_E > 7))
    return Interactions("planted", train, valid, test, num_blocks * users, num_blocks * items)


def planned(
    lines: list[dict[str, Any]],
    datas: list[str],
    retrievers: list[str],
    methods: list[str] | None,
    num_seeds: int,
    rates: list[float],
) -> Iterator[Run]:
    """The runs in order, a seed of everything before the next; ``lines`` grows meanwhile."""
    for data in datas:
        yield Run(data=data, retriever="none", method="popularity", seed=0)
    for seed in range(num_seeds):
        for retriever in retrievers:
            for data in datas:
                for method in methods or (ORDER if retriever == "mf" else OF_LIGHTGCN):
                    tried = rates if seed == 0 else [best_rate(lines, data, retriever, method)]
                    for rate in tried:
                        yield Run(data=data, retriever=retriever, method=method, seed=seed, learning_rate=rate)


def main() -> int:
    """Run what is not there yet; a page of everything that is."""
    parser = command_line(__doc__)
    parser.set_defaults(folder=Path("docs/results"))
    parser.add_argument("--data", nargs="+", default=["gowalla", "yelp2018"])
    parser.add_argument("--retriever", nargs="+", default=["mf"], choices=list(FITS))
    parser.add_argument("--method", nargs="+", choices=ORDER, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=LEARNING_RATES)
    said = parser.parse_args()
    start = time.perf_counter()

    def told(what: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {what}", flush=True)

    def act() -> int:
        if said.seeds < 1:
            raise ConfigError(f"--seeds {said.seeds} must be at least 1")
        if said.quick:
            quick = {name: replace(fit, epochs=6, batch_size=512) for name, fit in FITS.items()}
            bench, datas, rates = Bench(told, quick, gamma=20.0), ["planted"], LEARNING_RATES[:1]
        else:
            bench, datas, rates = Bench(told, FITS, GAMMA), said.data, said.rates
        lines = read_lines(said.folder / "graphhash.jsonl")
        _run(bench, planned(lines, datas, said.retriever, said.method, said.seeds, rates), lines, said.folder, told)
        for path in write_page(said.folder, lines):
            told(f"wrote {path}")
        return 0

    return or_error(act)


def _run(bench: Bench, runs: Iterable[Run], lines: list[dict[str, Any]], folder: Path, told: Told) -> None:
    """Append a line for each run that has none."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {Run(**{name: line[name] for name in Run.__dataclass_fields__}).key for line in lines}
    for run in runs:
        if run.key in there:
            continue
        line = bench.floor(run) if run.retriever == "none" else bench.line(run)
        add_line(folder / "graphhash.jsonl", line)
        lines.append(line)
        told(f"{' '.join(map(str, run.key))}: recall@20 {line['test']['recall']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
