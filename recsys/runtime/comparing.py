"""Runs of jobs.train side by side: each trained in the very same way, then measured; one that fails is a line too.

What a run is told, and what it learns from, is its key: a run whose line is there is not run again.
"""

import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from recsys.errors import ConfigError, DataError, RecsysError
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowStore
from recsys.runtime.own_map import full_recommender, served_bytes, wants_map, with_own_map
from recsys.runtime.parts import parts_of
from recsys.runtime.sections import TrainConfig
from recsys.runtime.settings import build_blueprint
from recsys.runtime.training import train
from recsys.tabular.prepared import open_examples
from recsys.training.comparison import Line, add_line, read_lines
from recsys.training.report import format_value
from recsys.training.stage import trained

IDS_A_LOOKUP = 1000
_LOOKUPS, _TURNS = 10, 5  # the best turn counts
_MANIFESTS = ("examples.json", "manifest.json")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to be: ``line`` says what it is, ``config`` is jobs.train's, composed and resolved."""

    line: Line
    config: Mapping[str, Any]


def planned(config: Mapping[str, Any], **told: Any) -> Run:
    """The run of a configuration, ``told`` being the fields of its line; DataError where its data is not prepared."""
    said = {"config": config, "data": _data_digest(Path(config["data"]["folder"]), config["data"]["name"])}
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    return Run(line=Line(key=key, **told), config=config)


def _data_digest(folder: Path, name: str) -> str:
    """What tells one prepared folder from another."""
    for manifest in _MANIFESTS:
        if (folder / manifest).is_file():
            return hashlib.sha256((folder / manifest).read_bytes()).hexdigest()
    raise DataError(f"{folder} holds no prepared data set; run: python -m jobs.prepare data={name}")


def compare(
    runs: Sequence[Run],
    *,
    folder: Path,
    results: Path,
    parallel: int,
    ray_address: str | None,
    say: Callable[[str], None],
) -> list[Line]:
    """Run what has no line in ``results`` yet, or one that failed; all its lines afterwards.

    ``parallel`` runs at once are tasks of a Ray; one after the other they are run in this process.
    """
    lines = read_lines(results)
    there = {line.key for line in lines if line.error is None}
    left = [run for run in {run.line.key: run for run in runs}.values() if run.line.key not in there]
    say(f"runs: {len(runs)}, there already: {len(runs) - len(left)}{_foreseen(left, lines)}")
    finished = _in_turn(left, folder) if parallel == 1 else _on_ray(left, folder, parallel, ray_address)
    start = time.monotonic()
    for number, line in enumerate(finished, 1):
        lines = add_line(results, line)
        seconds_left = (time.monotonic() - start) / number * (len(left) - number)
        say(f"{number} of {len(left)}: {_told(line)}; {format_value('seconds', round(seconds_left))} to the end")
    return lines


def _foreseen(left: Sequence[Run], lines: Sequence[Line]) -> str:
    """What the runs that are left will take, by those of their kind that are there."""
    sections = {run.line.section for run in left}
    seconds = [line.cpu_seconds for line in lines if line.cpu_seconds is not None and line.section in sections]
    if not left or not seconds:
        return ""
    return f"; the others take about {len(left) * float(np.mean(seconds)) / 3600:.2f} h of one core"


def _told(line: Line) -> str:
    asked = "" if line.compression is None else f" {line.compression:g}×"
    found = f"AUC {line.auc:.4f}, {line.serving_bytes:,} bytes, {line.cpu_seconds:.0f} s" if line.auc else line.error
    return f"{line.model} {line.table}{asked} seed {line.seed}: {found}"


# --- one run


def _in_turn(runs: Sequence[Run], folder: Path) -> Iterator[Line]:
    for run in runs:
        yield run_one(run, folder / run.line.key)


def _on_ray(runs: Sequence[Run], folder: Path, parallel: int, address: str | None) -> Iterator[Line]:
    """``parallel`` tasks at once; folders are shared with the nodes of a cluster. A task that died is a failed run."""
    import ray

    from recsys.runtime.cluster import ray_session

    with ray_session(address):
        task = ray.remote(num_cpus=1, max_retries=0)(_run_there)
        waiting: list[Run] = list(runs)
        under_way: dict[Any, Run] = {}
        while waiting or under_way:
            while waiting and len(under_way) < parallel:
                run = waiting.pop(0)
                under_way[task.remote(run, (folder / run.line.key).absolute(), Path.cwd())] = run
            (ended,), _ = ray.wait(list(under_way), num_returns=1)
            run = under_way.pop(ended)
            try:
                yield ray.get(ended)
            except ray.exceptions.RayError as error:
                yield replace(run.line, error=" ".join(str(error).split())[:300])


