"""What jobs.online does where ``evaluation`` is set: the stream learned in this process, a line in the results."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from recsys.batches.batch import LabelledBatch
from recsys.features.declarations import Feature
from recsys.fields import build
from recsys.models.recommender import Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import WHOLE, RowStore
from recsys.runtime.sections import OnlineConfig
from recsys.runtime.settings import build_blueprint
from recsys.tabular.batches import ExampleFile
from recsys.tabular.prepared import open_examples
from recsys.tabular.sets import SPLITS
from recsys.training.experiment_page import write_page
from recsys.training.experiments import Results, figures_of, flat
from recsys.training.fit import batches_of
from recsys.training.recorded import kept_examples, key_of, read_kept
from recsys.training.rehearsal import Evaluation, rehearse
from recsys.training.trainer import Trainer

_SECTIONS = ("table", "model", "optimizer", "batch", "join", "sampling")  # what a result follows from, with its data


def run_rehearsal(config: Mapping[str, Any], folder: Path) -> None:
    """Learn and judge, unless that has been done; leave the line, and the page with it."""
    console = Console()
    said = build(OnlineConfig, config, "")
    evaluation = said.evaluation
    assert evaluation is not None
    page = evaluation.folder / f"{evaluation.page}.md"
    results = Results(page.with_suffix(".jsonl"))
    settings = _settings(config, evaluation)
    key = key_of({**settings, "features": config["data"]})
    if results.has(key):
        write_page(page, results.lines())
        console.print(f"{os.path.relpath(page)} has this run already")
        return
    begun, cpu_begun = time.monotonic(), time.process_time()
    line = _learned(said, config, folder, evaluation)
    spent = {"seconds": round(time.monotonic() - begun, 1), "cpu_seconds": round(time.process_time() - cpu_begun, 1)}
    results.add({"key": key, "page": evaluation.page, "settings": dict(flat(settings)), **line, **spent})
    write_page(page, results.lines())
    found = ", ".join(f"{name} {figures['auc']:.4f}" for name, figures in line["judged"].items())
    console.print(f"{said.data.name}, seed {said.seed}: AUC {found}; {os.path.relpath(page)}")


def _settings(config: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """What tells one run of a page from another."""
    judged = asdict(evaluation)
    told = {name: config.get(name) for name in _SECTIONS}
    return {
        "data": config["data"]["name"],
        "seed": config["seed"],
        "limit": config["replay"]["limit"],
        **told,
        "evaluation": {name: judged[name] for name in ("last", "syncs", "lost_shard")},
    }


def _learned(said: OnlineConfig, config: Mapping[str, Any], folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """The line's figures."""
    batches, features = _recorded(said, folder, evaluation)
    recommender = Recommender(build_blueprint(config, features))
    num_examples = sum(batch.num_examples for batch in batches)
    store = LocalRows(recommender.groups)
    trainer = Trainer(recommender, store)
    trainer.start()
    predicted = rehearse(trainer, batches, num_examples, evaluation, lambda step: None)
    return {
        "data": said.data.name,
        "seed": said.seed,
        "judged": {name: figures_of(metrics) for name, metrics in predicted.items()},
        "examples": num_examples,
        **_sizes(recommender, store),
    }


def _sizes(recommender: Recommender, store: RowStore) -> dict[str, int]:
    """Rows with embeddings at the end, and what all tables take, training and as they are served."""
    num_rows = store.num_rows()
    wide = [name for name, group in store.groups.items() if name not in WHOLE and group.width > 1]
    tables = recommender.embeddings.sizes(num_rows).values()
    totals = {name: sum(int(str(table[name])) for table in tables) for name in ("training_bytes", "serving_bytes")}
    return {"rows": sum(num_rows[name] for name in wide), "store_bytes": store.nbytes, **totals}


def _recorded(
    said: OnlineConfig, folder: Path, evaluation: Evaluation
) -> tuple[Sequence[LabelledBatch], Sequence[Feature]]:
    """The stream in batches, and its features, with the sizes that preparing found."""
    size, limit = said.batch.max_examples, said.replay.limit
    if said.data.examples is not None:
        prepared = open_examples(said.data)
        batches = _plain_batches(prepared.folder, prepared.features, size)
        return batches[: None if limit is None else -(-limit // size)], prepared.features
    partitions = said.source.num_partitions
    path = kept_examples(said.data, said.join, partitions, limit, folder, evaluation.joined)
    return _joined_batches(path, said.data.features, size), said.data.features


# The runs of a sweep share a process: what one has read is there for the next.


@lru_cache(maxsize=1)
def _joined_batches(path: Path, features: tuple[Feature, ...], size: int) -> Sequence[LabelledBatch]:
    return list(batches_of(read_kept(path), features, size))


@lru_cache(maxsize=1)
def _plain_batches(folder: Path, features: tuple[Feature, ...], size: int) -> Sequence[LabelledBatch]:
    """All parts one after the other: they are in the order of their time, one example a second."""
    batches: list[LabelledBatch] = []
    seen = 0
    for split in SPLITS:
        for batch in ExampleFile(folder / f"{split}.parquet", features).batches(size):
            times_ms_B = 1000 * np.arange(seen, seen + batch.num_examples)
            batches.append(replace(batch, times_ms_B=times_ms_B))
            seen += batch.num_examples
    return batches
