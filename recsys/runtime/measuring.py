"""What a run of a comparison is worth: trained as its configuration says, then its bytes and its speed measured."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from recsys.errors import ConfigError
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowStore
from recsys.runtime.own_map import full_recommender, served_bytes, wants_map, with_map_of_graph, with_map_of_positives
from recsys.runtime.parts import parts_of
from recsys.runtime.retrieving import RetrieveSettings, retrieve
from recsys.runtime.sections import TrainConfig
from recsys.runtime.settings import build_blueprint
from recsys.runtime.training import train
from recsys.tables import with_map
from recsys.tables.embeddings import Embeddings
from recsys.tabular.prepared import open_examples
from recsys.training.comparison import Line
from recsys.training.retrieval import Graphs
from recsys.training.stage import trained

IDS_A_LOOKUP = 1000
_LOOKUPS, _TURNS = 10, 5  # the best turn counts


def measured(line: Line, config: Mapping[str, Any], folder: Path, console: Console) -> Line:
    """The line of a run that is trained here; a RecsysError of the job whose configuration it is."""
    (folder / "told.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return (_retrieved if "retriever" in config else _trained)(line, config, folder, console)


# --- as jobs.train does


def _trained(line: Line, config: Mapping[str, Any], folder: Path, console: Console) -> Line:
    settings = build(TrainConfig, config, "")
    if settings.is_in_order:
        raise ConfigError("runs are compared by their test part, which what is learned as it was recorded has not")
    prepared = None if settings.data.examples is None else open_examples(settings.data)
    blueprint = _blueprint(line, config, settings, None if prepared is None else prepared.features)
    parts, pace, begun = parts_of(settings, prepared, folder, console), Pace(), time.process_time()
    train(settings, blueprint, parts, folder, console, pace)
    cpu_seconds = time.process_time() - begun
    recommender, store = trained(folder)
    return replace(
        line,
        kind=recommender.blueprint.table["kind"],
        **_quality(folder),
        **_bytes(folder, recommender, store),
        full_bytes=served_bytes(full_recommender(blueprint).embeddings),
        examples_per_second=settings.batch.max_examples / pace.step_seconds,
        lookup_us=_lookup_of_recommender(recommender, store, settings.seed),
        cpu_seconds=cpu_seconds,
    )


def _blueprint(line: Line, config: Mapping[str, Any], settings: TrainConfig, features: Any) -> Blueprint:
    """The blueprint, with a map made for it where its kind wants one and a size is asked for."""
    if not _wants_own_map(line, config):
        return build_blueprint(config, features)
    assert line.compression is not None
    table = config["table"]
    full = {**config, "table": {"kind": "full", "embedding_dim": table["embedding_dim"]}}
    wanted = replace(build_blueprint(full, features), table=table)
    return with_map_of_positives(wanted, settings.data, line.compression)


def _wants_own_map(line: Line, config: Mapping[str, Any]) -> bool:
    table = config["table"]
    return line.compression is not None and wants_map(table) and not Path(str(table.get("map"))).is_file()


@dataclass
class Pace:
    """How long steps take, in CPU time: told of each. Between two may lie a validation, which the median leaves out."""

    seconds: list[float] = field(default_factory=list)
    last: float | None = None

    def __call__(self, step: int, steps: int | None) -> None:
        """A step has ended."""
        now = time.process_time()
        if self.last is not None and step > 1:
            self.seconds.append(now - self.last)
        self.last = now

    @property
    def step_seconds(self) -> float:
        """Of the median step; nan where there was one alone."""
        return float(np.median(self.seconds)) if self.seconds else float("nan")


def _quality(folder: Path) -> dict[str, Any]:
    """What the best weights are worth on test, and which epoch had them."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {
        "auc": summary["test"]["auc"],
        "logloss": summary["test"]["logloss"],
        "best_epoch": summary["valid"][summary["best_at"]]["epoch"],
    }