def _run_there(run: Run, folder: Path, place: Path) -> Line:
    """A run in another process, which finds data and maps where this one does."""
    os.chdir(place)
    torch.set_num_threads(1)
    return run_one(run, folder)


def run_one(run: Run, folder: Path) -> Line:
    """Train in ``folder``, anew where something was left there, and measure; what a mistake or a defect says is kept.

    Weights are removed afterwards; the configuration is what makes them again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        try:
            return _measured(run, folder, Console(file=log, width=120))
        except RecsysError as error:
            return replace(run.line, error=str(error))
        except Exception as error:
            log.write(traceback.format_exc())
            return replace(run.line, error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        finally:
            for left in (*folder.rglob("checkpoints"), *folder.rglob("best"), folder / "events"):
                shutil.rmtree(left, ignore_errors=True)


def _measured(run: Run, folder: Path, console: Console) -> Line:
    """The line of a run that is trained here."""
    settings = build(TrainConfig, run.config, "")
    if settings.is_in_order:
        raise ConfigError("runs are compared by their test part, which what is learned as it was recorded has not")
    prepared = None if settings.data.examples is None else open_examples(settings.data)
    blueprint = _blueprint(run, settings, None if prepared is None else prepared.features)
    (folder / "told.json").write_text(json.dumps(run.config, indent=2) + "\n", encoding="utf-8")
    parts, pace, begun = parts_of(settings, prepared, folder, console), Pace(), time.process_time()
    train(settings, blueprint, parts, folder, console, pace)
    cpu_seconds = time.process_time() - begun
    recommender, store = trained(folder)
    return replace(
        run.line,
        kind=recommender.blueprint.table["kind"],
        **_quality(folder),
        **_bytes(folder, recommender, store),
        full_bytes=served_bytes(full_recommender(blueprint)),
        examples_per_second=settings.batch.max_examples / pace.step_seconds,
        lookup_us=lookup_us(recommender, store, settings.seed),
        cpu_seconds=cpu_seconds,
    )


def _blueprint(run: Run, settings: TrainConfig, features: Any) -> Blueprint:
    """The blueprint, with a map made for it where its kind wants one and a size is asked for."""
    table = run.config["table"]
    if run.line.compression is None or not wants_map(table) or Path(str(table.get("map"))).is_file():
        return build_blueprint(run.config, features)
    full = {**run.config, "table": {"kind": "full", "embedding_dim": table["embedding_dim"]}}
    wanted = replace(build_blueprint(full, features), table=table)
    return with_own_map(wanted, settings.data, run.line.compression)


# --- what it found


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
        "serving_bytes": served_bytes(recommender, store.num_rows()),
        "map_bytes": sum(table.map_bytes("serving") for table in recommender.embeddings.tables.values()),
    }


@torch.no_grad()
def lookup_us(recommender: Recommender, store: RowStore, seed: int) -> float | None:
    """Microseconds of CPU for the vectors of 1,000 ids of the largest vocabulary, rows in this process.

    The best of some turns; None where no size is declared, or the table knows no id any more.
    """
    sized = [feature for feature in recommender.features if feature.kind != "number" and feature.size]
    if not sized:
        return None
    feature = max(sized, key=lambda feature: feature.size or 0)
    name = recommender.table_of(feature.name)
    ids_N = np.arange(feature.size or 0)
    known_N = recommender.embeddings.tables[name].known(feature.name, torch.from_numpy(ids_N))
    if known_N is not None:
        ids_N = ids_N[known_N.numpy()]
    if not len(ids_N):
        return None
    asked_N = np.random.default_rng(seed).choice(ids_N, IDS_A_LOOKUP)
    recommender.load_dense(store.pull(recommender.dense_keys))
    turns = []
    for _ in range(_TURNS):
        begun = time.process_time()
        for _ in range(_LOOKUPS):
            recommender.embeddings.embed(name, feature.name, asked_N, store)
        turns.append((time.process_time() - begun) / _LOOKUPS)
    return 1e6 * min(turns)