def _bytes(folder: Path, recommender: Recommender, store: RowStore) -> dict[str, Any]:
    """What tables take: served as they are at the end, trained as they were at their most."""
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("summary.json")]
    of_stages = [stage["tables"].values() for stage in stages]
    return {
        "train_bytes": max(sum(table["training_bytes"] for table in tables) for tables in of_stages),
        "optimizer_bytes": max(sum(table["optimizer_bytes"] for table in tables) for tables in of_stages),
        "serving_bytes": served_bytes(recommender.embeddings, store.num_rows()),
        "map_bytes": sum(table.map_bytes("serving") for table in recommender.embeddings.tables.values()),
    }


def _lookup_of_recommender(recommender: Recommender, store: RowStore, seed: int) -> float | None:
    """See ``lookup_us``: of the feature with the most ids; None where no size is declared."""
    sized = [feature for feature in recommender.features if feature.kind != "number" and feature.size]
    if not sized:
        return None
    largest = max(sized, key=lambda feature: feature.size or 0)
    recommender.load_dense(store.pull(recommender.dense_keys))
    name = recommender.table_of(largest.name)
    return lookup_us(recommender.embeddings, name, largest.name, largest.size or 0, store, seed)


# --- as jobs.retrieve does


def _retrieved(line: Line, config: Mapping[str, Any], folder: Path, console: Console) -> Line:
    settings = RetrieveSettings.of(config)
    graphs, begun = settings.graphs(), time.process_time()
    found = retrieve(
        settings,
        _table(line, config, settings, graphs),
        graphs,
        seconds=time.process_time,
        on_judged=lambda epoch, said: console.print(f"epoch {epoch}: valid recall@20 {said['recall']:.4f}"),
    )
    cpu_seconds = time.process_time() - begun
    (folder / "summary.json").write_text(json.dumps(found.summary, indent=2) + "\n", encoding="utf-8")
    tables, num_rows, last = found.embeddings.tables.values(), found.store.num_rows(), found.fitted.history[-1]
    training = [table.nbytes("training", num_rows) for table in tables]
    item = next(table for table in tables if "item" in table.config.feature_names)
    return replace(
        line,
        kind=settings.table["kind"],
        recall=found.summary["test"]["recall"],
        ndcg=found.summary["test"]["ndcg"],
        best_epoch=float(found.fitted.epoch),
        train_bytes=sum(taken.total for taken in training),
        optimizer_bytes=sum(taken.optimizer for taken in training),
        serving_bytes=served_bytes(found.embeddings, num_rows),
        map_bytes=found.summary["map_bytes"],
        full_bytes=4 * settings.table["embedding_dim"] * (graphs.train.num_users + graphs.train.num_items),
        examples_per_second=graphs.train.num_edges * last["epoch"] / last["learning_seconds"],
        lookup_us=lookup_us(
            found.embeddings, item.config.name, "item", graphs.train.num_items, found.store, settings.seed
        ),
        cpu_seconds=cpu_seconds,
    )


def _table(line: Line, config: Mapping[str, Any], settings: RetrieveSettings, graphs: Graphs) -> Mapping[str, Any]:
    """The table's fields, with the map that they name, or one made for them."""
    if not _wants_own_map(line, config):
        return with_map(settings.table, settings.interactions.name)
    assert line.compression is not None
    return with_map_of_graph(settings.table, graphs.train, settings.interactions.name, line.compression)


# --- lookups


@torch.no_grad()
def lookup_us(
    embeddings: Embeddings, name: str, feature: str, num_ids: int, store: RowStore, seed: int
) -> float | None:
    """Microseconds of CPU for the vectors of 1,000 of a feature's ids, rows in this process; the best of some turns.

    None where the table knows none of the ids any more.
    """
    ids_N = np.arange(num_ids)
    known_N = embeddings.tables[name].known(feature, torch.from_numpy(ids_N))
    if known_N is not None:
        ids_N = ids_N[known_N.numpy()]
    if not len(ids_N):
        return None
    asked_N = np.random.default_rng(seed).choice(ids_N, IDS_A_LOOKUP)
    turns = []
    for _ in range(_TURNS):
        begun = time.process_time()
        for _ in range(_LOOKUPS):
            embeddings.embed(name, feature, asked_N, store)
        turns.append((time.process_time() - begun) / _LOOKUPS)
    return 1e6 * min(turns)
